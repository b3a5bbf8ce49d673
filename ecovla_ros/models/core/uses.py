"""How a plan restricts the blocks of a model to their first channels and heads."""

from __future__ import annotations

from torch import Tensor

from ecovla_ros.models.base import Plan
from ecovla_ros.models.core.layers import Use


def uses(name: str, count: int, plan: Plan, call: int = 0, calls: int = 1, valid: Tensor | None = None) -> list[Use]:
    """How each of the `count` blocks of `name` ("lm" or "expert") runs in one call of `calls` under a plan."""
    return [
        Use(plan.use(f"{name}.{i}.heads", call, calls), plan.use(f"{name}.{i}.mlp", call, calls, calls), valid)
        for i in range(count)
    ]
