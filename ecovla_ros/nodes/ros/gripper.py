"""How the guard commands the 2F-85: by a trajectory topic, or by the action its controller offers.

The controllers of ros2_kortex offer an action whose type depends on the release: GripperCommand on Humble,
ParallelGripperCommand since Jazzy. A goal of the other type waits for ever and nobody says so, hence kind `auto`: what
the graph offers is taken. control_msgs is imported only when an action is used.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from rclpy.action import ActionClient, get_action_names_and_types
from rclpy.clock import Clock, ClockType
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from ecovla_ros import wire
from ecovla_ros.errors import ConfigError, unknown
from ecovla_ros.nodes.ros import qos
from ecovla_ros.types import GEN3, ArmJoints

KINDS = ("auto", "topic", "parallel_gripper", "gripper_command", "none")
TYPES = {"parallel_gripper": "ParallelGripperCommand", "gripper_command": "GripperCommand"}
"""Kind -> action of control_msgs."""
ACTION = "gripper_cmd"
"""Name of the action; remap it to /robotiq_gripper_controller/gripper_cmd."""
LOOK_S = 1.0
"""Time between two looks for the action until it is found, s: a client made for a goal comes too late for it."""
SAY_AGAIN_S = 2.0
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
    if kind == "auto":
        return Found(node, joints)
    return _Topic(node, joints) if kind == "topic" else _action(node, kind, joints)


def offered(node: Any) -> list[str]:
    """Types of the gripper's action in the graph, by their last name; empty where nobody offers it."""
    name = node.resolve_topic_name(ACTION)
    return [kind.rpartition("/")[2] for found, kinds in get_action_names_and_types(node) if found == name
            for kind in kinds]  # fmt: skip


class _Topic:
    """Trajectories of one point, for controllers that take them: the simulator's, and node `kortex`."""

    def __init__(self, node: Any, joints: ArmJoints) -> None:
        self._joints = joints
        self._publisher = node.create_publisher(JointTrajectory, "gripper_trajectory", qos.COMMAND)

    @property
    def read(self) -> bool:
        """Whether anybody listens."""
        return bool(self._publisher.get_subscription_count())

    def __call__(self, closed: float) -> None:
        message = wire.fill_gripper(JointTrajectory(), closed, STROKE_S, JointTrajectoryPoint, self._joints)
        self._publisher.publish(message)


class Found:
    """By what the graph offers: the action in the type that its controller has, else the topic if anybody reads it."""

    def __init__(self, node: Any, joints: ArmJoints) -> None:
        self._node, self._joints, self._topic = node, joints, _Topic(node, joints)
        self._actions: dict[str, Send] = {}
        self._timer = node.create_timer(LOOK_S, self.look, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def look(self) -> None:
        """Make the client of an action that somebody offers; look no more once there is one, or a reader of the topic.

        A controller that comes back in another type is found by the next target.
        """
        if self._client() is not None or self._topic.read:
            self._timer.cancel()

    def __call__(self, closed: float) -> None:
        send = self._client() or (self._topic if self._topic.read else None)
        if send is None:
            self._node.get_logger().warning(
                f"nobody offers {self._node.resolve_topic_name(ACTION)} or reads the gripper's topic: target "
                f"{closed:.2f} is lost; valid: an active controller of the gripper, or gripper:=none",
                throttle_duration_sec=SAY_AGAIN_S,
            )
            return
        send(closed)

    def _client(self) -> Send | None:
        for kind, name in TYPES.items():
            if name in offered(self._node):
                try:
                    return self._actions.setdefault(
                        kind, self._actions.get(kind) or _action(self._node, kind, self._joints)
                    )
                except ConfigError as error:
                    self._node.get_logger().error(str(error), throttle_duration_sec=SAY_AGAIN_S)
        return None


def _action(node: Any, kind: str, joints: ArmJoints) -> Send:
    name = TYPES[kind]
    try:
        action = getattr(importlib.import_module("control_msgs.action"), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"gripper by '{kind}' needs control_msgs/action/{name} ({error}); install control_msgs, or use one of "
            "topic, none"
        ) from error
    client: Any = ActionClient(node, action, ACTION)

    def send(closed: float) -> None:
        if not client.server_is_ready():
            other = [kind for kind in offered(node) if kind != name]
            text = (
                f"the gripper's controller offers {other[0]} and is asked for {name}; valid: gripper:=auto"
                if other
                else (f"no server of the gripper action {ACTION} yet")
            )
            node.get_logger().warning(text, throttle_duration_sec=SAY_AGAIN_S)
            return
        goal, target = action.Goal(), closed * joints.closed_rad
        if kind == "parallel_gripper":
            goal.command.name, goal.command.position = [joints.gripper], [target]
        else:
            goal.command.position, goal.command.max_effort = target, MAX_EFFORT
        client.send_goal_async(goal)

    return send
