"""Velocity and acceleration limits by uniform time-scaling: the whole chunk is slowed, so the path stays.

The curve that the controller will run is checked, from the commanded state it starts at to the rest it ends in. A
chunk that no pace brings within limits gives no trajectory.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ecovla_ros.control import playback
from ecovla_ros.control.curve import Bounds, Motion, bounds
from ecovla_ros.control.limits import Limits
from ecovla_ros.types import Trajectory

MAX_STRETCH = 8.0
"""A chunk that must be slowed by more is not a motion for this arm (the ramp's slowing not counted)."""
ROUNDS = 8
"""Paces that are tried."""
TOLERANCE = 1e-9
"""Share (velocity, acceleration) and rad by which rounding may exceed a limit."""


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
    def causes(self) -> set[str]:
        """Names of what is exceeded."""
        over = {"velocity": self.velocity > 1.0, "acceleration": self.acceleration > 1.0, "position": not self.inside}
        return {name for name, exceeded in over.items() if exceeded}

    @property
    def fits(self) -> bool:
        """Whether the curve may be sent."""
        return self.inside and max(self.velocity, self.acceleration) <= 1.0 + TOLERANCE


UNABLE = Excess(1.0, 1.25, True)
"""Stands for a path that cannot come to rest within the horizon."""


@dataclass(frozen=True)
class Fitted:
    """What pacing found."""

    trajectory: Trajectory | None
    """Within the envelope; None when no pace is."""
    stretch: float
    """Slowing of the trajectory, or where the search ended."""
    causes: frozenset[str]
    """What did not fit at the chunk's own pace: velocity, acceleration, position."""


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


def fit(route: playback.Path, now_ns: int, start: Motion, within: Envelope, horizon_s: float, most: float) -> Fitted:
    """Trajectory along `route` from the commanded state `start`, slowed as little as possible, by `most` at most.

    Where the motion in flight cannot be turned into the path within limits, it is stopped first.
    """
    braking = playback.BRAKE * within.acceleration
    found = _search(route, now_ns, start, within, playback.Pace(1.0, horizon_s, braking), most)
    if found.trajectory is not None or not start[1].any():
        return found
    halt = playback.stop(start, braking)
    stopped_s, rest = float(halt.times_s[-1]), (halt.positions[-1], np.zeros_like(start[1]))
    pace = playback.Pace(1.0, horizon_s - stopped_s, braking)
    if pace.horizon_s <= playback.REST_S or not within.excess(bounds(halt, start)).fits:
        return found
    then = _search(route, now_ns + round(stopped_s * playback.NS), rest, within, pace, most)
    if then.trajectory is None:
        return found
    return Fitted(_after(halt, then.trajectory), then.stretch, found.causes)


def _search(
    route: playback.Path, now_ns: int, start: Motion, within: Envelope, pace: playback.Pace, most: float
) -> Fitted:
    """At each pace every entry is tried; the next pace is the one that the best of them asks for."""
    speed = float((route.speed(now_ns, pace.horizon_s / 2.0) / within.velocity).max())
    stretch = max(0.8 * speed, 1.0)
    causes = {"velocity"} if stretch > 1.0 else set()
    for _ in range(ROUNDS):
        if stretch > most:
            break
        best = UNABLE
        for i, entry in enumerate(playback.ENTRIES):
            trajectory = playback.play(route, now_ns, start, entry, replace(pace, stretch=stretch))
            if trajectory is None:
                continue
            excess = within.excess(bounds(trajectory, start))
            if excess.fits:
                return Fitted(trajectory, stretch, frozenset(causes))
            best = excess if i == 0 or excess.slowing < best.slowing else best
        causes |= best.causes
        stretch *= min(max(best.slowing, 1.01), 2.0)
    return Fitted(None, stretch, frozenset(causes))


def _after(first: Trajectory, then: Trajectory) -> Trajectory:
    """Both in a row."""
    assert first.velocities is not None and then.velocities is not None
    return Trajectory(
        np.concatenate((first.times_s, first.times_s[-1] + then.times_s)),
        np.vstack((first.positions, then.positions)),
        np.vstack((first.velocities, then.velocities)),
    )


def smooth_stop(state: Motion, limits: Limits) -> Trajectory | None:
    """Stop from `state`, or None where its curve would pass a position limit: then the flight must end by itself."""
    trajectory = playback.stop(state, playback.BRAKE * limits.acceleration)
    within = envelope(limits, 1.0, 0.0, state[0])
    return trajectory if within.excess(bounds(trajectory, state)).fits else None
