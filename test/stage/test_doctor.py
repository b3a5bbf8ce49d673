"""`ecovla doctor`: finds nothing where everything is right, and each planted fault by its name."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("ecovla_ros.msg")

import rclpy
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock as ClockMessage
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import String
from support.graph import Graph, graph, joints, picture
from trajectory_msgs.msg import JointTrajectory

from ecovla_ros import config, wire
from ecovla_ros.nodes.guard import GuardNode
from ecovla_ros.nodes.ros import qos
from ecovla_ros.nodes.ros.interfaces import ActionChunk, LatencyReport, ResetScene
from ecovla_ros.stage import controllers, doctor, running
from ecovla_ros.stage.running import ask
from ecovla_ros.types import CAMERAS

Change = Callable[["World"], None]
BEST_EFFORT = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)


class World:
    """A graph in which all is well, until a fault is planted."""

    def __init__(self) -> None:
        self.settings = config.override(
            config.Config(),
            **{"control.joint_state_age_s": 0.5, "node.image_age_s": 1.0, "control.chunk_silence_s": 1.0},
        )
        self.picture_s, self.joint_s, self.chunk_s = 0.1, 0.02, 0.1
        self.image_kind: Any = Image
        self.estop_kind: Any = None
        self.commanders = 0
        self.stamp_s, self.position, self.policy_ms, self.state = 0.0, 0.1, 40.0, "DISARMED"
        self.controller: bool | None
        self.controller, self.controller_profile = True, qos.COMMAND
        self.cameras: tuple[str, ...] = CAMERAS
        self.missing_joint = self.encoding = ""
        self.chunk_profile = qos.COMMAND
        self.seen: Callable[[], doctor.Doctor] = lambda: doctor.Doctor(self.settings)
        self.stamped: Callable[[], int] | None = None

    def run(self, ros: Graph) -> list[doctor.Finding]:
        node = ros.tester
        for camera in self.cameras if self.image_kind is Image else ():
            self._every(ros, Image, f"{camera}/image", self.picture_s, self._picture)
        if self.image_kind is not Image:  # a process of its own: one participant cannot have both types
            self.context = rclpy.Context()
            rclpy.init(context=self.context, domain_id=1 + os.getpid() % 100)
            self.other = rclpy.create_node("other", context=self.context)
            self.kept = [self.other.create_publisher(self.image_kind, f"{c}/image", qos.COMMAND) for c in CAMERAS]
        self._every(ros, JointState, "joint_states", self.joint_s, self._joints)
        self._every(ros, ActionChunk, "action_chunk", self.chunk_s, ActionChunk, self.chunk_profile)
        latency = LatencyReport(policy_ms=self.policy_ms, deadline_ms=100.0)
        self._every(ros, LatencyReport, "latency", 0.1, lambda: latency)
        values = [KeyValue(key="state", value=self.state)]
        status = DiagnosticStatus(message="so", values=values)
        self._every(ros, DiagnosticStatus, "status", 0.1, lambda: status, qos.LATCHED)
        self._every(ros, String, "instruction", 0.5, lambda: String(data="go"), qos.LATCHED)
        if self.estop_kind is not None:
            node.create_publisher(self.estop_kind, "estop", 1)
        for _ in range(self.commanders):
            node.create_publisher(JointTrajectory, doctor.UNTOLD, qos.COMMAND)
        if self.controller:
            node.create_service(ResetScene, "sim/reset", lambda _request, response: response)  # by which it is known
        if self.controller is not None:
            node.create_subscription(JointTrajectory, doctor.UNTOLD, lambda _: None, self.controller_profile)
        seen = ros.add(self.seen())
        ros.until(lambda: all(h.last is not None for t, h in seen.heard.items() if self._comes(t)), "all topics")
        ros.spin(1.2)
        found = list(seen.findings())
        if self.image_kind is not Image:
            self.context.try_shutdown()
        return found

    def _comes(self, topic: str) -> bool:
        """Whether messages on the topic can be heard."""
        images = self.image_kind is Image and topic.split("/")[0] in self.cameras
        return images if topic.endswith("image") else topic != "action_chunk" or self.chunk_profile is qos.COMMAND

    def _every(self, ros: Graph, kind: Any, topic: str, period_s: float, make: Any, profile: Any = qos.COMMAND) -> None:
        publisher = ros.tester.create_publisher(kind, topic, profile)
        ros.tester.create_timer(period_s, lambda: publisher.publish(make()))
        clock = self.stamped or (lambda: ros.tester.get_clock().now().nanoseconds)
        self.now = lambda: clock() + round(self.stamp_s * 1e9)

    def _picture(self) -> Any:
        return picture(self.now(), self.encoding or "rgb8")

    def _joints(self) -> JointState:
        msg = joints(self.now(), self.position)
        if self.missing_joint:
            msg.name[msg.name.index(self.missing_joint)] = "other"
        return msg


@pytest.fixture
def ros() -> Iterator[Graph]:
    with graph() as made:
        yield made


def test_nothing_is_found_where_all_is_well(ros: Graph, capsys: pytest.CaptureFixture[str]) -> None:
    found = World().run(ros)
    faults = [str(f) for f in found if f.level == doctor.FAULT]
    assert not faults
    assert {f.check for f in found} >= {"clock", "checkpoint", "device", "deadline", "guard", "joint ranges"}
    assert all(len(str(f).splitlines()) == 1 for f in found)


def say_of_itself(world: World, folder: Path, spec: dict[str, Any]) -> None:
    (folder / "config.json").write_text(json.dumps({"spec": spec}), encoding="utf-8")
    world.settings = config.override(world.settings, **{"policy.checkpoint": str(folder)})


PLANTED: dict[str, tuple[Change, str, str]] = {
    "no camera": (lambda w: setattr(w, "cameras", ("wrist",)), "third_person/image", "no publisher"),
    "another type": (lambda w: setattr(w, "image_kind", CompressedImage), "wrist/image", "valid: sensor_msgs/msg/Im"),
    "unreliable chunks": (lambda w: setattr(w, "chunk_profile", BEST_EFFORT), "action_chunk", "does not match"),
    "no controller": (lambda w: setattr(w, "controller", None), doctor.UNTOLD, "is joint_trajectory_controller"),
    "one who only reads": (lambda w: setattr(w, "controller", False), doctor.UNTOLD, "tester only read along"),
    "a deaf controller": (lambda w: setattr(w, "controller_profile", qos.LATCHED), doctor.UNTOLD, "does not match"),
    "slow pictures": (lambda w: setattr(w, "picture_s", 1.1), "wrist pictures", "valid: one every 1.00 s"),
    "old stamps": (lambda w: setattr(w, "stamp_s", -3.0), "clock", "one clock"),
    "future stamps": (lambda w: setattr(w, "stamp_s", 2.0), "wrist pictures", "in the future"),
    "strange pictures": (lambda w: setattr(w, "encoding", "16UC1"), "wrist pictures", "16UC1 is a depth picture"),
    "slow joint states": (lambda w: setattr(w, "joint_s", 0.6), "joint states", "longest silence"),
    "a joint is missing": (lambda w: setattr(w, "missing_joint", "joint_3"), "joint states", "lacks joint_3"),
    "outside its limits": (lambda w: setattr(w, "position", 2.3), "joint ranges", "joint_2 at 2.30 rad"),
    "a slow policy": (lambda w: setattr(w, "chunk_s", 1.15), "chunks", "the guard stops after"),
    "a deadline missed": (lambda w: setattr(w, "policy_ms", 300.0), "deadline", "not feasible"),
    "an e-stop of another type": (lambda w: setattr(w, "estop_kind", String), "e-stop", "is not heard"),
    "two commanders": (lambda w: setattr(w, "commanders", 2), "owner", "the guard alone"),
    "a latched guard": (lambda w: setattr(w, "state", "LATCHED"), "guard", "LATCHED"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_each_planted_fault_is_found_by_name(name: str, ros: Graph) -> None:
    change, check, says = PLANTED[name]
    world = World()
    change(world)
    found = world.run(ros)
    lines = [f for f in found if f.check.endswith(check) and f.level == doctor.FAULT]
    assert lines and says in lines[0].text, [str(f) for f in found]


@pytest.mark.parametrize("cameras, size, says", [(CAMERAS, 6, "(7, 8)"), (("left", *CAMERAS), 8, "no publisher")])
def test_a_checkpoint_that_does_not_fit_is_found(
    cameras: tuple[str, ...], size: int, says: str, tmp_path: Path, ros: Graph
) -> None:
    world = World()
    spec = {"name": "odd", "cameras": {c: [96, 96] for c in cameras}, "action_dim": size, "horizon": 8, "period_s": 0.1}
    say_of_itself(world, tmp_path, spec)
    world._comes = lambda topic: not topic.startswith("left")  # type: ignore[method-assign]
    faults = [f.text for f in world.run(ros) if f.level == doctor.FAULT]
    assert any(says in text for text in faults), faults


def test_a_missing_gpu_is_a_fault_where_one_is_asked_for(ros: Graph) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has one")
    world = World()
    world.settings = config.override(world.settings, **{"policy.device": "cuda"})
    assert any(f.check == "device" and "this machine has none" in f.text for f in world.run(ros))


def test_where_the_nodes_follow_a_slow_simulator_its_clock_counts(ros: Graph) -> None:
    """A picture each 0.1 s of a clock that goes at a tenth of ours: seldom by ours, and as often as it should."""
    world = World()
    clock, began_s = ros.tester.create_publisher(ClockMessage, "/clock", qos.COMMAND), time.monotonic()
    world_ns = lambda: 10**9 + round((time.monotonic() - began_s) * 1e8)  # noqa: E731
    world.picture_s, world.joint_s, world.chunk_s, world.policy_ms = 1.0, 0.2, 1.0, 400.0

    def tell() -> None:
        msg = ClockMessage()
        wire.set_stamp(msg.clock, world_ns())
        clock.publish(msg)

    ros.tester.create_timer(0.01, tell)
    told = running.Running(guard={"use_sim_time": True})
    world.seen = lambda: doctor.Doctor(world.settings, told, parameter_overrides=doctor.followed(told))
    world.stamped = world_ns
    faults = [str(f) for f in world.run(ros) if f.level == doctor.FAULT]
    assert not faults


@pytest.mark.parametrize("stamped", ["always", "auto", "never"])
@pytest.mark.parametrize(("simulated", "follows"), [(True, True), (True, False), (False, True), (False, False)])
def test_a_controller_that_goes_by_another_clock_than_the_guard_is_a_fault(
    ros: Graph, simulated: bool, follows: bool, stamped: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would refuse every trajectory that says when it begins: the stamp is of another time.

    control_msgs is on no package index: a text stands for the state by which the real controller is known.
    """
    monkeypatch.setattr(controllers, "STATE", "std_msgs/msg/String")
    follow = [Parameter("use_sim_time", value=follows)]
    controller = ros.add(rclpy.create_node("joint_trajectory_controller", parameter_overrides=follow))
    controller.create_publisher(String, "~/controller_state", 1)
    controller.create_subscription(JointTrajectory, doctor.UNTOLD, lambda _: None, qos.COMMAND)
    guard = {"use_sim_time": simulated, f"topics.{doctor.CONTROLLER}": f"/{doctor.UNTOLD}"}
    settings = config.override(config.Config(), **{"control.stamp_commands": stamped})
    seen = ros.add(doctor.Doctor(settings, running.Running(guard)))
    place = seen.place(doctor.CONTROLLER)
    try:
        ros.until(lambda: [what for _, what in controllers.readers(seen, place) if what], "the controller")
        seen.ask_controllers(ros.executor)
        found = [f for f in seen.findings() if f.level == doctor.FAULT and f.check == "/joint_trajectory_controller"]
    finally:  # else the next of its name would be taken for it
        controller.destroy_node()
        seen.destroy_node()
    assert len(found) == (simulated != follows and stamped == "always")
    assert all("valid: one clock" in str(f) for f in found)


def test_a_node_that_does_not_say_its_parameters_is_named(ros: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "READY_S", 0.3)
    mute = ros.add(rclpy.create_node("policy", start_parameter_services=False))
    ros.until(lambda: mute.get_name() in ros.tester.get_node_names(), "the node")
    told = ask(ros.tester, ros.executor)
    assert told.silent == ("policy",), "a guard that is not there is no node that is silent"
    found = ros.add(doctor.Doctor(config.Config(), told)).findings()
    assert [f.level for f in found if f.check == "node policy"] == [doctor.WARNING]


def test_the_topics_and_the_file_are_those_that_the_running_nodes_say(ros: Graph) -> None:
    ros.start(GuardNode, config="gen3.yaml", cli_args=["--ros-args", "-r", "joint_states:=/arm/joint_states"])
    told = ask(ros.tester, ros.executor)
    assert told.config == ("gen3.yaml", []) and told.guard["control.profile"] == "gentle"
    seen = ros.add(doctor.Doctor(config.Config(), told))
    assert seen.place("joint_states") == "/arm/joint_states" and seen.place(doctor.CONTROLLER) == "/joint_trajectory"
    assert seen.place("latency") == "/latency"
    options = {"cli_args": ["--ros-args", "-r", "joint_states:=/mine"], "use_global_arguments": False}
    assert ros.add(doctor.Doctor(config.Config(), told, **options)).place("joint_states") == "/mine", (
        "a word is the last"
    )
