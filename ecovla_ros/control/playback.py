"""From a chunk to the trajectory still due: aligned by the observation's stamp, handed over smoothly, ending at rest.

The rows of a chunk are the control points of a uniform cubic B-spline, the `Path`. At a row's due time it passes
through (1, 4, 1) / 6 of the row and its neighbours with the central difference of the rows as velocity, so it is twice
continuously differentiable, stays in the hull of the rows, and its acceleration is the rows' second difference: 1 mrad
of noise in the rows makes 2.4 times less acceleration than a cubic through them. It leaves a bend by a h^2 / 6 (3 mrad
at 2 rad/s^2 and 10 Hz) and a straight line not at all. (de Boor, A Practical Guide to Splines, ch. IX-XI.)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ecovla_ros.control.curve import State
from ecovla_ros.types import ActionChunk, Trajectory

NS = 1_000_000_000
ENTRY_S = 0.1
"""Earliest first knot, s. A controller that starts d seconds late sees a step of velocity * d over this time."""
KNOT_S = 0.125
"""Widest spacing of knots, s: a slowed chunk gets knots between its rows."""
BRAKE = 0.8
"""Share of the acceleration limit that is used to come to rest; the rest is for the controller's own timing."""
REST_S = 0.05
"""Shortest time in which a motion is brought to rest, s."""

_BASIS = np.array([[1.0, 4.0, 1.0, 0.0], [-3.0, 0.0, 3.0, 0.0], [3.0, -6.0, 3.0, 0.0], [-1.0, 3.0, -3.0, 1.0]]) / 6.0
"""Row r: weights of four neighbouring control points in the coefficient of s^r. Uniform cubic B-spline."""


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
    step = rows[1] - rows[0] if len(rows) > 1 else np.zeros(rows.shape[1])
    control = np.vstack((rows[0] - 2.0 * step, rows[0] - step, rows, rows[-1], rows[-1]))
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
    blend_s: float
    """Time over which the trajectory in flight gives way to the path, s."""
    horizon_s: float
    """Longest trajectory, s."""
    braking: np.ndarray
    """Deceleration with which the end comes to rest, rad/s^2, (7,)."""


def play(route: Path, now_ns: int, flight: Callable[[int], State], pace: Pace) -> Trajectory | None:
    """Trajectory from `now_ns` along the rows still due, or None where it cannot come to rest within the horizon.

    `flight` gives the commanded state of the trajectory in flight at an instant. Over `blend_s` the weight passes from
    it to the path by the minimum-jerk polynomial (Flash and Hogan, 1985): a path that agrees with the flight is
    followed unchanged, and one that does not is joined without a step in position or velocity. The end brakes
    along the tangent, before the horizon and before the last row.
    """
    times, x = _knots(route, now_ns, pace)
    positions, slopes = route.at(x)
    velocities = slopes / (route.period_s * pace.stretch)
    for i in np.flatnonzero(times < pace.blend_s):
        weight, rate = _minimum_jerk(times[i] / pace.blend_s)
        old_position, old_velocity = flight(now_ns + round(times[i] * NS))
        gap = positions[i] - old_position
        positions[i] = old_position + weight * gap
        velocities[i] = old_velocity + weight * (velocities[i] - old_velocity) + rate / pace.blend_s * gap
    braking_s = (np.abs(velocities) / pace.braking).max(axis=1, initial=0.0)
    braking_s = np.where(braking_s > 0.0, np.maximum(braking_s, REST_S), 0.0)
    last_s = (route.rows - 1 - route.coordinate(now_ns)) * route.period_s * pace.stretch
    ends = (times + braking_s <= pace.horizon_s) & ((times + braking_s / 2 <= last_s) | (x >= route.rows))
    if not ends.any():
        return None
    n = int(np.flatnonzero(ends)[-1]) + 1
    tail = stop((positions[n - 1], velocities[n - 1]), pace.braking)
    if not velocities[n - 1].any():
        return Trajectory(times[:n], positions[:n], velocities[:n])
    return Trajectory(
        np.concatenate((times[:n], times[n - 1] + tail.times_s)),
        np.vstack((positions[:n], tail.positions)),
        np.vstack((velocities[:n], np.zeros_like(tail.positions))),
    )


def stop(state: State, braking: np.ndarray) -> Trajectory:
    """Shortest smooth stop from `state` with at most `braking` (7,), rad/s^2: one knot, constant deceleration."""
    position, velocity = state
    span = max(float((np.abs(velocity) / braking).max()), REST_S)
    target = position + 0.5 * span * velocity
    return Trajectory(np.array([span]), target[None], np.zeros((1, len(target))))


def _knots(route: Path, now_ns: int, pace: Pace) -> tuple[np.ndarray, np.ndarray]:
    """Times after `now_ns` and row coordinates of the rows (and equal parts between rows) that are still due."""
    start, row_s = max(route.coordinate(now_ns), -1.0), route.period_s * pace.stretch
    parts = max(1, math.ceil(row_s / KNOT_S - 1e-9))
    entry = min(ENTRY_S, pace.horizon_s / 4.0)
    first = math.ceil((start + entry / row_s) * parts - 1e-6)
    last = min(math.floor((start + pace.horizon_s / row_s) * parts + 1e-6), route.rows * parts)
    x = np.arange(first, last + 1) / parts
    return (x - start) * row_s, x


def _minimum_jerk(s: float) -> tuple[float, float]:
    """10 s^3 - 15 s^4 + 6 s^5 and its derivative, s in [0, 1]."""
    return s**3 * (10.0 - 15.0 * s + 6.0 * s**2), 30.0 * s**2 * (1.0 - s) ** 2
