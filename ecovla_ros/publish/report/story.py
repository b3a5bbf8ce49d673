"""What a report shows, whatever it was read from: columns over time. Times are seconds since the first frame."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

STAGES = ("decode", "encode", "trigger", "join", "prefill", "act", "post")
"""Stages of one policy frame, in their order; `<stage>_ms` in a latency report."""
NUMBERS = (
    *(f"{stage}_ms" for stage in STAGES), "policy_ms", "exposed_ms", "refresh_ms", "camera_to_chunk_ms", "deadline_ms",
    "similarity", "threshold", "ratio", "pattern_age", "pattern_id", "swaps", "frames_dropped",
)  # fmt: skip
FLAGS = ("triggered", "deadline_missed")
TEXTS = ("method", "kind", "fault")


@dataclass(frozen=True)
class SentTrajectory:
    """One trajectory sent to the arm."""

    t: float
    """When it was sent, s."""
    times: np.ndarray
    """After `t`, s, (N,)."""
    positions: np.ndarray
    """rad, (N, 7)."""
    velocities: np.ndarray
    """rad/s, (N, 7); NaN where the trajectory names none."""


@dataclass(frozen=True)
class GuardChange:
    """The guard said something new."""

    t: float
    state: str
    reason: str


@dataclass
class Story:
    """Columns are as long as there are frames; what was not recorded is NaN, False or empty."""

    title: str
    columns: dict[str, np.ndarray] = field(default_factory=lambda: columns(()))
    """"t" (s), `NUMBERS`, `FLAGS` and `TEXTS`, each (F,)."""
    changes: list[GuardChange] = field(default_factory=list)
    commands: list[SentTrajectory] = field(default_factory=list)
    measured_t: np.ndarray = field(default_factory=lambda: np.zeros(0))
    measured: np.ndarray = field(default_factory=lambda: np.zeros((0, 7)))
    """Joint positions, rad, (M, 7)."""
    pictures: dict[str, list[tuple[float, bytes]]] = field(default_factory=dict)
    """Topic -> (s, JPEG)."""
    instructions: list[tuple[float, str]] = field(default_factory=list)
    held: list[tuple[float, str]] = field(default_factory=list)
    """When and why there was no chunk."""
    notes: list[str] = field(default_factory=list)
    """What the reader must know: damage, what was not recorded."""
    damage: str = ""
    """What is wrong with the source, of which only a part was read; empty: nothing."""
    facts: dict[str, str] = field(default_factory=dict)
    """Machine, versions, settings."""
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Heading -> rows, for documents that hold no frames."""

    @property
    def frames(self) -> int:
        """Number of policy frames F."""
        return len(self.columns["t"])

    @property
    def seconds(self) -> float:
        """From the first to the last thing that was recorded, s."""
        ends = [float(self.columns["t"][-1])] if self.frames else []
        ends += [float(self.measured_t[-1])] if len(self.measured_t) else []
        ends += [self.changes[-1].t] if self.changes else []
        return max(ends, default=0.0)


def columns(frames: Iterable[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Rows with the keys of `Story.columns`, any of them missing, to columns."""
    rows = list(frames)
    found: dict[str, np.ndarray] = {}
    for name in ("t", *NUMBERS):
        found[name] = np.array([np.nan if row.get(name) is None else float(row[name]) for row in rows], float)
    for name in FLAGS:
        found[name] = np.array([bool(row.get(name)) for row in rows], bool)
    for name in TEXTS:
        found[name] = np.array([str(row.get(name) or "") for row in rows], dtype=object)
    return found
