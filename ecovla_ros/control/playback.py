"""From a chunk to the trajectory still due: aligned by the observation's stamp, handed over smoothly, ending at rest.

The rows of a chunk are the control points of a uniform cubic B-spline, the `Path`. At a row's due time it passes
through (1, 4, 1) / 6 of the row and its neighbours with the central difference of the rows as velocity, so it is twice
continuously differentiable, stays in the hull of the rows, and its acceleration is the rows' second difference: 1 mrad
of noise in the rows makes 2.4 times less acceleration than a cubic through them. It leaves a bend by a h^2 / 6 (3 mrad
at 2 rad/s^2 and 10 Hz) and a straight line not at all. (de Boor, A Practical Guide to Splines, ch. IX-XI.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ecovla_ros.control.curve import State
from ecovla_ros.types import ActionChunk, Trajectory

NS = 1_000_000_000
ENTRY_S = 0.1
"""Earliest first knot, s. A controller that starts d seconds late sees a step of velocity * d over this time."""
MERGE_S = 0.4
"""Chunk time over which the distance between the commanded position and the path is given up, s."""
MATCH = 0.7
"""Share of the braking deceleration that is used to reach the path's pace."""
KNOT_S = 0.125
"""Widest spacing of knots, s: a slowed chunk gets knots between its rows."""
BRAKE = 0.8
"""Share of the acceleration limit that is used to come to rest; the rest is for the controller's own timing."""
REST_S = 0.05
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
    control: np.ndarray
    """Control points (H + 4, 7): two before the first row, straight on; the last row twice more, to end at rest."""
    gripper: np.ndarray
    """Gripper targets (H,), 0 open .. 1 closed."""

    @property
    def rows(self) -> int:
        """Number of rows H of the chunk."""
        return len(self.control) - 4

    def coordinate(self, now_ns: int) -> float:
        """Row coordinate x of the instant `now_ns`."""
        return (now_ns - self.stamp_ns) / NS / self.period_s - 1.0

    def at(self, x: np.ndarray) -> State:
        """Position (N, 7), rad, and derivative by x (N, 7), rad per row, at row coordinates `x` (N,).

        Defined from the observation (-1) to one row after the last (H); outside, its ends are held.
        """
        x = np.clip(x, -1.0, float(self.rows))
        cell = np.minimum(np.floor(x), self.rows - 1).astype(int)
        s = x - cell
        weights = self.control[cell[:, None] + np.arange(1, 5)]  # (N, 4, 7): rows cell - 1 .. cell + 2
        power = np.stack((np.ones_like(s), s, s**2, s**3), axis=1) @ _BASIS
        slope = np.stack((np.zeros_like(s), np.ones_like(s), 2.0 * s, 3.0 * s**2), axis=1) @ _BASIS
        return np.einsum("nk,nkj->nj", power, weights), np.einsum("nk,nkj->nj", slope, weights)


def path(chunk: ActionChunk, rows: np.ndarray) -> Path:
    """Path of a chunk whose checked (unwrapped, clamped) joint rows are `rows` (H, 7)."""
    head = rows[: min(len(rows), 3)]
    before = [_EXTEND[len(head)][i] @ head for i in range(2)]
    control = np.vstack((*before, rows, rows[-1], rows[-1]))
    return Path(chunk.stamp_ns, chunk.period_s, control, np.asarray(chunk.gripper, float))


def due(chunk: ActionChunk, now_ns: int) -> int:
    """Index of the first row whose due time lies after `now_ns`; `chunk.horizon` when all are past."""
    elapsed = (now_ns - chunk.stamp_ns) / NS / chunk.period_s
    return int(min(max(math.floor(elapsed + 1e-9), 0), len(chunk.joints)))


@dataclass(frozen=True)
class Pace:
    """How a path is played."""

    stretch: float
    """At least 1: the path takes this many times as long as the chunk asked for."""
    matched: bool
    """Whether the path is entered at the speed that the arm has along it, or at its own."""
    turn_s: float
    """Time over which the rest of the difference in velocity is given up, s."""
    horizon_s: float
    """Longest trajectory, s."""
    braking: np.ndarray
    """Deceleration with which speed is given up, rad/s^2, (7,)."""


def play(route: Path, now_ns: int, start: State, pace: Pace) -> Trajectory | None:
    """Trajectory from `now_ns` along the rows still due, or None where it cannot come to rest within the horizon.

    `start` is the commanded state of the trajectory in flight. A path that agrees with it is followed unchanged.
    The distance between them is given up over `MERGE_S` of the chunk's time, so that slowing the chunk slows this
    too; the difference in velocity dv as dv t (1 - t / turn_s)^2. The end brakes along the tangent, before the
    horizon and before the last row.
    """
    begin = max(route.coordinate(now_ns), -1.0)
    times = _knots(route, begin, pace)
    x, rate, off = _progress(route, begin, start, times, pace)
    positions, velocities = _merged(route, begin, start[0], x, rate)
    left = np.maximum(1.0 - times / pace.turn_s, 0.0)[:, None]
    positions += times[:, None] * left**2 * off
    velocities += left * (left - 2.0 * times[:, None] / pace.turn_s) * off
    braking_s = (np.abs(velocities) / pace.braking).max(axis=1, initial=0.0)
    braking_s = np.where(braking_s > 0.0, np.maximum(braking_s, REST_S), 0.0)
    ahead_s = (route.rows - 1 - x) / np.maximum(rate, 1e-9)
    ends = (times + braking_s <= pace.horizon_s) & ((braking_s / 2 <= ahead_s) | (x >= route.rows))
    if not ends.any():
        return None
    n = int(np.flatnonzero(ends)[-1]) + 1
    if not velocities[n - 1].any():
        return Trajectory(times[:n], positions[:n], velocities[:n])
    tail = stop((positions[n - 1], velocities[n - 1]), pace.braking)
    return Trajectory(
        np.concatenate((times[:n], times[n - 1] + tail.times_s)),
        np.vstack((positions[:n], tail.positions)),
        np.vstack((velocities[:n], np.zeros_like(tail.positions))),
    )


def _knots(route: Path, begin: float, pace: Pace) -> np.ndarray:
    """Times of the knots, s: when an evenly played path is at a row, or at equal parts between rows."""
    row_s = route.period_s * pace.stretch
    parts = max(1, math.ceil(row_s / KNOT_S - 1e-9))
    entry = min(ENTRY_S, pace.horizon_s / 4.0)
    first = math.ceil((begin + entry / row_s) * parts - 1e-6)
    last = min(math.floor((begin + pace.horizon_s / row_s) * parts + 1e-6), route.rows * parts)
    return (np.arange(first, last + 1) / parts - begin) * row_s


def _progress(
    route: Path, begin: float, start: State, times: np.ndarray, pace: Pace
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row coordinate (N,) and its rate (N,), rows/s, at `times`; velocity that is not along the path (7,), rad/s."""
    even = 1.0 / (route.period_s * pace.stretch)
    _, slope = _merged(route, begin, start[0], np.array([begin]), np.ones(1))
    along = slope[0]
    first = even
    if pace.matched and along.any():
        first = min(max(float(along @ start[1] / (along @ along)), 0.0), 1.0 / route.period_s)
    ramp_s = max(float((np.abs(along * (first - even)) / pace.braking).max()) / MATCH, 1e-3)
    into = np.minimum(times, ramp_s)
    x = begin + even * times + (first - even) * into * (1.0 - into / (2.0 * ramp_s))
    return x, even + (first - even) * (1.0 - into / ramp_s), start[1] - along * first


def _merged(route: Path, begin: float, commanded: np.ndarray, x: np.ndarray, rate: np.ndarray) -> State:
    """Positions and velocities (N, 7) at `x`, passed with `rate`, of the path moved to begin at `commanded` (7,).

    What is left of the distance falls as 1 - 3/2 s + 1/2 s^3, s in [0, 1]: at once, and without curvature at its start.
    """
    positions, slopes = route.at(x)
    distance = commanded - route.at(np.array([begin]))[0]  # (1, 7)
    length = MERGE_S / route.period_s
    s = np.minimum((x - begin) / length, 1.0)[:, None]
    positions = positions + (1.0 - 1.5 * s + 0.5 * s**3) * distance
    slopes = slopes + (1.5 * s**2 - 1.5) / length * distance
    return positions, slopes * rate[:, None]


def stop(state: State, braking: np.ndarray) -> Trajectory:
    """Shortest smooth stop from `state` with at most `braking` (7,), rad/s^2: one knot, constant deceleration."""
    position, velocity = state
    span = max(float((np.abs(velocity) / braking).max()), REST_S)
    target = position + 0.5 * span * velocity
    return Trajectory(np.array([span]), target[None], np.zeros((1, len(target))))
