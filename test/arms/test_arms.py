"""The arms: the topic fills messages, kortex is held to what the real one does."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support.kortex_robot import Robot, until

from ecovla_ros.arms.kortex.process import KortexArm
from ecovla_ros.arms.trajectory_topic import TrajectoryTopic
from ecovla_ros.control.limits import load
from ecovla_ros.errors import ConfigError, ControlError
from ecovla_ros.types import JOINTS, Trajectory

HOME = np.array([0.1, 0.3, 3.0, -1.8, -3.0, 0.9, 1.5])
LIMITS = load("normal")
FAKE = Path(__file__).parents[1] / "support" / "fake_kortex"


def ramp(start: np.ndarray, step: float = 0.12, seconds: float = 0.8) -> Trajectory:
    """From rest to rest along a smooth step."""
    s = np.linspace(0.0, 1.0, 9)[1:, None]
    shape, slope = 3 * s**2 - 2 * s**3, (6 * s - 6 * s**2) / seconds
    return Trajectory(s[:, 0] * seconds, start + step * shape, step * slope * np.ones(7))


def test_the_topic_gets_one_message_a_trajectory_that_starts_on_arrival() -> None:
    sent: list[Any] = []
    grips: list[float] = []

    def message() -> Any:
        stamp = SimpleNamespace(sec=0, nanosec=0)
        return SimpleNamespace(header=SimpleNamespace(stamp=stamp), joint_names=[], points=[])

    def point() -> Any:
        return SimpleNamespace(time_from_start=SimpleNamespace(sec=0, nanosec=0), positions=[], velocities=[])

    arm = TrajectoryTopic(sent.append, message, point, grips.append)
    arm.send(ramp(HOME))
    arm.gripper(0.5)
    arm.close()
    assert len(sent) == 1 and sent[0].joint_names == list(JOINTS) and len(sent[0].points) == 8
    assert sent[0].header.stamp.sec == 0 and not any(sent[0].points[-1].velocities)
    assert grips == [0.5] and arm.state() is None and arm.fault == ""


@pytest.fixture
def robot() -> Iterator[Robot]:
    made = Robot(HOME)
    yield made
    made.close()


@pytest.fixture
def connect(robot: Robot, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., KortexArm]]:
    monkeypatch.setenv("PYTHONPATH", str(FAKE))
    arms: list[KortexArm] = []

    def make(*more: str) -> KortexArm:
        arguments = ["--ip", "127.0.0.1", "--port", str(robot.port), *more]
        arms.append(KortexArm(sys.executable, LIMITS, time.time_ns, arguments))
        return arms[-1]

    yield make
    for arm in arms:
        arm.close()


def reached(robot: Robot, step: float) -> Callable[[], bool]:
    return lambda: bool(np.abs(np.radians(robot.position) - (HOME + step)).max() < 0.01) and robot.rests()


def test_a_session_sets_soft_limits_first_reads_radians_and_follows_a_trajectory(
    robot: Robot, connect: Callable[..., KortexArm]
) -> None:
    arm = connect()
    until(lambda: arm.state() is not None, "a state")
    assert robot.calls[:4] == ["CreateSession", "SoftLimits", "SoftLimits", "SetServoingMode"]
    assert robot.soft["speed"] == pytest.approx(np.degrees(LIMITS.velocity))
    state = arm.state()
    assert state is not None and np.abs(state.joints - HOME).max() < 1e-6, "a joint at 183 degrees is at -177"
    arm.gripper(0.7)
    for k in range(3):
        arm.send(ramp(HOME + 0.12 * k))
        until(reached(robot, 0.12 * (k + 1)), f"the end of motion {k}")
    until(lambda: robot.calls[-3:].count("SendJointSpeedsCommand") == 0, "silence at rest")
    assert robot.gripper == 0.7 and np.abs(robot.speeds).max() <= 0.6 and arm.fault == ""
    with pytest.raises(ControlError, match="without velocities"):
        arm.send(Trajectory(np.array([1.0]), HOME[None]))


def test_slow_calls_and_lost_replies_of_single_commands_do_not_lose_the_arm(
    robot: Robot, connect: Callable[..., KortexArm]
) -> None:
    arm = connect()
    until(lambda: arm.state() is not None, "a state")
    robot.slow_s = 0.03  # two calls a turn: a speed every 60 ms
    arm.send(ramp(HOME))
    until(reached(robot, 0.12), "the end at slow calls")
    assert np.abs(np.array(robot.track) - HOME).max() < 0.12 + 0.03, "it does not run past"
    robot.slow_s, robot.lose = 0.0, "SendJointSpeedsCommand"
    arm.send(ramp(HOME + 0.12))
    until(lambda: "does not answer" in arm.fault, "the fault by name")
    until(robot.rests, "rest")
    robot.lose = ""
    arm.clear()
    until(lambda: arm.fault == "", "no fault")


def test_a_fault_of_the_arm_is_named_and_stops_what_runs(robot: Robot, connect: Callable[..., KortexArm]) -> None:
    arm = connect()
    until(lambda: arm.state() is not None, "a state")
    arm.send(ramp(HOME))
    until(lambda: not robot.rests(), "motion")
    robot.fault = 1
    until(lambda: arm.fault == "joint_4: FOLLOWING_ERROR", "the name of the fault")
    until(robot.rests, "rest")
    arm.clear()
    until(lambda: arm.fault == "", "no fault")
    moved = np.radians(robot.position)
    time.sleep(0.3)
    assert np.abs(np.radians(robot.position) - moved).max() < 1e-9, "the old trajectory is dropped"


def test_a_stop_whose_reply_is_lost_is_tried_again_and_the_server_lives_on(
    robot: Robot, connect: Callable[..., KortexArm]
) -> None:
    arm = connect()
    until(lambda: arm.state() is not None, "a state")
    arm.send(ramp(HOME))
    until(lambda: not robot.rests(), "motion")
    robot.lose, robot.fault = "Stop", 1
    until(lambda: robot.calls.count("Stop") >= 2, "a second stop")
    robot.lose = ""
    until(robot.rests, "rest")
    arm.clear()
    until(lambda: arm.fault == "" and robot.fault == 0, "no fault")
    at = np.radians(robot.position)
    arm.send(ramp(at))
    until(lambda: bool(np.abs(np.radians(robot.position) - at - 0.12).max() < 0.01), "a motion after it")


@pytest.mark.parametrize("way", ["close", "SIGTERM", "SIGKILL", "a fault of the pipe"])
def test_every_way_out_stops_the_arm(way: str, robot: Robot, connect: Callable[..., KortexArm]) -> None:
    arm = connect("--inactivity-ms", "300")
    until(lambda: arm.state() is not None, "a state")
    arm.send(ramp(HOME, 0.3, 1.6))
    until(lambda: np.abs(robot.speed).max() > 5.0, "motion")
    if way == "close":
        arm.close()
    elif way.startswith("SIG"):
        os.kill(arm.pid, getattr(signal, way))
    else:
        assert arm._process.stdin is not None
        arm._process.stdin.close()
    until(robot.rests, "rest")
    until(lambda: arm.fault.startswith("the kortex process ended"), "its end")
    if way == "SIGKILL":
        assert robot.session is not None, "nobody logged out: the time-out of the connection did it"
    else:
        assert robot.calls[-2:] == ["Stop", "CloseSession"]
    with pytest.raises(ControlError, match="cannot be commanded"):
        for _ in range(3):
            arm.gripper(1.0)
            time.sleep(0.05)


def test_an_arm_that_cannot_be_reached_is_said_to_be_so(robot: Robot, connect: Callable[..., KortexArm]) -> None:
    robot._password = "another"
    arm = connect()
    until(lambda: "ended with code 3" in arm.fault, "the end")
    assert robot.session is None and "SoftLimits" not in robot.calls
    with pytest.raises(ConfigError, match="an environment with kortex_api"):
        KortexArm("/no/python", LIMITS, time.time_ns)
