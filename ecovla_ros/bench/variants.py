"""What is compared, and on which episodes: every variant meets the same scenes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ecovla_ros import config
from ecovla_ros.bench.environments import ENVIRONMENTS
from ecovla_ros.errors import ConfigError, unknown
from ecovla_ros.sim.tasks import find

NO_REFRESH = "none"
"""Refresh of a method whose pattern does not follow the scene."""


@dataclass(frozen=True, order=True)
class Variant:
    """One way to run the policy."""

    method: str
    refresh: str
    """probe or dense for an adaptive method, else none."""
    ratio: float

    def overrides(self) -> dict[str, Any]:
        """Configuration changes that make a run this variant."""
        changes: dict[str, Any] = {"prune.method": self.method, "prune.ratio": self.ratio}
        if self.refresh != NO_REFRESH:
            changes["prune.refresh"] = self.refresh
        return changes

    def __str__(self) -> str:
        refresh = "" if self.refresh == NO_REFRESH else f" ({self.refresh})"
        return f"{self.method}{refresh}" if self.method == "dense" else f"{self.method}{refresh} {100 * self.ratio:.4g} %"


@dataclass(frozen=True, order=True)
class Trial:
    """One episode to run: rows of one task, environment and seed differ in nothing but the variant."""

    method: str
    refresh: str
    ratio: float
    task: str
    environment: str
    seed: int

    @property
    def variant(self) -> Variant:
        """The way the policy runs."""
        return Variant(self.method, self.refresh, self.ratio)


def variants(methods: Sequence[str], refreshes: Sequence[str], ratios: Sequence[float]) -> list[Variant]:
    """Dense once, other methods at every ratio, adaptive ones with every refresh. Raises ConfigError."""
    for name in methods:
        if name not in config.METHODS:
            raise ConfigError(unknown("method", name, config.METHODS))
    for name in refreshes:
        if name not in config.REFRESHES:
            raise ConfigError(unknown("refresh", name, config.REFRESHES))
    out = []
    for method in methods:
        kinds = tuple(refreshes) if method in config.ADAPTIVE else (NO_REFRESH,)
        out += [Variant(method, kind, ratio) for kind in kinds for ratio in (ratios if method != "dense" else (0.0,))]
    if len(set(out)) != len(out) or not out:
        raise ConfigError("methods, refreshes and ratios must be named once each, and at least one method")
    return out


def trials(
    compared: Sequence[Variant], tasks: Sequence[str], environments: Sequence[str], episodes: int, seed: int
) -> list[Trial]:
    """Every variant on the same `episodes` seeds of each task and environment. Raises ConfigError."""
    for name in environments:
        if name not in ENVIRONMENTS:
            raise ConfigError(unknown("environment", name, ENVIRONMENTS))
    if episodes < 1:
        raise ConfigError(f"{episodes} episodes; valid: 1 or more")
    return [
        Trial(v.method, v.refresh, v.ratio, find(t).name, e, seed + i)
        for i in range(episodes) for e in environments for t in tasks for v in compared
    ]
