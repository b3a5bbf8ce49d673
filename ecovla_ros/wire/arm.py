"""What the arm says and what it is told: joint states and trajectories, joints by name."""

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ecovla_ros.errors import ControlError, ObservationError, short
from ecovla_ros.types import GRIPPER_CLOSED_RAD, GRIPPER_JOINT, JOINTS, ArmState, ControllerState, Trajectory
from ecovla_ros.wire.fields import NS, raw_stamp_ns, sequence, set_stamp, stamp_ns

WANTED = (*JOINTS, GRIPPER_JOINT)
MOST_NAMES = 256
"""Joint names of a message at most: what has more is no robot of ours, and is not searched."""


@functools.lru_cache(maxsize=64)
def _places(names: tuple[str, ...]) -> np.ndarray:
    """Where the arm's joints and the gripper stand among `names`. Raises ObservationError."""
    missing = [name for name in WANTED if name not in names]
    if missing:
        held = short(", ".join(names)) or "no joint"
        raise ObservationError(f"joint_states lacks {', '.join(missing)}; it holds: {held}")
    twice = sorted({name for name in WANTED if names.count(name) > 1})
    if twice:
        raise ObservationError(f"joint_states names {', '.join(twice)} more than once; valid: each joint once")
    return np.array([names.index(name) for name in WANTED])


def arm_state(msg: Any, finite: bool = True) -> ArmState:
    """sensor_msgs/JointState to the arm's state: by name, in any order, other joints ignored.

    A message without velocities counts as an arm at rest. Raises ObservationError for joints that are missing or named
    twice, for lengths that do not agree, and, unless `finite` is False, for values that are not finite (the guard wants
    to see these: they latch it).
    """
    count = len(msg.name)
    if count > MOST_NAMES:
        raise ObservationError(f"joint_states has {count} names; valid: up to {MOST_NAMES}")
    at = _places(tuple(msg.name))
    if len(msg.position) != count or len(msg.velocity) not in (0, count):
        raise ObservationError(
            f"joint_states has {count} names, {len(msg.position)} positions and {len(msg.velocity)} velocities; "
            "valid: as many positions as names, and as many velocities or none"
        )
    position = np.asarray(msg.position, float)[at]
    velocity = np.asarray(msg.velocity, float)[at[:-1]] if len(msg.velocity) else np.zeros(len(JOINTS))
    return _state(stamp_ns(msg.header.stamp), position, velocity, finite)


def _state(ns: int, position: np.ndarray, velocity: np.ndarray, finite: bool) -> ArmState:
    """Of positions (8,), the gripper's last, and velocities (7,)."""
    if finite and not (np.isfinite(position).all() and np.isfinite(velocity).all()):
        sound = np.isfinite(position) & np.isfinite(np.append(velocity, 0.0))
        broken = [name for name, whole in zip(WANTED, sound) if not whole]
        raise ObservationError(f"joint_states is not finite for {', '.join(broken)}; valid: finite rad and rad/s")
    share = float(position[-1]) / GRIPPER_CLOSED_RAD
    closed = min(max(share, 0.0), 1.0) if math.isfinite(share) else math.nan
    return ArmState(ns, position[:-1], velocity, closed)


class StateReader:
    """Arm states from serialized sensor_msgs/JointState (CDR), without making a message of each.

    A driver sends the same frame and names every time, and so the numbers stand at the same place. Where they do, they
    are read from there; any other message is deserialized and read by `arm_state`, whose rules these are.
    """

    def __init__(self, deserialize: Callable[[bytes], Any]) -> None:
        self._deserialize = deserialize
        self._head = b""  # what a message must hold behind its stamp: frame, names, and the number of positions
        self._count = self._positions = self._behind = self._velocities = 0
        self._places = np.zeros(0, int)

    def read(self, raw: bytes, finite: bool = True) -> ArmState:
        """As `arm_state` of the message in `raw`. Raises ObservationError."""
        known = len(self._head)
        if not known or raw[:4] != _LITTLE or raw[_STAMPED : _STAMPED + known] != self._head:
            return self._learn(raw, finite)
        count = self._count
        if len(raw) < self._velocities + 8 * count or struct.unpack_from("<I", raw, self._behind)[0] != count:
            return self._learn(raw, finite)
        position = np.frombuffer(raw, "<f8", count, self._positions)[self._places]
        velocity = np.frombuffer(raw, "<f8", count, self._velocities)[self._places[:-1]]
        return _state(raw_stamp_ns(raw), position, velocity, finite)

    def _learn(self, raw: bytes, finite: bool) -> ArmState:
        msg = self._deserialize(raw)
        state = arm_state(msg, finite)
        count = len(msg.name)
        at = _STAMPED
        for text in (msg.header.frame_id, None, *msg.name):  # None: the number of names
            at += -at % 4 + 4 + (0 if text is None else len(text.encode()) + 1)
        at += -at % 4  # the number of positions
        self._head = b""
        if raw[:4] == _LITTLE and count == len(msg.velocity):
            self._head, self._count, self._places = bytes(raw[_STAMPED : at + 4]), count, _places(tuple(msg.name))
            self._positions = at + 4 + -at % 8  # eight bytes from the end of the 4 that name the encoding
            self._behind = self._positions + 8 * count
            self._velocities = self._behind + 4 + -self._behind % 8
        return state


def controller_state(msg: Any) -> ControllerState:
    """control_msgs/JointTrajectoryControllerState to what the controller says of itself.

    Raises ObservationError for joints that are not the arm's, and for a reference without positions.
    """
    names, reference = list(msg.joint_names), msg.reference
    missing = [joint for joint in JOINTS if joint not in names]
    if missing or len(reference.positions) != len(names):
        raise ObservationError(
            f"controller_state of {names} with {len(reference.positions)} positions; valid: one each of {list(JOINTS)}"
        )
    order = [names.index(joint) for joint in JOINTS]
    velocities = reference.velocities if len(reference.velocities) == len(names) else [0.0] * len(names)
    return ControllerState(
        stamp_ns(msg.header.stamp), np.array(reference.positions, float)[order], np.array(velocities, float)[order]
    )


_LITTLE = b"\x00\x01\x00\x00"
_STAMPED = 12
"""Where what follows the stamp begins, bytes."""


def fill_joint_state(msg: Any, state: ArmState, ns: int) -> Any:
    """Arm and gripper into a sensor_msgs/JointState, as the driver of the real arm publishes them."""
    set_stamp(msg.header.stamp, ns)
    msg.name = [*JOINTS, GRIPPER_JOINT]
    msg.position = sequence(msg.position, "d", np.append(state.joints, state.gripper * GRIPPER_CLOSED_RAD))
    msg.velocity = sequence(msg.velocity, "d", np.append(state.velocity, 0.0))
    return msg


def fill_trajectory(
    msg: Any, trajectory: Trajectory, point: Callable[[], Any], names: Sequence[str] = JOINTS, ns: int = 0
) -> Any:
    """Trajectory into a trajectory_msgs/JointTrajectory that starts at `ns`; 0: on arrival. `point`: its type."""
    set_stamp(msg.header.stamp, ns)
    msg.joint_names = list(names)
    msg.points = [point() for _ in trajectory.times_s]
    for i, (target, seconds) in enumerate(zip(msg.points, trajectory.times_s)):
        set_stamp(target.time_from_start, round(float(seconds) * NS))
        target.positions = sequence(target.positions, "d", trajectory.positions[i])
        if trajectory.velocities is not None:
            target.velocities = sequence(target.velocities, "d", trajectory.velocities[i])
    return msg


def trajectory(msg: Any) -> Trajectory:
    """trajectory_msgs/JointTrajectory to a trajectory, columns in the order of its `joint_names`.

    Raises ControlError for no point, or points whose lengths do not agree. The controller judges the rest.
    """
    width, points = len(msg.joint_names), list(msg.points)
    if not points:
        raise ControlError("a trajectory without points; valid: at least one")
    for field in ("positions", "velocities"):
        sizes = {len(getattr(point, field)) for point in points}
        if sizes != {width} and not (field == "velocities" and sizes == {0}):
            raise ControlError(f"{width} joint names and {field} of {sorted(sizes)}; valid: {width} in every point")
    velocities = [point.velocities for point in points] if len(points[0].velocities) else None
    return Trajectory(
        np.array([stamp_ns(point.time_from_start) / NS for point in points]),
        np.array([point.positions for point in points], float),
        None if velocities is None else np.array(velocities, float),
    )


def fill_gripper(msg: Any, closed: float, duration_s: float, point: Callable[[], Any]) -> Any:
    """Gripper target, 0 open .. 1 closed, into a trajectory_msgs/JointTrajectory that takes `duration_s`."""
    target = np.array([[closed * GRIPPER_CLOSED_RAD]])
    return fill_trajectory(msg, Trajectory(np.array([duration_s]), target), point, (GRIPPER_JOINT,))


def gripper(msg: Any) -> float:
    """trajectory_msgs/JointTrajectory of the gripper to its last target, 0 open .. 1 closed. Raises ControlError."""
    if list(msg.joint_names) != [GRIPPER_JOINT]:
        raise ControlError(f"gripper trajectory for {list(msg.joint_names)}; valid: {GRIPPER_JOINT}")
    target = float(trajectory(msg).positions[-1, 0])
    if not -0.01 <= target <= GRIPPER_CLOSED_RAD + 0.01:
        raise ControlError(f"gripper target {target} rad; valid: 0 (open) to {GRIPPER_CLOSED_RAD} (closed)")
    return min(max(target / GRIPPER_CLOSED_RAD, 0.0), 1.0)
