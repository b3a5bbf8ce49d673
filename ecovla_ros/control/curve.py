"""Exact bounds of the curve that the arm's controller runs between the knots of a trajectory: cubic Hermite splines.

Knots within limits do not make a curve within limits: a cubic overshoots between them. So the curve is what is checked.
On a segment of T seconds with s = t / T and d = (p1 - p0) / T the velocity is v0 + b s + c s^2 with
b = 6 d - 4 v0 - 2 v1 and c = 3 (v0 + v1 - 2 d): extreme at its vertex, and linear in acceleration.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ecovla_ros.errors import ControlError
from ecovla_ros.types import Floats, Trajectory

Motion = tuple[Floats, Floats, Floats]
"""Position (7,), rad, velocity (7,), rad/s, and acceleration (7,), rad/s^2."""
STEP_S = 0.001
"""A step of the acceleration counts as jerk over one cycle of the arm's controller, s."""


@dataclass(frozen=True)
class Bounds:
    """What a curve reaches, per joint, each (7,) unless said otherwise."""

    lower: Floats
    """Lowest position, rad."""
    upper: Floats
    """Highest position, rad."""
    velocity: Floats
    """Largest speed in each of the N segments, rad/s, (N, 7)."""
    acceleration: Floats
    """Largest magnitude of acceleration, rad/s^2."""
    jerk: Floats
    """Largest magnitude of jerk in each of the N segments, rad/s^3, (N, 7).

    A step of the acceleration at its beginning (and at the end of the last) counts over `STEP_S`.
    """


def rates(trajectory: Trajectory) -> Floats:
    """Velocities (N, 7) of a curve, rad/s. Raises ControlError for one that is given by positions alone."""
    if trajectory.velocities is None:
        raise ControlError("a curve needs velocities at its knots")
    return trajectory.velocities


def bounds(trajectory: Trajectory, start: Motion) -> Bounds:
    """Bounds of `trajectory` (positions and velocities given) when it is entered from `start` at its time zero."""
    span, p, v, b, c = _segments(trajectory, start)
    v0 = v[:-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        vertex = _inside(-b / (2.0 * c))
        root = -0.5 * (b + np.copysign(np.sqrt(np.maximum(b * b - 4.0 * c * v0, 0.0)), b))
        turns = np.stack((_inside(root / c), _inside(v0 / root)))  # where the velocity is zero, (2, segments, 7)
    reached = p[:-1] + span * turns * (v0 + turns * (b / 2.0 + turns * c / 3.0))
    positions = np.concatenate((p, reached[0], reached[1]))
    speed = np.maximum(np.maximum(np.abs(v0), np.abs(v[1:])), np.abs(v0 + vertex * (b + vertex * c)))
    first, last = b / span, (b + 2.0 * c) / span
    before = np.concatenate((start[2][None], last))
    jerk = np.maximum(np.abs(2.0 * c / span**2), np.abs(first - before[:-1]) / STEP_S)
    jerk[-1] = np.maximum(jerk[-1], np.abs(before[-1]) / STEP_S)
    acceleration = np.maximum(np.abs(first), np.abs(last)).max(axis=0)
    return Bounds(positions.min(axis=0), positions.max(axis=0), speed, acceleration, jerk)


def samples(trajectory: Trajectory, start: Motion, step_s: float) -> tuple[Floats, Floats]:
    """Positions (N, 7) and velocities (N, 7) of the curve at most `step_s` apart, its knots and its end included."""
    span, p, v, b, c = _segments(trajectory, start)
    times = np.concatenate(([0.0], trajectory.times_s))
    at = np.union1d(np.linspace(0.0, times[-1], int(np.ceil(times[-1] / step_s)) + 1), times)
    i = np.minimum(np.searchsorted(times, at, side="right") - 1, len(span) - 1)
    s = (at - times[i])[:, None] / span[i]
    positions = p[i] + span[i] * s * (v[i] + s * (b[i] / 2.0 + s * c[i] / 3.0))
    return positions, v[i] + s * (b[i] + s * c[i])


def _segments(trajectory: Trajectory, start: Motion) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    """Spans (N, 1), positions and velocities at the N + 1 ends, and the coefficients b and c (N, 7)."""
    velocities = rates(trajectory)
    times = np.concatenate(([0.0], trajectory.times_s))
    span = (times[1:] - times[:-1])[:, None]
    p = np.concatenate((start[0][None], trajectory.positions))
    v = np.concatenate((start[1][None], velocities))
    slope = (p[1:] - p[:-1]) / span
    v0, v1 = v[:-1], v[1:]
    return span, p, v, 6.0 * slope - 4.0 * v0 - 2.0 * v1, 3.0 * (v0 + v1 - 2.0 * slope)


def _inside(s: Floats) -> Floats:
    """Share of the segment, moved into [0, 1]; a root that does not exist becomes one of the segment's ends."""
    inside: Floats = np.fmin(np.fmax(s, 0.0), 1.0)  # fmax takes 0 for NaN
    return inside
