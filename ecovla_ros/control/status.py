"""What the guard says: its state, why, what it counted, and what must be sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ecovla_ros.types import Trajectory


@dataclass(frozen=True)
class GuardStatus:
    """What the guard does and why."""

    state: str
    """Name of a `states.State`."""
    reason: str
    """Why it is in this state."""
    refusal: str
    """Check and reason of the last refused chunk; empty since a chunk was accepted."""
    counters: Mapping[str, int]
    """Name of a check or watch -> how often it acted."""
    chunk_age_s: float
    """Age of the observation behind the trajectory in flight, s; NaN when no chunk is in flight."""
    chunk_stamp_ns: int
    """Stamp of that observation; 0 when no chunk is in flight."""
    stretch: float
    """Slowing of the chunk in flight; 1: at its own pace."""
    commands: int
    """Trajectories sent, stops included."""
    refusals: int
    """Chunks refused."""


@dataclass(frozen=True)
class Command:
    """What one tick gives."""

    trajectory: Trajectory | None
    """To be sent now, its times relative to `begin_ns`; None on most ticks."""
    gripper: float | None
    """To be sent now, 0 open .. 1 closed; None on most ticks."""
    status: GuardStatus
    begin_ns: int = 0
    """When the trajectory begins, ns, a little before now; 0: when it arrives."""
    apart_ns: int | None = None
    """What the controller's clock says more than the guard's, ns; None: it has the clock of this machine."""
