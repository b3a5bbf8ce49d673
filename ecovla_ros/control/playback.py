"""From a chunk to the trajectory still due: aligned by the observation's stamp, handed over smoothly, ending at rest.

The rows of a chunk are the control points of a uniform cubic B-spline, the `Path`. At a row's due time it passes
through (1, 4, 1) / 6 of the row and its neighbours with the central difference of the rows as velocity, so it is twice
continuously differentiable, stays in the hull of the rows, and its acceleration is the rows' second difference: 1 mrad
of noise in the rows makes 2.4 times less acceleration than a cubic through them. It leaves a bend by a h^2 / 6 (3 mrad
at 2 rad/s^2 and 10 Hz) and a straight line not at all. (de Boor, A Practical Guide to Splines, ch. IX-XI.)

What is sent is the nearest motion to the joined path whose acceleration has no step, from the commanded state to rest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ecovla_ros.control import smooth
from ecovla_ros.control.curve import Motion, rates
from ecovla_ros.types import ActionChunk, Floats, Trajectory

NS = 1_000_000_000
ENTRY_S = 0.06
"""Earliest first knot, s. A controller that starts d seconds late sees a step of velocity * d over this time."""
MERGE_S = 0.4
"""Chunk time over which the distance between the commanded position and the path is given up, s."""
MATCH = 0.7
"""Share of the braking deceleration that is used to reach the path's pace."""
KNOT_S = 0.125
"""Widest spacing of knots, s: a slowed chunk gets knots between its rows."""
FINE_S = 0.02
"""Resolution of the instant at which the end starts to brake, s."""
BEND_S = 0.01
"""Half the time over which the path's acceleration is taken, s."""
END_TRIES = 3
"""Instants that are tried: the motion sent brakes a little longer than the path."""
BRAKE = 0.9
"""Share of the acceleration and jerk limits used to come to rest; the rest is for the controller's own timing."""
REST_S = 2.0 * smooth.REST_S
"""Shortest time in which a motion is brought to rest, s."""

_BASIS = np.array([[1.0, 4.0, 1.0, 0.0], [-3.0, 0.0, 3.0, 0.0], [3.0, -6.0, 3.0, 0.0], [-1.0, 3.0, -3.0, 1.0]]) / 6.0
"""Row r: weights of four neighbouring control points in the coefficient of s^r. Uniform cubic B-spline."""


_EXTEND = {
    1: np.array([[1.0], [1.0]]),
    2: np.array([[3.0, -2.0], [2.0, -1.0]]),
    3: np.array([[6.0, -8.0, 3.0], [3.0, -3.0, 1.0]]),
}
"""Rows -2 and -1 from the first one, two or three rows: constant, linear or quadratic continuation."""


@dataclass(frozen=True)
class Path:
    """A chunk's joint rows as a curve over the row coordinate x: row i is due at x = i, the observation at x = -1."""

    stamp_ns: int
    period_s: float
    cells: Floats
    """Cubic coefficients (H + 1, 4, 7), lowest power first; cell c runs from x = c - 1 to x = c."""
    gripper: Floats
    """Gripper targets (H,), 0 open .. 1 closed."""

    @property
    def rows(self) -> int:
        """Number of rows H of the chunk."""
        return len(self.cells) - 1

    def coordinate(self, now_ns: int) -> float:
        """Row coordinate x of the instant `now_ns`."""
        return (now_ns - self.stamp_ns) / NS / self.period_s - 1.0

    def speed(self, now_ns: int, horizon_s: float) -> Floats:
        """Largest speed (7,), rad/s, at the rows from row 1 on that are due within `horizon_s` of `now_ns`."""
        first = int(min(max(self.coordinate(now_ns), 0.0), self.rows - 1.0)) + 1
        last = first + max(int(horizon_s / self.period_s), 1)
        fastest: Floats = np.abs(self.cells[first + 1 : last + 1, 1]).max(axis=0, initial=0.0)
        return fastest / self.period_s

    def at(self, x: Floats) -> tuple[Floats, Floats]:
        """Position (N, 7), rad, and derivative by x (N, 7), rad per row, at row coordinates `x` (N,).

        Defined from the observation (-1) to one row after the last (H), where it rests; outside, its ends are held.
        """
        y = np.clip(x + 1.0, 0.0, len(self.cells))
        cell = np.minimum(y.astype(int), self.rows)
        s = (y - cell)[:, None]
        a, b, c, d = self.cells[cell].transpose(1, 0, 2)  # each (N, 7)
        return a + s * (b + s * (c + s * d)), b + s * (2.0 * c + 3.0 * s * d)


def path(chunk: ActionChunk, rows: Floats) -> Path:
    """Path of a chunk whose checked (unwrapped, clamped) joint rows are `rows` (H, 7).

    Control points are two rows before the first, the rows, and the last row twice more.
    """
    head = rows[:3]
    control = np.vstack((_EXTEND[len(head)] @ head, rows, rows[-1], rows[-1]))
    windows = np.stack([control[i : len(control) - 3 + i] for i in range(4)], axis=1)  # (H + 1, 4, 7)
    return Path(chunk.stamp_ns, chunk.period_s, _BASIS @ windows, np.asarray(chunk.gripper, float))


def due(chunk: ActionChunk, now_ns: int) -> int:
    """Index of the first row whose due time lies after `now_ns`; `chunk.horizon` when all are past."""
    elapsed = (now_ns - chunk.stamp_ns) / NS / chunk.period_s
    return int(min(max(math.floor(elapsed + 1e-9), 0), len(chunk.joints)))


@dataclass(frozen=True)
class Entry:
    """How a path is joined from the commanded state: one of `ENTRIES`."""

    merged: bool
    """Whether the path is moved to begin at the commanded position, or its rows are played as they are."""
    matched: bool
    """Whether it begins at the speed that the arm has along it, or at its own."""
    turn_s: float
    """Time over which the rest of the difference in velocity is given up, s."""
    give: float
    """How much of the path is given for less jerk, rad / (rad/s^3); see `smooth.nearest`."""


FIRM, SOFT = 1e-4, 1e-3
ENTRIES = (
    Entry(False, False, 0.4, FIRM), Entry(True, False, 0.4, FIRM), Entry(True, True, 0.4, SOFT),
    Entry(True, True, 0.6, SOFT),
)  # fmt: skip
"""The first is for a path that agrees with the flight, the last for one that turns."""


@dataclass(frozen=True)
class Pace:
    """How fast a path is played."""

    stretch: float
    """At least 1: the path takes this many times as long as the chunk asked for."""
    horizon_s: float
    """Longest trajectory, s."""
    braking: Floats
    """Deceleration with which speed is given up, rad/s^2, (7,)."""
    jerk: Floats
    """Jerk with which braking is built up, rad/s^3, (7,)."""


def play(route: Path, now_ns: int, start: Motion, entry: Entry, pace: Pace) -> tuple[Trajectory, int] | None:
    """Trajectory from `now_ns` along the rows still due, and how many of its segments follow them.

    None where it cannot come to rest within the horizon.

    `start` is the commanded state of the trajectory in flight. The end brakes along the tangent, as late as the
    horizon and the last row allow.
    """
    joined = _join(route, now_ns, start, entry, pace)
    first_s = min(ENTRY_S, pace.horizon_s / 4.0)
    if not entry.merged:  # before row 1 the path is a continuation of its rows backwards
        first_s = max(first_s, (1.0 - joined.begin) * joined.row_s)
    fine = np.arange(first_s, pace.horizon_s, FINE_S)
    if len(fine) < 2:
        return None
    x, rate, _, velocities = joined.at(fine)
    accelerations = np.gradient(velocities, FINE_S, axis=0)
    braking_s, _ = smooth.stop_times(velocities, accelerations, pace.braking, pace.jerk)
    ends = (fine + braking_s <= pace.horizon_s) & ((braking_s * rate / 2.0 <= route.rows - 1 - x) | (x >= route.rows))
    for last_s in fine[ends][: -1 - END_TRIES : -1]:
        times = _knots(joined, first_s, float(last_s))
        _, _, places, speeds = joined.at(np.concatenate((times, times - BEND_S, times + BEND_S)))
        n = len(times)
        bend = (speeds[2 * n :] - speeds[n : 2 * n]) / (2.0 * BEND_S)
        found = smooth.nearest(times, (places[:n], speeds[:n], bend), start, entry.give)
        tail = smooth.stop((found[0][-1], found[1][-1], found[2][-1]), pace.braking, pace.jerk)
        if times[-1] + tail.times_s[-1] <= pace.horizon_s:
            return after(Trajectory(times, found[0], found[1]), tail), len(times)
    return None


def after(first: Trajectory, then: Trajectory) -> Trajectory:
    """Both in a row, both with velocities."""
    return Trajectory(
        np.concatenate((first.times_s, first.times_s[-1] + then.times_s)),
        np.vstack((first.positions, then.positions)),
        np.vstack((rates(first), rates(then))),
    )


@dataclass(frozen=True)
class _Joined:
    """A path joined from a commanded state, as a function of the time after that."""

    route: Path
    begin: float
    """Row coordinate at time zero."""
    row_s: float
    """Time from row to row once the path is played evenly, s."""
    distance: Floats
    """What the path is moved by at its beginning, rad, (7,)."""
    first: float
    """Rate of the row coordinate at time zero, rows/s."""
    ramp_s: float
    """Time in which the rate becomes even, s."""
    off: Floats
    """Difference in velocity that is left at time zero, rad/s, (7,)."""
    turn_s: float

    def at(self, times: Floats) -> tuple[Floats, Floats, Floats, Floats]:
        """Row coordinate (N,), its rate (N,), position (N, 7) and velocity (N, 7) at `times` (N,)."""
        even, into = 1.0 / self.row_s, np.minimum(times / self.ramp_s, 1.0)
        x = self.begin + even * times + (self.first - even) * self.ramp_s * into * (1.0 - into / 2.0)
        rate = even + (self.first - even) * (1.0 - into)
        positions, slopes = _moved(self.route, self.begin, self.distance, x)
        left = np.maximum(1.0 - times / self.turn_s, 0.0)[:, None]
        positions = positions + times[:, None] * left**2 * self.off
        velocities = slopes * rate[:, None] + left * (left - 2.0 * times[:, None] / self.turn_s) * self.off
        return x, rate, positions, velocities


def _join(route: Path, now_ns: int, start: Motion, entry: Entry, pace: Pace) -> _Joined:
    """Motion along `route` that begins at `start`; where it is not merged, only its rows count.

    The distance between the commanded position and the path is given up over `MERGE_S` of the chunk's time, so that
    slowing the chunk slows this too; the velocity dv that is not the path's as dv t (1 - t / turn_s)^2.
    """
    begin, row_s = max(route.coordinate(now_ns), -1.0), route.period_s * pace.stretch
    even = 1.0 / row_s
    zero = np.zeros(len(start[0]))
    if not entry.merged:
        return _Joined(route, begin, row_s, zero, even, 1.0, zero, entry.turn_s)
    here = np.array([begin])
    distance = start[0] - route.at(here)[0][0]
    along = _moved(route, begin, distance, here)[1][0]
    first = even
    if entry.matched and along.any():
        first = min(max(float(along @ start[1] / (along @ along)), 0.0), 1.0 / route.period_s)
    ramp_s = max(float((np.abs(along * (first - even)) / pace.braking).max()) / MATCH, 1e-3)
    return _Joined(route, begin, row_s, distance, first, ramp_s, start[1] - along * first, entry.turn_s)


def _moved(route: Path, begin: float, distance: Floats, x: Floats) -> tuple[Floats, Floats]:
    """Position (N, 7) and slope (N, 7), rad per row, at `x` of the path moved by `distance` (7,) at `begin`.

    What is left of the distance falls as 1 - 3/2 s + 1/2 s^3, s in [0, 1]: at once, and without curvature at its start.
    """
    positions, slopes = route.at(x)
    length = MERGE_S / route.period_s
    s = np.minimum((x - begin) / length, 1.0)[:, None]
    return positions + (1.0 - 1.5 * s + 0.5 * s**3) * distance, slopes + (1.5 * s**2 - 1.5) / length * distance


def _knots(joined: _Joined, first_s: float, last_s: float) -> Floats:
    """Times of the knots, s: when an evenly played path is at a row, or at equal parts between rows, and `last_s`."""
    parts = max(1, math.ceil(joined.row_s / KNOT_S - 1e-9))
    span = joined.row_s / parts
    phase = joined.begin * parts
    times = (np.arange(math.ceil(phase), math.floor(phase + last_s / span) + 1) - phase) * span
    return np.append(times[(times > first_s - 1e-6) & (times < last_s - REST_S / 2.0)], last_s)
