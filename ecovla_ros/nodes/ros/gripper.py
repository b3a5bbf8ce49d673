"""How the guard commands the 2F-85: by a trajectory topic, or by the action its controller offers.

The controllers of ros2_kortex offer an action whose type depends on the distribution: GripperCommand on Humble,
ParallelGripperCommand since Jazzy. control_msgs is imported only when one of them is asked for.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from rclpy.action import ActionClient
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from ecovla_ros import wire
from ecovla_ros.errors import ConfigError, unknown
from ecovla_ros.nodes.ros import qos
from ecovla_ros.types import GEN3, ArmJoints

KINDS = ("topic", "parallel_gripper", "gripper_command", "none")
ACTION = "gripper_cmd"
"""Name of the action; remap it to /robotiq_gripper_controller/gripper_cmd."""
STROKE_S = 0.5
"""Time that the topic gives the gripper for any change, s."""
MAX_EFFORT = 100.0
"""As the controllers of ros2_kortex are configured by default."""

Send = Callable[[float], None]


def sender(node: Any, kind: str, joints: ArmJoints = GEN3) -> Send:
    """A function that sends a target, 0 open .. 1 closed.

    Raises ConfigError for an unknown kind, or for an action while control_msgs is not installed.
    """
    if kind not in KINDS:
        raise ConfigError("parameter gripper: " + unknown("kind", kind, KINDS))
    if kind == "none" or not joints.gripper:
        return lambda closed: None
    return _topic(node, joints) if kind == "topic" else _action(node, kind, joints)


def _topic(node: Any, joints: ArmJoints) -> Send:
    publisher = node.create_publisher(JointTrajectory, "gripper_trajectory", qos.COMMAND)

    def send(closed: float) -> None:
        publisher.publish(wire.fill_gripper(JointTrajectory(), closed, STROKE_S, JointTrajectoryPoint, joints))

    return send


def _action(node: Any, kind: str, joints: ArmJoints) -> Send:
    name = "ParallelGripperCommand" if kind == "parallel_gripper" else "GripperCommand"
    try:
        action = getattr(importlib.import_module("control_msgs.action"), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"parameter gripper: '{kind}' needs control_msgs/action/{name} ({error}); install control_msgs, or use "
            "one of topic, none"
        ) from error
    client = ActionClient(node, action, ACTION)

    def send(closed: float) -> None:
        if not client.server_is_ready():
            node.get_logger().warning(f"no server of the gripper action {ACTION} yet", throttle_duration_sec=2.0)
            return
        goal, target = action.Goal(), closed * joints.closed_rad
        if kind == "parallel_gripper":
            goal.command.name, goal.command.position = [joints.gripper], [target]
        else:
            goal.command.position, goal.command.max_effort = target, MAX_EFFORT
        client.send_goal_async(goal)

    return send
