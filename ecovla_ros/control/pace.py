"""Velocity and acceleration limits by uniform time-scaling: the whole chunk is slowed, so the path stays.

The curve that the controller will run is checked, from the commanded state it starts at to the rest it ends in. A
chunk that no pace brings within limits gives no trajectory.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ecovla_ros.control import playback
from ecovla_ros.control.curve import Bounds, State, bounds
from ecovla_ros.control.limits import Limits
from ecovla_ros.control.trajectory import TrajectoryController
from ecovla_ros.types import Trajectory

ENTRIES = ((False, 0.4), (True, 0.4), (True, 0.6))
"""Ways to enter the path that are tried before a chunk is slowed: (speed matched, turning time in s)."""
MAX_STRETCH = 8.0
"""A chunk that must be slowed by more is not a motion for this arm (the ramp's slowing not counted)."""
ROUNDS = 24
TOLERANCE = 1e-9


@dataclass(frozen=True)
class Envelope:
    """What a curve must stay within: limits at this moment, arrays (7,)."""

    lower: np.ndarray
    upper: np.ndarray
    velocity: np.ndarray
    acceleration: np.ndarray

    def excess(self, reached: Bounds) -> Excess:
        """By how much a curve must be slowed to stay within, and whether it leaves the positions."""
        inside = (reached.lower >= self.lower - TOLERANCE) & (reached.upper <= self.upper + TOLERANCE)
        return Excess(
            float((reached.velocity / self.velocity).max()),
            float(np.sqrt((reached.acceleration / self.acceleration).max())),
            bool(inside.all()),
        )


@dataclass(frozen=True)
class Excess:
    """Slowing that brings a curve within limits, 1 or less when it is: time t becomes excess * t."""

    velocity: float
    acceleration: float
    inside: bool
    """Whether the positions are within limits."""

    @property
    def slowing(self) -> float:
        """Factor by which to slow next; a little where only the positions are left, as its overshoot shrinks."""
        return max(self.velocity, self.acceleration, 1.0 if self.inside else 1.25)

    @property
    def fits(self) -> bool:
        return self.inside and max(self.velocity, self.acceleration) <= 1.0 + TOLERANCE


UNABLE = Excess(1.25, 1.25, False)
"""Stands for a path that cannot come to rest within the horizon."""


@dataclass(frozen=True)
class Fitted:
    """What pacing found."""

    trajectory: Trajectory | None
    """Within the envelope; None when no pace is."""
    stretch: float
    """Slowing of the trajectory, or where the search ended."""
    asked: Excess
    """Excess of the chunk at its own pace, best hand-over."""


def envelope(limits: Limits, share: float, margin_rad: float, position: np.ndarray) -> Envelope:
    """Limits with `share` of the velocity and `margin_rad` kept from the ends.

    An arm that already stands within the margin (`position`, (7,)) may stay and come back, but not go further.
    """
    return Envelope(
        np.minimum(limits.lower + margin_rad, np.maximum(position, limits.lower)),
        np.maximum(limits.upper - margin_rad, np.minimum(position, limits.upper)),
        limits.velocity * share,
        limits.acceleration,
    )


def fit(route: playback.Path, now_ns: int, model: TrajectoryController, within: Envelope, options: Options) -> Fitted:
    """Trajectory along `route` from what `model` commands at `now_ns`, slowed as little as possible.

    At each pace the hand-overs are tried from short to long; the next pace is the one the best of them asks for.
    """
    start = model.sample(now_ns)
    stretch, asked = 1.0, None
    for _ in range(ROUNDS):
        best = UNABLE
        for i, (matched, turn_s) in enumerate(ENTRIES):
            pace = playback.Pace(stretch, matched, turn_s, options.horizon_s, playback.BRAKE * within.acceleration)
            trajectory = playback.play(route, now_ns, start, pace)
            if trajectory is None:
                continue
            excess = within.excess(bounds(trajectory, start))
            if excess.fits:
                return Fitted(trajectory, stretch, asked or excess)
            best = excess if i == 0 or excess.slowing < best.slowing else best
        asked = asked or best
        stretch *= min(max(best.slowing, 1.01), 2.0)
        if stretch > options.most:
            break
    return Fitted(None, stretch, asked or UNABLE)


@dataclass(frozen=True)
class Options:
    """Bounds of the search."""

    horizon_s: float
    """Longest trajectory, s."""
    most: float = MAX_STRETCH
    """Largest stretch."""


def smooth_stop(state: State, limits: Limits) -> Trajectory | None:
    """Stop from `state`, or None where its curve would pass a position limit: then the flight must end by itself."""
    trajectory = playback.stop(state, playback.BRAKE * limits.acceleration)
    within = envelope(limits, 1.0, 0.0, state[0])
    return trajectory if within.excess(bounds(trajectory, state)).fits else None
