"""An arm behind ros2_control's trajectory topic: the real Gen3, mock hardware, Gazebo and our simulator alike.

The messages and how to publish them are handed in: this room does not know rclpy. The controller interpolates at 1 kHz
and comes to rest at the end of what it has, whoever dies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ecovla_ros import wire
from ecovla_ros.arms.base import Arm
from ecovla_ros.types import JOINTS, ArmState, Trajectory


class TrajectoryTopic(Arm):
    """Publishes; where the arm is comes by `joint_states`, what is wrong with it by `arm_fault`."""

    fault = ""

    def __init__(
        self, publish: Callable[[Any], None], message: Callable[[], Any], point: Callable[[], Any],
        gripper: Callable[[float], None], names: Sequence[str] = JOINTS,
    ) -> None:  # fmt: skip
        """`message` and `point` make a trajectory_msgs JointTrajectory and its point; `gripper` sends a target.

        `names`: of the seven joints, as the controller knows them.
        """
        self._publish, self._message, self._point, self._gripper = publish, message, point, gripper
        self._names = tuple(names)

    def send(self, trajectory: Trajectory, begin_ns: int = 0) -> None:
        """One JointTrajectory that begins at `begin_ns` of the controller's clock; 0: on arrival."""
        self._publish(wire.fill_trajectory(self._message(), trajectory, self._point, self._names, begin_ns))

    def gripper(self, closed: float) -> None:
        """Target 0 open .. 1 closed, by topic or action."""
        self._gripper(closed)

    def state(self) -> ArmState | None:
        """None: joint_states has it."""
        return None

    def close(self) -> None:
        """Nothing: what was published ends at rest."""
