"""What the guard says: its state, why, what it counted, and what must be sent."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from ecovla_ros.types import Trajectory


class State(str, enum.Enum):
    """States of the guard."""

    DISARMED = "DISARMED"
    """Silent. Left by enable."""
    ARMED = "ARMED"
    """Enabled; the velocity limit ramps up with the first motion."""
    RUNNING = "RUNNING"
    """Chunks move the arm."""
    DEGRADED = "DEGRADED"
    """Chunks move the arm, slower: they come late."""
    HOLD = "HOLD"
    """At rest: an input is missing (goes on by itself when it is back) or hold was called (goes on by enable)."""
    LATCHED = "LATCHED"
    """At rest: what must not happen has happened. Left by reset, then enable."""


@dataclass(frozen=True)
class GuardStatus:
    """What the guard does and why."""

    state: str
    """Name of a `State`."""
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
    """To be sent now, its times relative to now; None on most ticks."""
    gripper: float | None
    """To be sent now, 0 open .. 1 closed; None on most ticks."""
    status: GuardStatus
