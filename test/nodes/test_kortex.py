"""Node `kortex` in front of the fake arm: states, motions by joint name, refusals, and a fault on the guard's topic."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("ecovla_ros.msg")

from diagnostic_msgs.msg import DiagnosticArray
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from std_srvs.srv import Trigger
from support.graph import Graph, graph
from support.kortex_robot import Robot
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from ecovla_ros import wire
from ecovla_ros.errors import ConfigError
from ecovla_ros.nodes import kortex
from ecovla_ros.nodes.kortex import KortexNode
from ecovla_ros.nodes.ros import qos
from ecovla_ros.types import JOINTS, Trajectory

HOME = np.array([0.1, 0.3, 3.0, -1.8, -3.0, 0.9, 1.5])


def test_the_node_moves_the_arm_and_tells_its_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1] / "support" / "fake_kortex"))
    robot = Robot(HOME)
    with graph() as ros:
        ros.start(KortexNode, python=sys.executable, robot_ip="127.0.0.1", port=robot.port)
        states = ros.listen(JointState, "joint_states", qos.SENSOR)
        faults = ros.listen(String, "arm_fault", qos.LATCHED)
        ros.until(lambda: states and faults, "a state, and that there is no fault")
        assert faults[-1].data == "" and np.abs(wire.arm_state(states[-1]).joints - HOME).max() < 1e-6
        send = ros.matched(
            ros.tester.create_publisher(JointTrajectory, "joint_trajectory_controller/joint_trajectory", qos.COMMAND)
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


def starts(ros: Graph, robot: Robot) -> tuple[Any, Any]:
    """The node, once it has found the arm, and a publisher of trajectories to it."""
    node = ros.start(KortexNode, python=sys.executable, robot_ip="127.0.0.1", port=robot.port)
    states = ros.listen(JointState, "joint_states", qos.SENSOR)
    topic = "joint_trajectory_controller/joint_trajectory"
    send = ros.matched(ros.tester.create_publisher(JointTrajectory, topic, qos.COMMAND))
    ros.until(lambda: states, "a state")
    return node, send


def message(times: list[float], positions: np.ndarray, names: tuple[str, ...] = JOINTS) -> JointTrajectory:
    aim = Trajectory(np.array(times), positions, np.zeros(positions.shape))
    return wire.fill_trajectory(JointTrajectory(), aim, JointTrajectoryPoint, names)


def test_joints_are_taken_by_name_and_a_first_point_may_be_at_time_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1] / "support" / "fake_kortex"))
    robot = Robot(HOME)
    with graph() as ros:
        _, send = starts(ros, robot)
        aim = HOME + 0.02 * np.arange(1, 8)
        send.publish(message([0.0, 0.5], np.stack([HOME, aim])[:, ::-1], JOINTS[::-1]))
        ros.until(lambda: np.abs(np.radians(robot.position) - aim).max() < 0.01, "the motion")
    assert np.abs(np.array(robot.track) - HOME).max() < 0.25, "no joint is taken for another"
    robot.close()


def test_what_the_trajectory_controller_refuses_is_refused_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1] / "support" / "fake_kortex"))
    robot, aim = Robot(HOME), HOME[None] + 0.1
    moving, stale = message([0.5], aim), message([0.5], aim)
    moving.points[-1].velocities[0] = 0.3
    stale.header.stamp.sec = 1
    wrong = [
        message([0.5], aim[:, :1], JOINTS[:1]), message([0.5], aim, ("joint_8", *JOINTS[1:])),
        message([0.5], aim * np.nan), message([0.5, 0.5], np.vstack((aim, aim))), moving, stale,
    ]  # fmt: skip
    with graph() as ros:
        (node, send), told = starts(ros, robot), ros.listen(DiagnosticArray, "/diagnostics", qos.REPORT)
        for k, msg in enumerate(wrong):
            send.publish(msg)
            ros.until(lambda k=k: node._refused == k + 1, f"that message {k} is refused")
        ros.until(lambda: told and count(told[-1]) == len(wrong), "their count in the diagnostics")
        assert "SendJointSpeedsCommand" not in robot.calls
        send.publish(message([0.5], aim))
        ros.until(lambda: np.abs(np.radians(robot.position) - aim[0]).max() < 0.01, "a motion after them")
    robot.close()


def count(array: DiagnosticArray) -> int:
    return int({pair.key: pair.value for pair in array.status[0].values}["refused"])


def test_the_password_is_of_a_file_or_the_environment_and_no_parameter(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert "password" not in {name for name, _, _ in kortex.PARAMETERS}
    monkeypatch.setenv("KORTEX_PASSWORD", "from the environment")
    (tmp_path / "secret").write_text("from a file\n", encoding="utf-8")
    assert kortex.password(str(tmp_path / "secret")) == "from a file"
    assert "KORTEX_PASSWORD" not in os.environ, "what it starts does not inherit it"
    monkeypatch.setenv("KORTEX_PASSWORD", "from the environment")
    assert kortex.password("") == "from the environment" and kortex.password("") == "admin"
    (tmp_path / "empty").touch()
    for name in ("empty", "missing"):
        with pytest.raises(ConfigError, match="password_file"):
            kortex.password(str(tmp_path / name))


def test_what_lay_here_while_the_node_stood_still_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1] / "support" / "fake_kortex"))
    robot = Robot(HOME)
    with graph() as ros:
        node, send = starts(ros, robot)
        for number in (1, 2):
            send.publish(message([0.5], HOME[None] + 0.1 * number))
            time.sleep(kortex.STOOD_S + 0.1)  # nothing of this process runs: both nodes are on its executor
            ros.until(lambda n=number: node._refused == n, "that it is refused")
        assert "SendJointSpeedsCommand" not in robot.calls
        ros.spin(0.2)
        send.publish(message([0.5], HOME[None] + 0.1))
        ros.until(lambda: np.abs(np.radians(robot.position) - HOME - 0.1).max() < 0.01, "a new one is carried out")
    robot.close()
