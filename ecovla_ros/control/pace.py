"""Velocity, acceleration, jerk and tool limits by uniform time-scaling: the whole chunk is slowed, so the path stays.

The curve that the controller will run is checked, from the commanded state it starts at to the rest it ends in. A
chunk that no pace brings within limits gives no trajectory.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ecovla_ros.control import playback, smooth
from ecovla_ros.control.curve import Motion, bounds
from ecovla_ros.control.limits import Limits
from ecovla_ros.control.tool import ToolLimits
from ecovla_ros.types import Floats, Trajectory

MAX_STRETCH = 8.0
"""A chunk that must be slowed by more is not a motion for this arm (the slowing by a share not counted)."""
ENTER_S = 0.5
"""Time in which an arm slows down to a velocity limit that has become lower, s."""
ROUNDS = 8
"""Paces that are tried."""
BEYOND, LEAST = 1.02, 1.05
"""The next pace is slower than asked for by the first factor, and by the second at least: a pace that just misses again
costs more time than the two per cent do."""
ENOUGH, FAR = 2, 1.4
"""After so many entries the others are not tried at a pace that is too fast by this factor."""
TOLERANCE = 1e-9
"""Share (velocity, acceleration) and rad by which rounding may exceed a limit."""
JERK_TOLERANCE = 1e-4
"""Share by which rounding may exceed the jerk limit: a position error of 1e-16 rad over a short knot is so much."""
TIMING = 0.9
"""Share of the acceleration limit that is planned with: a controller that starts late must catch up."""
STOP_JERK = 5.0
"""A stop may have so many times the jerk of a motion: it must be short, or a chunk would have to end too early."""
SOFTER = (1.0, 0.7, 0.5)
"""Shares of the braking with which a stop is tried: an arm that speeds up at its velocity limit must brake late."""


@dataclass(frozen=True)
class Envelope:
    """What a curve must stay within: limits at this moment, arrays (7,)."""

    lower: Floats
    upper: Floats
    velocity: Floats
    acceleration: Floats
    jerk: Floats
    entry_velocity: Floats
    """For segments that end within `ENTER_S`: an arm that is faster than it may be from now on must first slow down."""

    def excess(self, trajectory: Trajectory, following: int, start: Motion) -> Excess:
        """By how much the curve from `start` must be slowed to stay within, and whether it leaves the positions.

        Its first `following` segments follow a path; the others come to rest, and may have `STOP_JERK` times the jerk.
        """
        reached = bounds(trajectory, start)
        early = (trajectory.times_s <= ENTER_S)[:, None]
        jerk = max(
            (reached.jerk[:following] / self.jerk).max(initial=0.0),
            (reached.jerk[following:] / self.jerk).max(initial=0.0) / STOP_JERK,
        )
        inside = (reached.lower >= self.lower - TOLERANCE) & (reached.upper <= self.upper + TOLERANCE)
        return Excess(
            float((reached.velocity / np.where(early, self.entry_velocity, self.velocity)).max()),
            float(np.sqrt((reached.acceleration / self.acceleration).max())),
            float(np.cbrt(jerk)),
            inside=bool(inside.all()),
        )


@dataclass(frozen=True)
class Excess:
    """Slowing that brings a curve within limits, 1 or less when it is: time t becomes excess * t."""

    velocity: float
    acceleration: float
    jerk: float
    tool_speed: float = 0.0
    inside: bool = True
    """Whether the joint positions are within limits."""
    boxed: bool = True
    """Whether the tool stays in its box."""

    @property
    def slowing(self) -> float:
        """Factor by which to slow next; a little where only the positions are left, as its overshoot shrinks."""
        outside = 1.0 if self.inside and self.boxed else 1.25
        return max(self.velocity, self.acceleration, self.jerk, self.tool_speed, outside)

    @property
    def causes(self) -> set[str]:
        """Names of the checks that are exceeded."""
        over = {
            "velocity": self.velocity > 1.0,
            "acceleration": self.acceleration > 1.0,
            "jerk": self.jerk > 1.0 + JERK_TOLERANCE,
            "tool_speed": self.tool_speed > 1.0,
            "position": not self.inside,
            "box": not self.boxed,
        }
        return {name for name, exceeded in over.items() if exceeded}

    @property
    def fits(self) -> bool:
        """Whether the curve may be sent."""
        within = max(self.velocity, self.acceleration, self.tool_speed) <= 1.0 + TOLERANCE
        return self.inside and self.boxed and within and self.jerk <= 1.0 + JERK_TOLERANCE


UNABLE = Excess(1.0, 1.25, 1.0)
"""Stands for a path that cannot come to rest within the horizon."""


@dataclass(frozen=True)
class Fitted:
    """What pacing found."""

    trajectory: Trajectory | None
    """Within the envelope; None when no pace is."""
    stretch: float
    """Slowing of the trajectory, or where the search ended."""
    causes: frozenset[str]
    """What did not fit at the chunk's own pace: velocity, acceleration, jerk, tool_speed, position, box."""


def envelope(limits: Limits, share: float, margin_rad: float, start: Motion, timing: float = TIMING) -> Envelope:
    """Limits with `share` of the velocity, `timing` of the acceleration, and `margin_rad` kept from the ends.

    An arm that already is within the margin, or faster than its share, may stay and come back, but not go further.
    """
    position, velocity, acceleration = start
    present = np.abs(velocity) + acceleration**2 / (2.0 * limits.jerk)
    return Envelope(
        np.minimum(limits.lower + margin_rad, np.maximum(position, limits.lower)),
        np.maximum(limits.upper - margin_rad, np.minimum(position, limits.upper)),
        limits.velocity * share,
        limits.acceleration * timing,
        limits.jerk,
        np.clip(present, limits.velocity * share, limits.velocity),
    )


@dataclass(frozen=True)
class Course:
    """What one chunk's search is about."""

    route: playback.Path
    within: Envelope
    tool: ToolLimits
    most: float
    """Largest slowing."""

    def judge(self, trajectory: Trajectory, following: int, start: Motion) -> Excess:
        """The curve against every limit; the tool's are asked only when the joints' are kept."""
        excess = self.within.excess(trajectory, following, start)
        if not excess.fits:
            return excess
        speed, boxed = self.tool.measure(trajectory, start)
        return replace(excess, tool_speed=speed, boxed=boxed)


def fit(course: Course, now_ns: int, start: Motion, horizon_s: float) -> Fitted:
    """Trajectory along the route from the commanded state `start`, slowed as little as possible.

    Where the motion in flight cannot be turned into the path within limits, it is stopped first.
    """
    pace = playback.Pace(
        1.0, horizon_s, playback.BRAKE * course.within.acceleration, playback.BRAKE * STOP_JERK * course.within.jerk
    )
    found = _search(course, now_ns, start, pace)
    if found.trajectory is not None or not (start[1].any() or start[2].any()):
        return found
    halt = smooth.stop(start, pace.braking, pace.jerk, smooth.ENTRY_S)
    stopped_s, still = float(halt.times_s[-1]), np.zeros_like(start[1])
    left = replace(pace, horizon_s=horizon_s - stopped_s)
    if left.horizon_s <= playback.REST_S or not course.judge(halt, 0, start).fits:
        return found
    then = _search(course, now_ns + round(stopped_s * playback.NS), (halt.positions[-1], still, still), left)
    if then.trajectory is None:
        return found
    return Fitted(playback.after(halt, then.trajectory), then.stretch, found.causes)


def _search(course: Course, now_ns: int, start: Motion, pace: playback.Pace) -> Fitted:
    """At the first pace every entry is tried, then the best of them at the pace that it asks for."""
    speed = float((course.route.speed(now_ns, pace.horizon_s / 2.0) / course.within.velocity).max())
    stretch = max(0.8 * speed, 1.0)
    causes = {"velocity"} if stretch > 1.0 else set()
    entries: tuple[playback.Entry, ...] = playback.ENTRIES
    for _ in range(ROUNDS):
        if stretch > course.most:
            break
        best, chosen = UNABLE, entries
        for i, entry in enumerate(entries):
            played = playback.play(course.route, now_ns, start, entry, replace(pace, stretch=stretch))
            if played is None:
                continue
            trajectory, following = played
            excess = course.judge(trajectory, following, start)
            if excess.fits:
                return Fitted(trajectory, stretch, frozenset(causes))
            if len(chosen) > 1 or excess.slowing < best.slowing:
                best, chosen = excess, (entry,)
            if i == ENOUGH - 1 and best.slowing > FAR:
                chosen = entries
                break
        entries = chosen
        causes |= best.causes
        stretch *= min(max(BEYOND * best.slowing, LEAST), 2.0)
    return Fitted(None, stretch, frozenset(causes))


def smooth_stop(state: Motion, limits: Limits) -> Trajectory | None:
    """Stop from `state`, or None where its curve would leave the limits: then the flight must end by itself."""
    within = envelope(limits, 1.0, 0.0, state, 1.0)
    for share in SOFTER:
        part = share * playback.BRAKE
        jerk = playback.BRAKE * STOP_JERK * limits.jerk
        trajectory = smooth.stop(state, part * limits.acceleration, jerk, smooth.ENTRY_S)
        if within.excess(trajectory, 0, state).fits:
            return trajectory
    return None
