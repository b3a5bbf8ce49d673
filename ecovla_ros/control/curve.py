"""Exact bounds of the curve that the arm's controller runs between the knots of a trajectory: cubic Hermite splines.

Knots within limits do not make a curve within limits: a cubic overshoots between them. So the curve is what is checked.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ecovla_ros.types import Trajectory

Motion = tuple[np.ndarray, np.ndarray]
"""Position (7,), rad, and velocity (7,), rad/s."""


@dataclass(frozen=True)
class Bounds:
    """What a curve reaches, per joint, each (7,)."""

    lower: np.ndarray
    """Lowest position, rad."""
    upper: np.ndarray
    """Highest position, rad."""
    velocity: np.ndarray
    """Largest speed, rad/s."""
    acceleration: np.ndarray
    """Largest magnitude of acceleration, rad/s^2."""


def bounds(trajectory: Trajectory, start: Motion) -> Bounds:
    """Bounds of `trajectory` (positions and velocities given) when it is entered from `start` at its time zero.

    On a segment of T seconds with s = t / T and d = (p1 - p0) / T the velocity is v0 + b s + c s^2 with
    b = 6 d - 4 v0 - 2 v1 and c = 3 (v0 + v1 - 2 d): extreme at its vertex, and linear in acceleration.
    """
    assert trajectory.velocities is not None
    times = np.concatenate(([0.0], trajectory.times_s))
    p = np.vstack((start[0], trajectory.positions))
    v = np.vstack((start[1], trajectory.velocities))
    span = np.diff(times)[:, None]
    v0, v1 = v[:-1], v[1:]
    slope = np.diff(p, axis=0) / span
    b, c = 6.0 * slope - 4.0 * v0 - 2.0 * v1, 3.0 * (v0 + v1 - 2.0 * slope)
    with np.errstate(divide="ignore", invalid="ignore"):
        vertex = _inside(-b / (2.0 * c))
        root = -0.5 * (b + np.copysign(np.sqrt(np.maximum(b * b - 4.0 * c * v0, 0.0)), b))
        turns = np.stack((_inside(root / c), _inside(v0 / root)))  # where the velocity is zero, (2, segments, 7)
    reached = p[:-1] + span * turns * (v0 + turns * (b / 2.0 + turns * c / 3.0))
    positions = np.concatenate((p, reached[0], reached[1]))
    speed = np.maximum(np.abs(v).max(axis=0), np.abs(v0 + vertex * (b + vertex * c)).max(axis=0))
    acceleration = np.maximum(np.abs(b), np.abs(b + 2.0 * c)) / span
    return Bounds(positions.min(axis=0), positions.max(axis=0), speed, acceleration.max(axis=0))


def _inside(s: np.ndarray) -> np.ndarray:
    """Share of the segment, moved into [0, 1]; a root that does not exist becomes the segment's start."""
    return np.clip(np.nan_to_num(s, nan=0.0, posinf=0.0, neginf=0.0), 0.0, 1.0)
