"""Node `demonstrator`: the built-in simulator's expert drives in Gazebo, in the policy's place.

It publishes chunks as the policy does, which the guard judges as it judges that one's; but it knows where everything
is from the poses that Gazebo tells. What it does can be recorded, as a person's teleoperation would be, and trained on
(`ecovla train --bags`). A scene begins with its instruction. While the guard ramps up the speed after it was enabled,
the expert asks to stay, so that a slow start is no part of what it demonstrates.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import PoseStamped
from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_msgs.msg import String

from ecovla_ros import wire
from ecovla_ros.control.states import State
from ecovla_ros.errors import ObservationError, SimulationError, unknown
from ecovla_ros.nodes.ros import intake, process, qos, settings
from ecovla_ros.nodes.ros.interfaces import ActionChunk
from ecovla_ros.sim import gazebo
from ecovla_ros.sim.demonstrator import Demonstrator
from ecovla_ros.sim.mirror import THINGS
from ecovla_ros.sim.tasks import TASKS
from ecovla_ros.types import ArmJoints

STATES_BYTES, POSE_BYTES, WORDS_BYTES = 2**14, 2**10, 2**14
"""Longest messages of joint states, of a thing's pose, and of words (an instruction, the guard's) that are read."""
SAID_S = 5.0
"""The same complaint is not said again for so long, s."""


class DemonstratorNode(Node):
    """Poses, joint states and the instruction in, chunks out. One thread; joint states are its clock."""

    def __init__(self, **options: Any) -> None:
        """Open the topics. Raises ConfigError."""
        super().__init__("demonstrator", **options)
        self._joints: ArmJoints = settings.Settings(self, "arm").read().arm.joints
        self._expert, self._still = Demonstrator(), True
        self._chunks = self.create_publisher(ActionChunk, "action_chunk", qos.COMMAND)
        intake.subscribe(self, JointState, "joint_states", self._on_states, qos.SENSOR, STATES_BYTES)
        intake.subscribe(self, DiagnosticStatus, "status", self._on_status, qos.LATCHED, WORDS_BYTES)
        intake.subscribe(self, String, "instruction", self._on_instruction, qos.LATCHED, WORDS_BYTES)
        for name in THINGS:
            hear = partial(self._on_pose, name)
            intake.subscribe(self, PoseStamped, gazebo.pose_topic(name), hear, qos.SENSOR, POSE_BYTES)
        self.get_logger().info("waiting for an instruction, and for the poses that Gazebo tells")

    def _on_instruction(self, msg: String) -> None:
        named = {task.instruction: name for name, task in TASKS.items()}
        if msg.data not in named:
            self._complain(unknown("instruction", msg.data, named))
            return
        self._expert.begin(named[msg.data])

    def _on_status(self, msg: DiagnosticStatus) -> None:
        named = {pair.key: pair.value for pair in msg.values}
        self._still = named.get("state") in (State.DISARMED.name, State.ARMED.name)

    def _on_pose(self, name: str, msg: PoseStamped) -> None:
        at, turn = msg.pose.position, msg.pose.orientation
        try:
            self._expert.put(name, (at.x, at.y, at.z), (turn.w, turn.x, turn.y, turn.z))
        except SimulationError as error:
            self._complain(str(error))

    def _on_states(self, msg: JointState) -> None:
        try:
            state = wire.arm_state(msg, joints=self._joints)
        except ObservationError as error:
            self._complain(str(error))
            return
        chunk = self._expert.answer(state, self._still)
        if chunk is not None:
            self._chunks.publish(wire.fill_chunk(ActionChunk(), chunk))

    def _complain(self, words: str) -> None:
        self.get_logger().error(words, throttle_duration_sec=SAID_S)

    def close(self) -> None:
        """Nothing to end: the guard brings an arm to rest that hears nothing."""


def main(arguments: list[str] | None = None) -> int:
    """Entry point of `ros2 run ecovla_ros demonstrator`."""
    return process.run("demonstrator", DemonstratorNode, arguments)
