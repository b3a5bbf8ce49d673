"""Multiply-accumulates that really ran, counted from the shapes of the products as they are dispatched.

What a kernel of our own computes is dispatched as no product: within a count the reference runs in its place.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from ecovla_ros.kernels.available import reference_alone
from ecovla_ros.models.base import Plan, Policy
from ecovla_ros.types import Observation

SCOPES = ("prefill", "act", "policy")


def _cpu_attention(query: Any, key: Any, value: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


ATTENTION = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _cpu_attention}
"""The CPU's fused attention, which torch's counter does not know."""


@reference_alone()
def count(policy: Policy, obs: Observation, plan: Plan, noise: torch.Tensor, reuse: bool = False) -> dict[str, int]:
    """Multiply-accumulates of one frame by scope: prefill, act, and the policy call with the vision tower.

    `reuse`: of a frame that is like the one before it, so that what may keep K and V does (models/core/vla_cache.py).
    """
    if reuse:
        policy.prefill(replace(policy.encode(obs), reuse=None), plan)
    with _counter() as encode:
        seen = policy.encode(obs)
    seen = seen if reuse else replace(seen, reuse=None)
    with _counter() as prefill:
        handoff = policy.prefill(seen, plan)
    with _counter() as act:
        policy.act(seen, handoff, plan, noise)
    parts = [c.get_total_flops() // 2 for c in (encode, prefill, act)]
    return dict(zip(SCOPES, (parts[1], parts[2], sum(parts))))


def _counter() -> FlopCounterMode:
    return FlopCounterMode(display=False, custom_mapping=ATTENTION)
