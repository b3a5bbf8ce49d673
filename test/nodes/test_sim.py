"""Node `sim` and node `record` over real topics: the real arm's interface, the same physics as without ROS, bags."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("ecovla_ros.msg")

from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_msgs.msg import Bool, String
from std_srvs.srv import Trigger
from support.graph import Graph, graph
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from ecovla_ros import wire
from ecovla_ros.bags.film import make
from ecovla_ros.bags.read import messages, topics
from ecovla_ros.errors import BagError, SimulationError
from ecovla_ros.nodes.record import RecordNode
from ecovla_ros.nodes.ros import qos
from ecovla_ros.nodes.ros.interfaces import ApplyEvent, ResetScene
from ecovla_ros.nodes.sim import SimNode, event
from ecovla_ros.sim.env import PERIOD_TICKS
from ecovla_ros.sim.world import World
from ecovla_ros.types import JOINTS, Trajectory

ARM = "joint_trajectory_controller/joint_trajectory"
GRIPPER = "robotiq_gripper_controller/joint_trajectory"
SMALL = ["sim.width=32", "sim.height=32", "sim.renderer=ray"]


@pytest.fixture
def ros() -> Iterator[Graph]:
    with graph() as made:
        yield made


def motion(rng: np.random.Generator, start: np.ndarray) -> Trajectory:
    steps = start + np.cumsum(rng.normal(0.0, 0.01, (4, 7)), axis=0)
    velocities = np.gradient(steps, 0.1, axis=0)
    velocities[-1] = 0.0
    return Trajectory(0.1 * np.arange(1, 5), steps, velocities)


def test_the_same_trajectories_give_the_same_joints_with_and_without_ros(ros: Graph) -> None:
    node = ros.start(SimNode, overrides=[*SMALL, "sim.lock_step=true", "sim.task=banana", "sim.seed=3"])
    arm = ros.matched(ros.tester.create_publisher(JointTrajectory, ARM, qos.COMMAND))
    gripper = ros.matched(ros.tester.create_publisher(JointTrajectory, GRIPPER, qos.COMMAND))
    heard: list[JointState] = ros.listen(JointState, "joint_states", 50)
    ros.until(lambda: ros.tester.count_publishers("joint_states"))
    world, rng = World(32, 32), np.random.default_rng(0)
    world.reset("banana", 3)
    for period in range(12):
        sent, closed = motion(rng, world.commanded()), 0.1 * (period % 9)
        gripper.publish(wire.fill_gripper(JointTrajectory(), closed, 0.1, JointTrajectoryPoint))
        ros.until(lambda c=closed: node._world._closed_target == pytest.approx(c, abs=1e-9), "gripper")
        order = list(rng.permutation(JOINTS))
        msg = wire.fill_trajectory(JointTrajectory(), shuffled(sent, order), JointTrajectoryPoint, order)
        arm.publish(msg)
        ros.until(lambda p=period: len(heard) >= PERIOD_TICKS * (p + 1), f"period {period}")
        world.gripper(closed)
        world.accept(wire.trajectory(msg), order)
        for tick in range(PERIOD_TICKS):
            world.tick()
            state = wire.arm_state(heard[PERIOD_TICKS * period + tick])
            np.testing.assert_allclose(state.joints, world.arm_state().joints, rtol=0, atol=1e-6)
    assert np.abs(world.commanded() - node._world.commanded()).max() < 1e-9


def shuffled(sent: Trajectory, order: list[str]) -> Trajectory:
    columns = [JOINTS.index(name) for name in order]
    assert sent.velocities is not None
    return Trajectory(sent.times_s, sent.positions[:, columns], sent.velocities[:, columns])


def test_the_scene_can_be_laid_anew_and_changed_and_says_what_it_cannot(ros: Graph) -> None:
    ros.start(SimNode, overrides=SMALL)
    instructions: list[String] = ros.listen(String, "instruction", qos.LATCHED)
    successes: list[Bool] = ros.listen(Bool, "success", qos.LATCHED)
    answer = ros.call(ResetScene, "sim/reset", ResetScene.Request(task="bottle", seed=4))
    assert answer.success and answer.instruction == "put the pill bottle in the cabinet"
    ros.until(lambda: instructions and instructions[-1].data == answer.instruction and successes, "instruction")
    refused = ros.call(ResetScene, "sim/reset", ResetScene.Request(task="botle"))
    assert not refused.success and "Did you mean 'bottle'" in refused.message
    assert ros.call(ApplyEvent, "sim/event", ApplyEvent.Request(kind="light_level", values=[0.5])).success
    refused = ros.call(ApplyEvent, "sim/event", ApplyEvent.Request(kind="light_level", values=[50.0]))
    assert not refused.success and "outside [0.0, 3.0]" in refused.message
    assert "real time" in ros.call(Trigger, "sim/step", Trigger.Request()).message


def test_an_event_takes_its_numbers_in_order() -> None:
    assert dict(event("object_push", "banana", [1.0, 2.0, 3.0, 0.5]).values) == {
        "object": "banana",
        "force": [1.0, 2.0, 3.0],
        "duration_s": 0.5,
    }
    assert dict(event("distractor", "", [0.4]).values) == {"x": 0.4}
    with pytest.raises(SimulationError, match="Did you mean 'object_push'"):
        event("object_pusch", "", [])
    with pytest.raises(SimulationError, match="2 values; valid, in this order: {'level': 1}"):
        event("light_level", "", [1.0, 2.0])


def test_stamps_never_go_back_and_pictures_come_with_their_camera(ros: Graph) -> None:
    ros.start(SimNode, overrides=[*SMALL, "sim.image_hz=20.0"])
    clocks: list[Clock] = ros.listen(Clock, "/clock", qos.SENSOR)
    pictures: list[Image] = ros.listen(Image, "wrist/image", qos.SENSOR)
    infos: list[CameraInfo] = ros.listen(CameraInfo, "wrist/camera_info", qos.SENSOR)
    ros.until(lambda: len(pictures) > 2 and len(clocks) > 10, "pictures")
    ros.call(ResetScene, "sim/reset", ResetScene.Request(task="apple", seed=1))
    seen = len(pictures)
    ros.until(lambda: len(pictures) > seen + 2, "pictures after the reset")
    stamps = [wire.stamp_ns(c.clock) for c in clocks]
    assert stamps == sorted(stamps)
    shots = [wire.stamp_ns(p.header.stamp) for p in pictures]
    assert shots == sorted(set(shots))
    assert abs(ros.tester.get_clock().now().nanoseconds - shots[-1]) < 10**9, "anchored to the wall clock"
    assert wire.decode_image(pictures[-1]).std() > 5.0, "a picture, not a plain"
    assert infos[-1].k[0] > 0 and (infos[-1].width, infos[-1].height) == (32, 32)


def test_a_rejected_trajectory_moves_nothing(ros: Graph) -> None:
    node = ros.start(SimNode, overrides=[*SMALL, "sim.lock_step=true"])
    arm = ros.matched(ros.tester.create_publisher(JointTrajectory, ARM, qos.COMMAND))
    before = node._world.now_ns
    for names in (JOINTS[:6], ("a", *JOINTS[1:])):
        path = Trajectory(np.array([0.1]), np.zeros((1, len(names))))
        arm.publish(wire.fill_trajectory(JointTrajectory(), path, JointTrajectoryPoint, names))
        ros.spin(0.1)
    assert node._world.now_ns == before
    assert ros.call(Trigger, "sim/step", Trigger.Request()).success
    assert node._world.now_ns == before + 100_000_000


def test_everything_said_is_in_the_bag_and_the_film_shows_it(ros: Graph, tmp_path: Path) -> None:
    recorder: Any = ros.add(RecordNode(tmp_path / "bag"))
    ros.nodes.append(recorder)
    ros.start(SimNode, overrides=[*SMALL, "sim.image_hz=20.0"])
    ros.until(
        lambda: recorder.counts.get("/third_person/image", 0) > 5 and recorder.counts.get("/instruction"), "images"
    )
    recorder.close()
    recorder.close()  # twice does no harm
    assert {"/clock", "/joint_states", "/wrist/image", "/wrist/camera_info", "/instruction", "/success"} <= set(
        topics(tmp_path / "bag")
    )
    read = list(messages(tmp_path / "bag", ["/third_person/image", "/joint_states", "/instruction"]))
    assert len([m for m in read if m.topic == "/third_person/image"]) == recorder.counts["/third_person/image"]
    assert wire.arm_state(next(m.value for m in read if m.topic == "/joint_states")).joints.shape == (7,)
    assert make(tmp_path / "bag", tmp_path / "film.mp4") >= 5
    assert (tmp_path / "film.mp4").stat().st_size > 500
    with pytest.raises(BagError, match="valid: a folder that does not exist yet"):
        RecordNode(tmp_path / "bag")


def test_a_topic_that_the_recorder_may_not_hear_costs_that_topic_and_no_more(
    ros: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in an enclave of SROS2 whose policy does not name it: rclpy's RCLError, a RuntimeError."""
    recorder: Any = ros.add(RecordNode(tmp_path / "bag"))
    ros.nodes.append(recorder)
    subscribe = recorder.create_subscription

    def refuse(kind: Any, topic: str, *more: Any, **options: Any) -> Any:
        if topic == "/joint_states":
            raise RuntimeError("Failed to create subscription: create_datareader() could not create data reader")
        return subscribe(kind, topic, *more, **options)

    monkeypatch.setattr(recorder, "create_subscription", refuse)
    ros.start(SimNode, overrides=[*SMALL, "sim.image_hz=20.0"])
    ros.until(lambda: recorder.counts.get("/third_person/image", 0) > 2, "images")
    recorder.close()
    assert "/joint_states" not in topics(tmp_path / "bag")


def test_stamps_are_of_the_wall_clock_from_the_start(ros: Graph) -> None:
    """They lag by no more than the time since the first tick was due, however long the scene took to lay."""
    node = ros.start(SimNode, overrides=SMALL)
    lag_ns = time.time_ns() - node._stamp_ns
    assert -1_000_000 < lag_ns <= time.monotonic_ns() - node._due + 1_000_000
