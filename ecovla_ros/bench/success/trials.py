"""Which episodes an evaluation runs: every variant meets the same scenes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ecovla_ros.bench.success.environments import ENVIRONMENTS
from ecovla_ros.bench.variants import Variant, variants
from ecovla_ros.errors import ConfigError, unknown
from ecovla_ros.sim.tasks import find


@dataclass(frozen=True, order=True)
class Trial:
    """One episode to run: rows of one task, environment and seed differ in nothing but the variant."""

    method: str
    refresh: str
    """probe or dense for an adaptive method, else none."""
    ratio: float
    task: str
    environment: str
    seed: int

    @property
    def variant(self) -> Variant:
        """The way the policy runs."""
        return Variant(self.method, self.refresh, self.ratio)

    def overrides(self) -> dict[str, Any]:
        """Configuration changes that make a run this variant."""
        changes: dict[str, Any] = {"prune.method": self.method, "prune.ratio": self.ratio}
        return changes if self.refresh == "none" else {**changes, "prune.refresh": self.refresh}


def compared(methods: Sequence[str], refreshes: Sequence[str], ratios: Sequence[float]) -> list[Variant]:
    """Variants of the `methods` named: dense once, others at every ratio, adaptive ones with every refresh.

    Raises ConfigError for an unknown name, or one named twice.
    """
    found = [v for v in variants(methods, refreshes, ratios) if v.method in methods]
    if len(set(found)) != len(found) or not found or len(set(methods)) != len(methods):
        raise ConfigError("methods, refreshes and ratios must be named once each, and at least one method")
    return found


def trials(
    chosen: Sequence[Variant], tasks: Sequence[str], environments: Sequence[str], episodes: int, seed: int
) -> list[Trial]:
    """Every variant on the same `episodes` seeds of each task and environment, seed by seed. Raises ConfigError."""
    for name in environments:
        if name not in ENVIRONMENTS:
            raise ConfigError(unknown("environment", name, ENVIRONMENTS))
    if episodes < 1:
        raise ConfigError(f"{episodes} episodes; valid: 1 or more")
    return [
        Trial(v.method, v.refresh, v.ratio, find(t).name, e, seed + i)
        for i in range(episodes)
        for e in environments
        for t in tasks
        for v in chosen
    ]
