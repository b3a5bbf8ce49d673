"""`ecovla trial`: what was commanded is run again as it was planned, and the rest after a kill is seen in it."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("ecovla_ros.msg")

from sensor_msgs.msg import JointState
from support.graph import graph, joints
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from ecovla_ros import wire
from ecovla_ros.nodes.ros import qos
from ecovla_ros.stage.recorded_controller import COMMANDS, RecordedController
from ecovla_ros.types import Trajectory


def test_commands_are_run_again_by_their_own_stamps() -> None:
    with graph() as ros:
        arm = RecordedController(ros.tester)
        states = ros.matched(ros.tester.create_publisher(JointState, "joint_states", qos.COMMAND))
        told = ros.matched(ros.tester.create_publisher(JointTrajectory, COMMANDS, qos.COMMAND))

        def now() -> int:
            return int(ros.tester.get_clock().now().nanoseconds)

        states.publish(joints(now(), 0.1))
        ros.until(lambda: arm._joints is not None, "a joint state")
        arm.begin()
        aim = Trajectory(np.array([0.5]), np.full((1, 7), 0.2), np.zeros((1, 7)))
        told.publish(wire.fill_trajectory(JointTrajectory(), aim, JointTrajectoryPoint, ns=now()))
        ros.until(lambda: arm.speed() > 0.05, "motion")
        ros.spin(0.7)
        assert arm.speed() == 0.0
        position, velocity = arm.again().commanded()
        assert np.abs(position[-1] - 0.2).max() < 1e-6 and 0.25 < np.abs(velocity).max() < 0.35
        moving = np.flatnonzero(np.abs(velocity).max(axis=1) > 1e-3)
        assert 480 <= moving[-1] - moving[0] <= 505, "half a second, at 1 kHz"
