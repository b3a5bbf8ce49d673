"""Node `kortex` in front of the fake arm: states, a motion, and a fault that arrives at the guard's topic."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("ecovla_ros.msg")

from graph import graph
from kortex_robot import Robot
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from ecovla_ros import wire
from ecovla_ros.nodes import qos
from ecovla_ros.nodes.kortex import KortexNode
from ecovla_ros.types import Trajectory

HOME = np.array([0.1, 0.3, 3.0, -1.8, -3.0, 0.9, 1.5])


def test_the_node_moves_the_arm_and_tells_its_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent / "fake_kortex"))
    robot = Robot(HOME)
    with graph() as ros:
        ros.start(KortexNode, python=sys.executable, robot_ip="127.0.0.1", port=robot.port)
        states = ros.listen(JointState, "joint_states", qos.SENSOR)
        faults = ros.listen(String, "arm_fault", qos.LATCHED)
        ros.until(lambda: states and faults, "a state, and that there is no fault")
        assert faults[-1].data == "" and np.abs(wire.arm_state(states[-1]).joints - HOME).max() < 1e-6
        send = ros.matched(
            ros.tester.create_publisher(
                JointTrajectory, "joint_trajectory_controller/joint_trajectory", qos.COMMAND
            )
        )
        aim = Trajectory(np.array([0.5]), HOME[None] + 0.05, np.zeros((1, 7)))
        send.publish(wire.fill_trajectory(JointTrajectory(), aim, JointTrajectoryPoint))
        ros.until(lambda: np.abs(np.radians(robot.position) - HOME - 0.05).max() < 0.01, "the motion")
        robot.fault = 1
        ros.until(lambda: faults[-1].data == "joint_4: FOLLOWING_ERROR", "the fault")
        assert ros.call(Trigger, "kortex/clear_faults", Trigger.Request()).success
        ros.until(lambda: faults[-1].data == "", "its end")
    robot.close()
    assert robot.calls[-1] == "CloseSession"
