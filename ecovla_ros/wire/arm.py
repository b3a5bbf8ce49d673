"""What the arm says and what it is told: joint states and trajectories, joints by name."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ecovla_ros.errors import ControlError, ObservationError, short
from ecovla_ros.types import GEN3, JOINTS, ArmJoints, ArmState, ControllerState, Floats, Trajectory
from ecovla_ros.wire import causes
from ecovla_ros.wire.fields import NS, sequence, set_stamp, stamp_ns
from ecovla_ros.wire.joint_names import advice

MOST_RAD = 4.0 * math.pi
"""No joint of this arm is ever reported further from zero; a number of degrees soon is."""
MOST_NAMES = 256
"""Joint names of a message at most: what has more is no robot of ours, and is not searched."""


@functools.lru_cache(maxsize=64)
def places(names: tuple[str, ...], wanted: tuple[str, ...]) -> tuple[Floats, Floats]:
    """Which of the `wanted` joints are among `names`, as indices into `wanted`, and where they stand there.

    Raises ObservationError for one that is named twice.
    """
    twice = sorted({name for name in wanted if names.count(name) > 1})
    if twice:
        raise ObservationError(f"joint_states names {', '.join(twice)} more than once; valid: each joint once")
    columns = [i for i, name in enumerate(wanted) if name in names]
    return np.array(columns, int), np.array([names.index(wanted[i]) for i in columns], int)


def checked_names(msg: Any) -> int:
    """How many joints a JointState names. Raises ObservationError for more than any robot has."""
    count = len(msg.name)
    if count > MOST_NAMES:
        raise ObservationError(f"joint_states has {count} names; valid: up to {MOST_NAMES}")
    return count


def checked_lengths(msg: Any) -> None:
    """Raises ObservationError for a JointState whose lengths do not agree."""
    count = checked_names(msg)
    if len(msg.position) != count or len(msg.velocity) not in (0, count):
        raise ObservationError(
            f"joint_states has {count} names, {len(msg.position)} positions and {len(msg.velocity)} velocities; "
            "valid: as many positions as names, and as many velocities or none"
        )


def arm_state(msg: Any, finite: bool = True, joints: ArmJoints = GEN3) -> ArmState:
    """One sensor_msgs/JointState with all joints to the arm's state: by name, in any order, other joints ignored.

    A message without velocities counts as an arm at rest. Raises ObservationError for joints that are missing or named
    twice, for lengths that do not agree, and, unless `finite` is False, for values that are not finite (the guard wants
    to see these: they latch it) and for a gripper that cannot be in radians. Where joints come in several messages, see
    `states.JointStates`.
    """
    checked_names(msg)
    names, wanted = tuple(msg.name), joints.wanted
    columns, at = places(names, wanted)
    if len(columns) < len(wanted):
        missing = ", ".join(name for name in wanted if name not in names)
        held = short(", ".join(names)) or "no joint"
        raise ObservationError(f"joint_states lacks {missing}; it holds: {held}{advice(names, joints)}")
    checked_lengths(msg)
    position = np.asarray(msg.position, float)[at]
    velocity = np.asarray(msg.velocity, float)[at] if len(msg.velocity) else np.zeros(len(at))
    return state_of(stamp_ns(msg.header.stamp), position, velocity, joints, finite)


def check_radians(state: ArmState, joints: ArmJoints = GEN3) -> None:
    """Raises ObservationError for positions that cannot be radians."""
    worst = int(np.abs(state.joints).argmax())
    if abs(state.joints[worst]) > MOST_RAD:
        raise ObservationError(causes.degrees(joints.arm[worst], float(state.joints[worst])))


def controller_state(msg: Any, joints: Sequence[str] = JOINTS) -> ControllerState:
    """control_msgs/JointTrajectoryControllerState to what the controller says of itself.

    Raises ObservationError for joints that are not the arm's, and for a reference without positions.
    """
    names, reference = list(msg.joint_names), msg.reference
    missing = [joint for joint in joints if joint not in names]
    if missing or len(reference.positions) != len(names):
        raise ObservationError(
            f"controller_state of {names} with {len(reference.positions)} positions; valid: one each of {list(joints)}"
        )
    order = [names.index(joint) for joint in joints]
    velocities = reference.velocities if len(reference.velocities) == len(names) else [0.0] * len(names)
    since = reference.time_from_start
    return ControllerState(
        stamp_ns(msg.header.stamp), np.array(reference.positions, float)[order], np.array(velocities, float)[order],
        since.sec + since.nanosec / 1e9,
    )  # fmt: skip


def state_of(ns: int, position: Floats, velocity: Floats, joints: ArmJoints, finite: bool) -> ArmState:
    """Of positions and velocities in the order of `joints.wanted`. Raises ObservationError, see `arm_state`."""
    arm = len(joints.arm)
    if finite:
        sound = np.isfinite(position) & np.append(np.isfinite(velocity[:arm]), np.ones(len(position) - arm, bool))
        if not sound.all():
            broken = [name for name, whole in zip(joints.wanted, sound) if not whole]
            raise ObservationError(f"joint_states is not finite for {', '.join(broken)}; valid: finite rad and rad/s")
        if joints.gripper and abs(float(position[-1])) > MOST_RAD >= np.abs(position[:arm]).max():
            raise ObservationError(causes.degrees(joints.gripper, float(position[-1])))
    share = float(position[-1]) / joints.closed_rad if joints.gripper else 0.0
    closed = min(max(share, 0.0), 1.0) if math.isfinite(share) else math.nan
    return ArmState(ns, position[:arm], velocity[:arm], closed)


def fill_joint_state(msg: Any, state: ArmState, ns: int, joints: ArmJoints = GEN3) -> Any:
    """Arm and gripper into a sensor_msgs/JointState, as the driver of the real arm publishes them."""
    set_stamp(msg.header.stamp, ns)
    msg.name = list(joints.wanted)
    closed = [state.gripper * joints.closed_rad] if joints.gripper else []
    msg.position = sequence(msg.position, "d", np.append(state.joints, closed))
    msg.velocity = sequence(msg.velocity, "d", np.append(state.velocity, [0.0] * len(closed)))
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


def fill_gripper(msg: Any, closed: float, duration_s: float, point: Callable[[], Any], joints: ArmJoints = GEN3) -> Any:
    """Gripper target, 0 open .. 1 closed, into a trajectory_msgs/JointTrajectory that takes `duration_s`."""
    target = np.array([[closed * joints.closed_rad]])
    return fill_trajectory(msg, Trajectory(np.array([duration_s]), target), point, (joints.gripper,))


def gripper(msg: Any, joints: ArmJoints = GEN3) -> float:
    """trajectory_msgs/JointTrajectory of the gripper to its last target, 0 open .. 1 closed. Raises ControlError."""
    if not joints.gripper or list(msg.joint_names) != [joints.gripper]:
        valid = joints.gripper or "none, as there is no gripper (arm.gripper_joint)"
        raise ControlError(f"gripper trajectory for {list(msg.joint_names)}; valid: {valid}")
    target = float(trajectory(msg).positions[-1, 0])
    if not -0.01 <= target <= joints.closed_rad + 0.01:
        raise ControlError(f"gripper target {target} rad; valid: 0 (open) to {joints.closed_rad} (closed)")
    return min(max(target / joints.closed_rad, 0.0), 1.0)
