"""What ros2_control's joint_trajectory_controller does with a message, in numpy: the arm's side of the command topic.

Modelled with `interpolate_from_desired_state` on: a new trajectory replaces the running one and ends at rest holding
its last point. One whose first point is still to come is joined from the last commanded state; one whose first point
is now or past is played as it is, whatever was commanded before. Positions alone are interpolated linearly, positions
with velocities by cubic Hermite splines. Time is handed in as integer nanoseconds. What the releases of the real
controller do beyond that is in `bench.guard.controller`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ecovla_ros.errors import ControlError
from ecovla_ros.types import CONTINUOUS, JOINTS, Floats, Trajectory

NS = 1_000_000_000
REST_VELOCITY = float(np.finfo(np.float32).eps)
"""Largest last velocity that still counts as zero, rad/s: the real controller's figure."""
LEAST_S = 1e-6
"""Points nearer than this are one, s."""


class TrajectoryController:
    """Holds one trajectory and answers what is commanded now. Not thread-safe: one owner calls it."""

    def __init__(self, positions: Floats) -> None:
        """Start at rest at `positions` (7,), rad. Raises ControlError unless they are seven finite numbers."""
        self.hold(positions)

    def hold(self, positions: Floats) -> None:
        """Drop what is running and command `positions` (7,), rad, at rest. Raises ControlError."""
        held = np.array(positions, float)
        if held.shape != (len(JOINTS),) or not np.isfinite(held).all():
            raise ControlError(f"expected {len(JOINTS)} finite joint positions, got {positions!r}")
        self._start_ns = 0
        self._times: Floats = np.zeros(1)
        self._positions = held[None]
        self._velocities: Floats | None = None

    def accept(
        self, trajectory: Trajectory, now_ns: int, joint_names: Sequence[str] = JOINTS, stamp_ns: int = 0
    ) -> None:
        """Replace the running trajectory from `now_ns` on; `stamp_ns` 0 means that it starts now.

        Raises ControlError, and keeps the running one, for what the real controller refuses: joint names that are not
        the seven of the arm (any order), times that do not strictly rise, values that are not finite, wrong shapes, a
        last velocity that is not zero, or a non-zero stamp whose last point lies in the past.
        """
        due = still_due(ordered(trajectory, joint_names), now_ns, stamp_ns)
        position, velocity = self.sample(now_ns)
        turns = _wrap_offset(position, due.positions[0])
        times, positions, velocities = due.times_s, due.positions + turns, due.velocities
        if times[0] > 0.0:
            times, positions = np.concatenate(([0.0], times)), np.vstack((position, positions))
            velocities = None if velocities is None else np.vstack((velocity, velocities))
        self.play(Trajectory(times, positions, velocities), now_ns)

    def play(self, trajectory: Trajectory, start_ns: int) -> None:
        """Run `trajectory`, whose first point is at time 0, as it is from `start_ns` on; nothing is checked."""
        self._start_ns = start_ns
        self._times, self._positions, self._velocities = trajectory.times_s, trajectory.positions, trajectory.velocities

    def sample(self, now_ns: int) -> tuple[Floats, Floats]:
        """Commanded position (7,), rad, and velocity (7,), rad/s, at `now_ns`."""
        position, velocity, _ = self.state(now_ns)
        return position, velocity

    def state(self, now_ns: int) -> tuple[Floats, Floats, Floats]:
        """Commanded position (7,), rad, velocity (7,), rad/s, and acceleration (7,), rad/s^2, at `now_ns`."""
        times = self._times
        elapsed = (now_ns - self._start_ns) / NS
        if len(times) == 1 or elapsed >= times[-1]:
            return self._positions[-1].copy(), np.zeros(len(JOINTS)), np.zeros(len(JOINTS))
        if elapsed <= times[0]:
            elapsed = times[0]
        i = int(np.searchsorted(times, elapsed, side="right"))
        span, into = times[i] - times[i - 1], elapsed - times[i - 1]
        p0, p1 = self._positions[i - 1], self._positions[i]
        if self._velocities is None:
            slope = (p1 - p0) / span
            return p0 + slope * into, slope, np.zeros(len(JOINTS))
        return _hermite(p0, p1, self._velocities[i - 1], self._velocities[i], span, into)

    def states(self, now_ns: Floats) -> tuple[Floats, Floats, Floats]:
        """`state` at many instants (N,), ns, at once: three of (N, 7)."""
        elapsed = (np.asarray(now_ns) - self._start_ns) / NS
        ended = (elapsed >= self._times[-1]) | (len(self._times) == 1)
        if ended.all():
            still = np.zeros((len(elapsed), len(JOINTS)))
            return np.tile(self._positions[-1], (len(elapsed), 1)), still, still
        into: Floats = np.clip(elapsed, self._times[0], self._times[-1])
        i = np.clip(np.searchsorted(self._times, into, side="right"), 1, len(self._times) - 1)
        span, since = (self._times[i] - self._times[i - 1])[:, None], (into - self._times[i - 1])[:, None]
        p0, p1 = self._positions[i - 1], self._positions[i]
        slope = (p1 - p0) / span
        v0, v1 = (slope, slope) if self._velocities is None else (self._velocities[i - 1], self._velocities[i])
        p, v, a = _hermite(p0, p1, v0, v1, span, since)
        moving = ~ended[:, None]
        return np.where(moving, p, self._positions[-1]), np.where(moving, v, 0.0), np.where(moving, a, 0.0)

    @property
    def end_ns(self) -> int:
        """When the running trajectory comes to rest."""
        return self._start_ns + round(float(self._times[-1]) * NS)


def ordered(trajectory: Trajectory, joint_names: Sequence[str] = JOINTS) -> Trajectory:
    """A trajectory whose columns are named `joint_names`, with its columns in the order of `JOINTS`.

    Raises ControlError for what the real controller refuses at any time: see `TrajectoryController.accept`.
    """
    order = _order(joint_names)
    times, positions, velocities = _checked(trajectory)
    return Trajectory(times, positions[:, order], None if velocities is None else velocities[:, order])


def still_due(trajectory: Trajectory, now_ns: int, stamp_ns: int = 0) -> Trajectory:
    """What of a trajectory is left at `now_ns`: the points after that, and the last whenever it is; times from then on.

    Where its first point is past, what it commands at `now_ns` comes first, at time 0. `stamp_ns` is when the
    trajectory starts; 0: now. Raises ControlError when it has ended.
    """
    start_ns = stamp_ns or now_ns
    if start_ns + trajectory.times_s[-1] * NS < now_ns:
        late = (now_ns - start_ns) / NS - trajectory.times_s[-1]
        raise ControlError(f"the trajectory ended {late:.3f} s ago; stamp it 0 or later than now minus its length")
    times = trajectory.times_s + (start_ns - now_ns) / NS
    due = times > LEAST_S
    due[-1] = True
    left = np.maximum(times[due], LEAST_S)
    positions = trajectory.positions[due]
    velocities = None if trajectory.velocities is None else trajectory.velocities[due]
    if times[0] > LEAST_S:
        return Trajectory(left, positions, velocities)
    position, velocity = _at(trajectory, (now_ns - start_ns) / NS)
    return Trajectory(
        np.concatenate(([0.0], left)),
        np.vstack((position, positions)),
        None if velocities is None else np.vstack((velocity, velocities)),
    )


def _at(trajectory: Trajectory, elapsed_s: float) -> tuple[Floats, Floats]:
    """Position (7,) and velocity (7,) of a trajectory between its first point and its last."""
    playing = TrajectoryController(trajectory.positions[0])
    playing.play(trajectory, 0)
    return playing.sample(round(elapsed_s * NS))


def _order(names: Sequence[str]) -> list[int]:
    if sorted(names) != sorted(JOINTS):
        raise ControlError(f"joint names {list(names)} are not the arm's; valid: {', '.join(JOINTS)}, in any order")
    return [list(names).index(joint) for joint in JOINTS]


def _checked(trajectory: Trajectory) -> tuple[Floats, Floats, Floats | None]:
    times = np.asarray(trajectory.times_s, float)
    positions = np.asarray(trajectory.positions, float)
    shape = (len(times) if times.ndim == 1 else 0, len(JOINTS))
    if shape[0] == 0 or positions.shape != shape:
        raise ControlError(f"times {times.shape} and positions {positions.shape}; valid: (N,) and (N, 7), N at least 1")
    if not (np.isfinite(times).all() and np.isfinite(positions).all()):
        raise ControlError("the trajectory holds NaN or infinity; every time and position must be finite")
    if times[0] < 0.0 or (np.diff(times) <= 0.0).any():
        raise ControlError(f"times {times.tolist()} s must not be negative and must strictly rise")
    if trajectory.velocities is None:
        return times, positions, None
    velocities = np.asarray(trajectory.velocities, float)
    if velocities.shape != shape or not np.isfinite(velocities).all():
        raise ControlError(f"velocities {velocities.shape} must be finite and of the positions' shape {shape}")
    if np.abs(velocities[-1]).max() > REST_VELOCITY:
        raise ControlError(f"the last velocities {velocities[-1].round(4).tolist()} rad/s must be zero")
    return times, positions, velocities


def _wrap_offset(commanded: Floats, first: Floats) -> Floats:
    """Whole turns (7,), rad, that bring the continuous joints of a first point nearest to what is commanded."""
    turns = np.round((commanded - first) / math.tau)
    return np.where(CONTINUOUS, turns * math.tau, 0.0)


def _hermite(p0: Floats, p1: Floats, v0: Floats, v1: Floats, span: Any, into: Any) -> tuple[Floats, Floats, Floats]:
    """Cubic through (p0, v0) and (p1, v1), `into` seconds after its start of `span` seconds, with two derivatives."""
    s, slope = into / span, (p1 - p0) / span
    b, c = 6.0 * slope - 4.0 * v0 - 2.0 * v1, 3.0 * (v0 + v1 - 2.0 * slope)
    position = p0 + into * (v0 + s * (b / 2.0 + s * c / 3.0))
    return position, v0 + s * (b + s * c), (b + 2.0 * s * c) / span
