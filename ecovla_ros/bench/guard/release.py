"""The rules of ros2_control's joint_trajectory_controller, release by release, as its source has them.

Read in ros2_controllers: humble 2.54, jazzy 4.42, kilted 5.17, master 6.9, and ros2_control's command limiter. Modelled
is an arm with a position interface and `interpolate_from_desired_state` (Humble: `open_loop_control`) on, without
tolerances, time-outs and speed scaling. `test/bench/guard/test_release.py` has a test for every rule, and compares the
model with the real class where one is at hand.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ecovla_ros.control.trajectory import NS
from ecovla_ros.errors import ControlError
from ecovla_ros.types import CONTINUOUS, JOINTS, Trajectory

CYCLE_NS = 1_000_000
EPSILON = float(np.finfo(np.float32).eps)
"""Largest last velocity that the controller takes for zero, rad/s."""
URDF_VELOCITY = np.array([1.3963, 1.3963, 1.3963, 1.3963, 1.2218, 1.2218, 1.2218])
"""Velocity limits of the Gen3's description, which the command limiter keeps, rad/s."""
URDF_POSITION = np.array([np.inf, 2.41, np.inf, 2.66, np.inf, 2.23, np.inf])
"""Position limits of the same, rad; symmetric."""


@dataclass(frozen=True)
class Release:
    """What differs between the releases."""

    ahead: bool
    """Commands the state one period ahead, and remembers it under the time of the cycle that commanded it."""
    limiter: bool
    """Whether `enforce_command_limits` is on by default."""
    replacement: bool = False
    """Whether `allow_trajectory_replacement` is there, and on by default."""
    own_time: bool = True
    """A running trajectory is moved on by the measured period (a steady clock), not by the system's clock."""


RELEASES = {
    "humble": Release(ahead=False, limiter=False, own_time=False),
    "jazzy": Release(ahead=True, limiter=False),
    "kilted": Release(ahead=True, limiter=True),
    "master": Release(ahead=True, limiter=True, replacement=True),
}
GUARDED = ("humble", "jazzy", "kilted")
"""The releases that the guard is held against. On master it needs `allow_trajectory_replacement: false`: where that is
true, the stamp of a trajectory that has begun is not looked at."""


@dataclass(frozen=True)
class Points:
    """The points of a message; what a point does not give is NaN in its whole row of `velocities`."""

    times_ns: np.ndarray
    positions: np.ndarray
    velocities: np.ndarray

    @property
    def has_velocity(self) -> np.ndarray:
        """Which points give velocities, (N,)."""
        given: np.ndarray = ~np.isnan(self.velocities).all(axis=1)
        return given


def points(trajectory: Trajectory) -> Points:
    """Points as the wire carries them: times in whole nanoseconds."""
    times = np.round(np.asarray(trajectory.times_s, float) * NS).astype(np.int64)
    positions = np.asarray(trajectory.positions, float)
    velocities = np.full_like(positions, np.nan) if trajectory.velocities is None else trajectory.velocities
    return Points(times, positions, np.asarray(velocities, float))


def check(
    message: Points, now_ns: int, stamp_ns: int = 0, joint_names: Sequence[str] = JOINTS, effort: bool = False
) -> None:
    """Raises ControlError for what the controller refuses, and only for that.

    Not refused: NaN and infinity, a joint named twice, a negative first time, velocities in some points only.
    """
    if len(joint_names) != len(JOINTS):
        raise ControlError("joints on incoming trajectory don't match the controller joints")
    if not len(message.times_ns):
        raise ControlError("empty trajectory received")
    unknown = [name for name in joint_names if name not in JOINTS]
    if unknown:
        raise ControlError(f"incoming joint {unknown[0]} doesn't match the controller's joints")
    if (np.abs(message.velocities[-1]) > EPSILON).any():  # false for NaN, as there
        raise ControlError("velocity of the last trajectory point is not zero")
    if stamp_ns and stamp_ns + int(message.times_ns[-1]) < now_ns:
        raise ControlError("trajectory with non-zero start time ends in the past")
    if (np.diff(message.times_ns) <= 0).any():
        raise ControlError("time between points is not strictly increasing")
    if message.positions.shape != (len(message.times_ns), len(joint_names)):
        raise ControlError("mismatch between joint_names and positions")
    if effort:
        raise ControlError("trajectories with effort fields are only supported with an effort interface")


@dataclass
class _Active:
    """The trajectory that is sampled, and the state before its first point."""

    message: Points
    start_ns: int
    before_ns: int
    before: tuple[np.ndarray, np.ndarray]
    first_ns: int
    """The cycle that sampled it first."""

    def __post_init__(self) -> None:
        message = self.message
        self._due = self.start_ns + message.times_ns
        self._times = np.concatenate(([self.before_ns], self._due))
        self._positions = np.vstack((self.before[0], message.positions))
        self._given = np.concatenate(([True], message.has_velocity))
        self._velocities = np.vstack((self.before[1], np.where(self._given[1:, None], message.velocities, 0.0)))

    def at(self, sample_ns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Position and velocity (N, 7) at the instants `sample_ns` (N,), each after the state before."""
        message, due, times, given = self.message, self._due, self._times, self._given
        positions, velocities = self._positions, self._velocities
        begun = sample_ns >= due[0]  # then the state before does not count, wherever it was
        i = np.searchsorted(due, sample_ns, side="right")
        i = np.where(begun, i, 0)
        ended = i >= len(due)
        i = np.minimum(i, len(due) - 1)
        span = (times[i + 1] - times[i]).astype(float)[:, None] / NS
        into = (sample_ns - times[i]).astype(float)[:, None] / NS
        p0, p1, v0, v1 = positions[i], positions[i + 1], velocities[i], velocities[i + 1]
        with np.errstate(divide="ignore", invalid="ignore"):
            slope = (p1 - p0) / span
            s = into / span
            b, c = 6.0 * slope - 4.0 * v0 - 2.0 * v1, 3.0 * (v0 + v1 - 2.0 * slope)
            cubic = p0 + into * (v0 + s * (b / 2.0 + s * c / 3.0)), v0 + s * (b + s * c)
            both = (given[i] & given[i + 1])[:, None]
            position = np.where(both, cubic[0], p0 + into * slope)
            velocity = np.where(both, cubic[1], slope)
        last = np.where(given[-1], message.velocities[-1], 0.0)
        rest = ended[:, None]
        return np.where(rest, message.positions[-1], position), np.where(rest, last, velocity)


class ReleasedController:
    """One controller of a release: messages in, a command at each cycle out. One owner calls it."""

    def __init__(self, positions: np.ndarray, release: Release) -> None:
        """Holds `positions` (7,), rad: as reported by the arm when it was activated."""
        self.release = release
        self._last = np.array(positions, float), np.zeros(len(JOINTS))
        self._last_ns = 0  # zero: nothing was commanded yet
        self._sent = self._last[0].copy()
        self._new: tuple[Points, int] | None = None
        self._active: _Active | None = None
        self._passed_ns = self._cursor_ns = 0

    def accept(
        self, message: Points, now_ns: int, stamp_ns: int = 0, joint_names: Sequence[str] = JOINTS, effort: bool = False
    ) -> None:
        """A message that came at `now_ns` of the controller's clock; the next cycle takes the newest. See `check`."""
        check(message, now_ns, stamp_ns, joint_names, effort)
        order = [joint_names.index(joint) if joint in joint_names else 0 for joint in JOINTS]
        self._new = Points(message.times_ns, message.positions[:, order], message.velocities[:, order]), stamp_ns

    @property
    def position(self) -> np.ndarray:
        """What the arm was commanded last (7,), rad, after the command limiter."""
        return self._sent

    @property
    def reference(self) -> np.ndarray:
        """Where it is on what it runs (7,), rad: `reference` of its controller_state, before the command limiter."""
        return self.reported()[0]

    def reported(self, back_ns: int = 0) -> tuple[np.ndarray, np.ndarray, float | None, int]:
        """`reference` of its controller_state: (7,), rad, (7,), rad/s, and how long after the trajectory's start, s.

        It is the state of the cycle, where releases that command ahead have commanded the next one's already.
        `back_ns`: so long ago, or when what runs was taken over, if that was later; the last number says how long, ns.
        """
        active = self._active
        if active is None:
            return *self._last, None, 0
        now_ns = max(self._cursor_ns - back_ns, active.first_ns)
        position, velocity = self._last
        if now_ns >= active.before_ns:
            position, velocity = (part[0] for part in active.at(np.array([now_ns])))
        return position, velocity, (now_ns - active.start_ns) / NS, self._cursor_ns - now_ns

    def run(self, times_ns: np.ndarray, passed_ns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Commands of the cycles at `times_ns` (N,) of its clock; position and velocity, (N, 7).

        `passed_ns` (N,): the same instants by a steady clock.
        """
        if self._new is not None:
            self._replace(int(times_ns[0]), int(passed_ns[0]))
        if self._active is None:
            n, self._last_ns = len(times_ns), int(times_ns[-1])
            return np.tile(self._sent, (n, 1)), np.zeros((n, len(JOINTS)))
        now = self._active.first_ns + (passed_ns - self._passed_ns) if self.release.own_time else times_ns
        wanted = now + CYCLE_NS if self.release.ahead else now
        position, velocity = self._active.at(wanted)
        early = wanted < self._active.before_ns  # a clock that was set back: nothing is commanded until it is there
        if early.any():
            position[early], velocity[early] = self._last[0], self._last[1]
        self._last, self._last_ns = (position[-1], velocity[-1]), int(times_ns[-1])
        self._cursor_ns = int(now[-1])
        if self.release.limiter:
            position = self._limited(position)
        self._sent = position[-1]
        return position, velocity

    def _replace(self, time_ns: int, passed_ns: int) -> None:
        assert self._new is not None
        (message, stamp_ns), self._new = self._new, None
        if self.release.replacement and self._active is not None and len(self._active.message.times_ns) > 1:
            message, stamp_ns = self._joined(message, stamp_ns, time_ns)
        before_ns = self._last_ns if self.release.ahead and self._last_ns else time_ns
        before = _turned(self._last[0], message.positions[0]), self._last[1]
        self._active = _Active(message, stamp_ns or time_ns, before_ns, before, time_ns)
        self._passed_ns = passed_ns

    def _joined(self, message: Points, stamp_ns: int, time_ns: int) -> tuple[Points, int]:
        """`allow_trajectory_replacement`: it begins now, or at a stamp still to come, after what runs until then."""
        assert self._active is not None
        cursor = self._cursor_ns
        begin = cursor + (stamp_ns - time_ns) if stamp_ns > time_ns else cursor
        running = self._active.message
        old = self._active.start_ns + running.times_ns
        kept = (old > cursor) & (old < begin)
        times, positions, velocities = old[kept], running.positions[kept], running.velocities[kept]
        if message.times_ns[0] > 0:  # where they part, else the first point is there
            place, speed = self._active.at(np.array([begin]))
            times = np.append(times, begin)
            positions, velocities = np.vstack((positions, place)), np.vstack((velocities, speed))
        times = np.concatenate((times, begin + message.times_ns)) - cursor
        return Points(times, np.vstack((positions, message.positions)), np.vstack((velocities, message.velocities))), 0

    def _limited(self, position: np.ndarray) -> np.ndarray:
        """`enforce_command_limits`: within the description's positions, and no faster than its velocities."""
        inside = np.clip(position, -URDF_POSITION, URDF_POSITION)
        most = URDF_VELOCITY * CYCLE_NS / NS
        steps = np.abs(np.diff(np.vstack((self._sent, inside)), axis=0))
        if (steps <= most).all():
            return inside
        before = self._sent
        for row in inside:
            before = row[:] = np.clip(row, before - most, before + most)
        return inside


def _turned(commanded: np.ndarray, first: np.ndarray) -> np.ndarray:
    """The commanded positions (7,), continuous joints whole turns away so that they are nearest to a first point."""
    way = (first - commanded + math.pi) % math.tau - math.pi
    return np.where(CONTINUOUS, first - way, commanded)
