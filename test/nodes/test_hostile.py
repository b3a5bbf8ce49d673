"""Whatever comes over the wire: no node ends, the next good message is answered, and the e-stop is heard.

Bytes that are no message are published as they are: rclpy's publishers take bytes for a serialized message.
"""

from __future__ import annotations

import os
import struct
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("ecovla_ros.msg")

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import serialize_message
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, JointState
from std_msgs.msg import Bool, Int8, String
from std_srvs.srv import Trigger
from support.graph import FakeEngine, Graph, graph, joints, picture
from support.nodes import Arm, Bench
from trajectory_msgs.msg import JointTrajectory

from ecovla_ros import wire
from ecovla_ros.errors import ControlError, ObservationError
from ecovla_ros.nodes import guard
from ecovla_ros.nodes.guard import GuardNode
from ecovla_ros.nodes.ros import estop, intake, owners, qos
from ecovla_ros.nodes.ros.executor import SturdyExecutor
from ecovla_ros.nodes.ros.intake import LOOK_S, NOBODY
from ecovla_ros.nodes.ros.interfaces import ActionChunk as ChunkMessage
from ecovla_ros.types import ActionChunk

BROKEN = (b"\0\1\0\0", b"\0\1\0\0" + b"\xff" * 96, serialize_message(joints(10**18))[:100], b"\0\1\0\0\7")
KEPT = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
ONCE = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)


@pytest.fixture
def ros() -> Iterator[Graph]:
    with graph() as made:
        made.executor.shutdown()
        made.executor = SturdyExecutor()
        made.executor.add_node(made.tester)
        yield made


def test_bytes_that_are_no_message_do_not_end_the_guard_and_the_next_good_one_counts(ros: Graph) -> None:
    arm = Arm(ros)
    for raw in BROKEN:
        for publisher in (arm.states, arm.chunks):
            publisher.publish(raw)
        ros.spin(0.03)
    ros.until(lambda: int(arm.values()["unreadable"]) >= 4, "they are counted")
    assert arm.enable().success
    arm.chunks.publish(BROKEN[1])
    arm.send()
    ros.until(lambda: arm.sent, "the good chunk behind a broken one")
    ros.until(lambda: not arm.node._inputs, "and the complaint ends")


@pytest.mark.parametrize("raw", [b"\0\1\0\0", b"\0\1\0\0\2\0\0\0", b""])
def test_a_broken_estop_message_counts_as_pressed(ros: Graph, raw: bytes) -> None:
    arm = Arm(ros)
    arm.estop.publish(raw)
    arm.is_in("LATCHED", "e-stop is pressed by /tester, with")


def test_what_a_bool_says_is_read_from_its_bytes() -> None:
    assert estop.meaning(serialize_message(Bool(data=False))) == (True, True)
    assert estop.meaning(serialize_message(Bool(data=True))) == (False, True)
    assert all(
        estop.meaning(raw) == (False, False) for raw in (b"", b"\0\1\0\0", b"\0\1\0\0\2", b"\1\1\0\0\0", bytes(9))
    )


def test_a_press_among_anothers_thousand_releases_is_heard_every_time(ros: Graph) -> None:
    """Of what came between two looks every message counts, not the newest."""
    arm = Arm(ros)
    button = ros.matched(ros.tester.create_publisher(Bool, "estop", qos.COMMAND), 2)
    for count in range(5):
        for number in range(300):
            arm.estop.publish(Bool(data=False))
            if number == 150:
                button.publish(Bool(data=True))
                button.publish(Bool(data=False))
        arm.is_in("LATCHED", "e-stop is pressed")
        ros.until(lambda: ros.call(Trigger, "guard/reset", Trigger.Request()).success, f"reset {count}")
        arm.is_in("DISARMED")


def test_only_who_pressed_it_releases_it_or_goes(ros: Graph) -> None:
    arm = Arm(ros)
    other = rclpy_node(ros, "panel")
    panel = ros.matched(other.create_publisher(Bool, "estop", ONCE))
    panel.publish(Bool(data=True))
    arm.is_in("LATCHED", "pressed by /panel")
    arm.estop.publish(Bool(data=False))
    ros.spin(0.1)
    assert "release the e-stop" in ros.call(Trigger, "guard/reset", Trigger.Request()).message
    other.destroy_publisher(panel)
    ros.until(lambda: ros.call(Trigger, "guard/reset", Trigger.Request()).success, "its publisher has gone")


def test_a_guard_that_starts_hears_what_was_pressed_before(ros: Graph) -> None:
    kept = ros.tester.create_publisher(Bool, "estop", KEPT)
    kept.publish(Bool(data=True))
    arm = Arm(ros)
    arm.is_in("LATCHED", "e-stop is pressed by /tester")
    kept.publish(Bool(data=False))
    ros.until(lambda: ros.call(Trigger, "guard/reset", Trigger.Request()).success, "released")


def test_an_estop_that_cannot_be_heard_refuses_enable_and_one_that_is_missing_is_said(ros: Graph) -> None:
    arm = Arm(ros)
    ros.until(lambda: arm.values()["estop"] == "released; /tester", "its publisher")
    ros.tester.destroy_publisher(arm.estop)
    arm.is_in("DISARMED", "no e-stop: nobody publishes estop")
    with elsewhere("oddity") as other:
        other.create_publisher(Int8, "estop", 10)
        ros.until(lambda: "/oddity sends std_msgs/msg/Int8" in arm.enable().message, "named")


def test_a_heartbeat_that_stops_latches_and_motion_needs_one(ros: Graph) -> None:
    arm = Arm(ros, overrides=["control.estop_timeout_s=0.4"])
    assert "nobody says on estop" in arm.enable().message
    beating = [True]
    ros.tester.create_timer(0.05, lambda: arm.estop.publish(Bool(data=False)) if beating[0] else None)
    ros.until(lambda: arm.enable().success, "enabled with a heartbeat")
    beating[0] = False
    arm.is_in("LATCHED", "e-stop: /tester has said nothing for")
    assert not ros.call(Trigger, "guard/reset", Trigger.Request()).success
    beating[0] = True
    ros.until(lambda: ros.call(Trigger, "guard/reset", Trigger.Request()).success, "it beats again")


def test_chunks_of_a_second_publisher_do_not_move_the_arm(ros: Graph) -> None:
    arm = Arm(ros)
    assert arm.enable().success
    arm.send()
    ros.until(lambda: arm.sent, "the first publisher's chunk")
    other = rclpy_node(ros, "intruder")
    chunks = ros.matched(other.create_publisher(ChunkMessage, "action_chunk", qos.COMMAND))
    before = len(arm.sent)
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        rows = np.tile(np.linspace(0.1, 0.4, 8)[:, None], (1, 7))
        chunks.publish(wire.fill_chunk(ChunkMessage(), ActionChunk(arm.now(), 0.1, rows, np.zeros(8))))
        ros.spin(0.05)
    moved = [wire.trajectory(msg).positions for msg in arm.sent[before:]]
    assert all(np.abs(positions - 0.1).max() < 0.01 for positions in moved), "nothing but the stop"
    assert "/intruder publishes too" in arm.status[-1].message and int(arm.values()["chunks_of_others"]) > 5
    assert arm.enable(False).success
    assert "2 publishers on action_chunk: /intruder, /tester" in arm.enable().message


class Told:
    """A node that tells what a graph would: who publishes."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def get_publishers_info_by_topic(self, topic: str) -> list[Any]:
        del topic
        made = {"endpoint_gid": [0] * 16, "node_namespace": "/", "topic_type": "", "qos_profile": None}
        return [SimpleNamespace(node_name=name.lstrip("/"), **made) for name in self.names]


@pytest.mark.parametrize(
    "told, publish, taken",
    [
        ("", ["/policy"], True),
        ("", ["/policy", "/intruder"], False),
        ("", ["/policy", "/policy"], False),
        ("/policy", ["/policy"], True),
        ("/policy", ["/intruder"], False),
        ("/policy", ["/intruder", "/policy"], False),
    ],
)
def test_where_nobody_says_who_sent_it_only_a_lone_publisher_is_taken(
    told: str, publish: list[str], taken: bool
) -> None:
    node = Told(*publish)
    source = owners.Source(node, "action_chunk", told, 1.0, alone=True)
    no = source.admit(NOBODY, 1.0)
    assert (not no) == taken and source.refused == (not taken)
    assert taken or publish[0 if "/intruder" not in publish else publish.index("/intruder")] in no
    node.names = ("/policy",)
    assert not source.admit(NOBODY, 2.0), "the other one has gone"
    assert not owners.Source(Told("/a", "/b"), "joint_states", "", 1.0).admit(NOBODY, 1.0), "others tell other joints"


def test_where_nobody_says_who_sent_it_a_second_publisher_stops_the_arm(
    ros: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by rclpy of Humble, which tells nothing beside a message."""
    for module in (guard, owners):
        monkeypatch.setattr(module, "sender", lambda _info: NOBODY)
    arm = Arm(ros)
    assert arm.enable().success
    arm.send()
    ros.until(lambda: arm.sent, "the only publisher's chunk")
    other = rclpy_node(ros, "intruder")
    chunks = ros.matched(other.create_publisher(ChunkMessage, "action_chunk", qos.COMMAND))
    ros.spin(2 * LOOK_S)
    before = len(arm.sent)
    for _ in range(10):
        rows = np.tile(np.linspace(0.1, 0.4, 8)[:, None], (1, 7))
        chunks.publish(wire.fill_chunk(ChunkMessage(), ActionChunk(arm.now(), 0.1, rows, np.zeros(8))))
        ros.spin(0.05)
    moved = [wire.trajectory(msg).positions for msg in arm.sent[before:]]
    assert all(np.abs(positions - 0.1).max() < 0.01 for positions in moved), "nothing but the stop"
    assert "/intruder, /tester publishes too" in arm.status[-1].message


def test_where_nobody_says_who_sent_it_a_second_commander_latches_by_the_next_command(
    ros: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owners, "sender", lambda _info: NOBODY)
    arm = Arm(ros)
    assert arm.enable().success
    other = rclpy_node(ros, "moveit")
    ros.matched(other.create_publisher(JointTrajectory, "joint_trajectory", qos.SENSOR))
    arm.send()
    arm.is_in("LATCHED", "/moveit commands the arm by /joint_trajectory")


def test_a_callback_is_told_who_sent_a_message_where_rclpy_can(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[Any] = []
    intake.informed(lambda raw, info: heard.append((raw, info)))(b"1", {})
    monkeypatch.setattr(intake, "Subscription", object)  # Humble's calls with the message alone
    intake.informed(lambda raw, info: heard.append((raw, info)))(b"2")
    assert heard == [(b"1", {}), (b"2", None)]


def test_another_commander_refuses_enable_and_its_first_command_latches(ros: Graph) -> None:
    arm = Arm(ros)
    other = rclpy_node(ros, "moveit")
    rival = other.create_publisher(JointTrajectory, "joint_trajectory", qos.COMMAND)
    ros.until(lambda: "/moveit to /joint_trajectory" in arm.enable().message, "named")
    arm.is_in("DISARMED", "/moveit to /joint_trajectory: somebody else can command the arm")
    other.destroy_publisher(rival)
    ros.until(lambda: arm.enable().success, "enabled without it")
    rival = ros.matched(other.create_publisher(JointTrajectory, "joint_trajectory", qos.SENSOR))
    ros.tester.create_timer(0.05, lambda: rival.publish(JointTrajectory()))
    arm.is_in("LATCHED", "/moveit commands the arm by /joint_trajectory")


def test_who_could_command_by_action_is_named_when_the_controller_runs_something_else(ros: Graph) -> None:
    arm = Arm(ros)
    other = rclpy_node(ros, "planner")
    other.create_client(Trigger, "follow_joint_trajectory/_action/send_goal")
    ros.until(lambda: arm.node._commands.by_action() == ["/planner"], "the planner's client")
    arm.node._guard._counters["reference"] += 1
    ros.until(lambda: "/planner can command the controller" in arm.status[-1].message, "named")


def test_a_second_guard_does_not_start(ros: Graph) -> None:
    first = ros.start(GuardNode)
    second = GuardNode(namespace="/two", cli_args=["--ros-args", "-r", "joint_trajectory:=/joint_trajectory"])
    with pytest.raises(ControlError, match="/guard is a guard on /joint_trajectory already"):
        second._commands.claim(lambda _s: ros.executor.spin_once(timeout_sec=0.01))
    second.destroy_node()
    first._commands.claim(lambda _s: ros.executor.spin_once(timeout_sec=0.01), 0.3)


def test_joint_states_of_a_second_publisher_are_not_taken(ros: Graph) -> None:
    arm = Arm(ros)
    other = rclpy_node(ros, "ghost")
    ghost = ros.matched(other.create_publisher(JointState, "joint_states", qos.COMMAND))
    ros.tester.create_timer(0.005, lambda: ghost.publish(joints(arm.now(), 1.0)))
    ros.until(lambda: any("/ghost publishes too" in said.message for said in arm.status), "said")
    assert np.abs(arm.node._guard._arm.joints - 0.1).max() < 1e-6


def test_a_hostile_fault_text_latches_and_is_cut(ros: Graph) -> None:
    arm = Arm(ros)
    fault = ros.matched(ros.tester.create_publisher(String, "arm_fault", qos.LATCHED))
    fault.publish(String(data="x" * 3000))
    arm.is_in("LATCHED", "the arm is in fault: xxx")
    assert len(arm.status[-1].message) < 600
    fault.publish(b"\0\1\0\0\xff\xff\xff\xff")
    ros.spin(0.1)
    assert arm.values()["state"] == "LATCHED"


def test_a_clock_before_time_does_not_end_a_node(ros: Graph) -> None:
    node = ros.start(GuardNode, use_sim_time=True)
    clock = ros.matched(ros.tester.create_publisher(Clock, "/clock", qos.SENSOR))
    message = Clock()
    for sec in (-5, 2**31 - 1, -(2**31), 0):
        message.clock.sec = sec
        clock.publish(message)
        clock.publish(b"\0\1\0\0")
        ros.spin(0.05)
    message.clock.sec = 7
    clock.publish(message)
    ros.until(lambda: node._now_ns() == 7 * 10**9, "and the next sound time is taken")


def test_a_request_that_cannot_be_read_leaves_the_service_working(ros: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes of a request cannot be chosen with rclpy, so what taking them raises is put in its place."""
    ros.start(GuardNode)
    take, broken = SingleThreadedExecutor._take_service, [0]

    def raising(self: Any, service: Any) -> Any:
        if service.service_name.endswith("hold") and broken[0] < 3:
            broken[0] += 1
            raise RuntimeError("failed to deserialize")
        return take(self, service)

    monkeypatch.setattr(SingleThreadedExecutor, "_take_service", raising)
    assert ros.call(Trigger, "guard/hold", Trigger.Request()).success and broken[0] == 3
    assert ros.executor.broken["/guard/hold"] == 3


def test_a_callback_that_breaks_latches_the_guard_which_lives_on(ros: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    arm = Arm(ros)
    assert arm.enable().success
    monkeypatch.setattr(wire, "chunk", lambda _msg: 1 / 0)
    arm.send()
    arm.is_in("LATCHED", "broke the guard (ZeroDivisionError")
    monkeypatch.undo()
    assert ros.call(Trigger, "guard/reset", Trigger.Request()).success
    assert arm.enable().success


def png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def compressed(data: bytes, stamp_ns: int, kind: str = "png") -> CompressedImage:
    msg = CompressedImage(format=kind, data=data)
    wire.set_stamp(msg.header.stamp, stamp_ns)
    return msg


def test_no_message_ends_inference_and_the_next_frame_is_answered(ros: Graph) -> None:
    bench = Bench(ros, FakeEngine())
    bench.activate()
    for raw in BROKEN:
        bench.joints.publish(raw)
        for camera in bench.images.values():
            camera.publish(raw)
    lying = serialize_message(picture(bench.now()))
    for camera in bench.images.values():
        camera.publish(lying[: len(lying) // 2])
    bench.says("bytes that are no Image")
    bench.instruction.publish(String(data="x" * 10**5))
    bench.says("instruction: /tester sent 100")
    bench.engine.failure = KeyError("a defect")
    bench.show()
    bench.says("a frame broke: KeyError")
    bench.engine.failure = None
    bench.show()
    bench.answered()
    assert bench.node._thread.is_alive()


def test_a_picture_from_the_future_does_not_make_the_others_late(ros: Graph) -> None:
    bench = Bench(ros, FakeEngine())
    bench.activate()
    bench.show(bench.now() + 10**12)
    bench.says("in the future")
    resets = bench.engine.resets
    bench.show()
    bench.answered()
    assert bench.engine.resets <= resets + 1, "the first frame of an episode, and no clock that jumped"


@pytest.mark.parametrize("size", [(65535, 65535), (8000, 8000), (2**31, 1), (0, 5)])
def test_a_picture_is_refused_by_what_its_header_says(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    monkeypatch.setattr(cv2, "imdecode", lambda data, *_: decoded.append(len(data)))
    with pytest.raises(ObservationError, match=f"{size[0]} x {size[1]} px"):
        wire.decode_image(compressed(png(*size), 0))
    assert not decoded, "its data is not even looked at"
    with pytest.raises(ObservationError, match="do not decode"):
        wire.decode_image(compressed(png(4, 4), 0))
    assert decoded, "and that of a picture within the limits is"


def jpeg(*before: bytes, width: int = 16000, height: int = 16000, frame: int = 0xC0) -> bytes:
    sof = struct.pack(">BBHBHHB", 0xFF, frame, 17, 8, height, width, 3) + b"\1\x22\0\2\x11\1\3\x11\1"
    return b"\xff\xd8" + b"".join(before) + sof + b"\xff\xda" + bytes(20) + b"\xff\xd9"


@pytest.mark.parametrize(
    "before", [(), (b"\xff",), (b"\xff\xff\xff",), (b"rubbish",), (b"\xff\0",), (b"\xff\xd0",), (b"\xff\xe0\0\4ab",)]
)
def test_whatever_stands_before_a_jpegs_size_it_is_found(before: tuple[bytes, ...]) -> None:
    with pytest.raises(ObservationError, match="16000 x 16000 px"):
        wire.decode_image(compressed(jpeg(*before), 0, "jpeg"))


@pytest.mark.parametrize(
    "data, says",
    [
        (b"II*\0" + bytes(40), "neither JPEG nor PNG"),
        (b"RIFF\0\0\0\0WEBPVP8 " + bytes(40), "neither JPEG nor PNG"),
        (jpeg(frame=0xC3), "without a frame header"),
        (jpeg() + b"\xff\xda" * 30, "scans"),
        (b"\xff\xd8\xff", "without a frame header"),
        (b"\xff\xd8\xff\xe0\0", "do not decode"),
        (png(4, 4).replace(b"IDAT", b"acTL", 1), "moves|do not decode"),
        (png(4, 4), "do not decode"),
    ],
)  # fmt: skip
def test_no_other_format_is_decoded_whatever_a_message_calls_it(data: bytes, says: str) -> None:
    with pytest.raises(ObservationError, match=says):
        wire.decode_image(compressed(data, 0, "jpeg"))


def test_twenty_thousand_names_make_a_short_complaint() -> None:
    msg = JointState(name=[f"joint_{i}" * 10 for i in range(20_000)], position=[0.0] * 20_000)
    with pytest.raises(ObservationError) as told:
        wire.arm_state(msg)
    assert len(str(told.value)) < 300
    with pytest.raises(ControlError) as told_too:
        wire.chunk(ChunkMessage(joint_names=list(msg.name)))
    assert len(str(told_too.value)) < 500


@contextmanager
def elsewhere(name: str) -> Iterator[Any]:
    """A node of the same graph in a context of its own, as in another process."""
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=1 + os.getpid() % 100)
    node = rclpy.create_node(name, context=context)
    try:
        yield node
    finally:
        node.destroy_node()
        rclpy.shutdown(context=context)


def rclpy_node(ros: Graph, name: str) -> Any:
    """Another node of the same graph."""
    node = rclpy.create_node(name)
    ros.executor.add_node(node)
    ros.nodes.append(node)
    node.close = lambda: None
    return node
