"""The live nodes on a bag: the same chunks as without ROS, and what node `replay` publishes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("ecovla_ros.msg")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import String
from support.graph import Graph, graph
from support.small_bag import SAMPLE, settings, shifted, written

from ecovla_ros import build, wire
from ecovla_ros.bags import replay, sample
from ecovla_ros.bags.read import Bag
from ecovla_ros.bags.sample import Sample
from ecovla_ros.bags.stamps import stamp_of
from ecovla_ros.engine.streams import Inline
from ecovla_ros.errors import BagError, ConfigError, ObservationError
from ecovla_ros.nodes.policy import PolicyNode
from ecovla_ros.nodes.record import RecordNode
from ecovla_ros.nodes.replay import ReplayNode
from ecovla_ros.nodes.ros import qos
from ecovla_ros.nodes.ros.interfaces import ActionChunk
from ecovla_ros.types import CAMERAS


@pytest.fixture
def ros() -> Iterator[Graph]:
    with graph() as made:
        yield made


def policy(ros: Graph, folder: Path, **changes: str) -> PolicyNode:
    """An active policy node with the small checkpoint, on the bag's clock."""
    small = settings(folder)
    overrides = [f"policy.checkpoint={folder}", "prune.ratio=0.5", "prune.sites=[lm.mlp, lm.heads]"]
    overrides += [f"prune.refresh={small.prune.refresh}"] if hasattr(small.prune, "refresh") else []
    overrides += [f"{key.replace('__', '.')}={value}" for key, value in changes.items()]
    node = ros.start(PolicyNode, overrides=overrides, use_sim_time=True)
    for transition in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE):
        request = ChangeState.Request(transition=Transition(id=transition))
        assert ros.call(ChangeState, "policy/change_state", request).success
    return node


def heard(node: PolicyNode, stamp_ns: int) -> bool:
    """Whether the joint state of this stamp has come."""
    try:
        return node._joints.nearest(stamp_ns).stamp_ns == stamp_ns
    except ObservationError:
        return False


def test_bag_live_nodes_and_plain_functions_give_the_same_chunks(ros: Graph, tmp_path: Path) -> None:
    """Bit by bit, stepped message by message: with the trigger, the refresh on its worker thread, and a new pattern."""
    bag = written(tmp_path, list(SAMPLE.events()))
    node = policy(ros, tmp_path / "small")
    player = ros.start(ReplayNode, bag=str(bag), paused=True)
    chunks = ros.listen(ActionChunk, "action_chunk", qos.COMMAND)
    ros.until(lambda: player.ready and node._chunks.get_subscription_count(), "readers")
    while (raw := player.step()) is not None:
        if raw.topic == "/instruction":
            ros.until(lambda: node._instruction and node._now_ns() > 0, "instruction and clock")
        elif raw.topic == "/joint_states":
            stamp = stamp_of(raw)
            ros.until(lambda s=stamp: heard(node, s), "joint state")
        elif raw.topic == f"/{CAMERAS[-1]}/image":
            stamp = stamp_of(raw)
            ros.until(
                lambda s=stamp: chunks and wire.stamp_ns(chunks[-1].header.stamp) == s,
                lambda: f"a chunk; said: {node._diagnostics.message}",
            )
    small = settings(tmp_path / "small")
    rows = replay.run(small, bag).rows
    assert len(chunks) == len(rows) == 20 and {"sparse", "refresh"} == {row["kind"] for row in rows}
    engine = build.engine(small, Inline())
    with Bag(bag) as source:
        feed = replay.Feed(source, replay.choose(source, {}), small.node)
        frames = [f for raw in source.raw(feed.topics) for f in feed.take(raw)]
    for row, msg, frame in zip(rows, chunks, frames, strict=True):
        plain = engine.step(frame.observation).chunk.joints.tolist()
        assert wire.chunk(msg).joints.tolist() == row["joints"] == plain
    engine.close()


def test_played_with_its_timing_the_live_policy_answers_from_fresh_pictures(ros: Graph, tmp_path: Path) -> None:
    """Not stepped: frames may be dropped, so only dense chunks can be compared, by their stamps."""
    old = [shifted(e, 9e8) if e.topic != "/instruction" else e for e in SAMPLE.events()]  # stamps of another clock
    bag = written(tmp_path, old)
    policy(ros, tmp_path / "small", prune__method="dense")
    chunks = ros.listen(ActionChunk, "action_chunk", qos.COMMAND)
    clock = ros.listen(Clock, "/clock", qos.SENSOR)
    player = ros.start(ReplayNode, bag=str(bag), loop=True)
    ros.until(lambda: player.rounds == 1, "the end of the bag", 30.0)
    ros.spin(0.3)
    rows = {
        row["stamp_ns"]: row["joints"]
        for row in replay.run(settings(tmp_path / "small", **{"prune.method": "dense"}), bag).rows
    }
    assert len(chunks) >= 0.7 * len(rows)
    for msg in chunks:
        assert rows[wire.stamp_ns(msg.header.stamp)] == wire.chunk(msg).joints.tolist()
    times = [wire.stamp_ns(m.clock) for m in clock]
    begin = sample.START_NS - 900_000_000 * 10**9
    first_round = [t for t in times[: times.index(max(times)) + 1]]
    assert (
        first_round == sorted(first_round)
        and begin <= first_round[0]
        and max(times) - begin == pytest.approx(2e9, abs=1e8)
    )


def test_it_publishes_the_inputs_by_the_policys_names_and_waits_for_readers(ros: Graph, tmp_path: Path) -> None:
    packed = Sample(**{**vars(SAMPLE), "encoding": "jpeg", "seconds": 0.5})
    names = {"/wrist/image/compressed": "/hand/color/compressed"}
    events = [e._replace(topic=names.get(e.topic, e.topic)) for e in packed.events() if e.topic != "/instruction"]
    bag = written(tmp_path, events)
    player = ros.start(ReplayNode, bag=str(bag), map=["wrist=/hand/color/compressed"], instruction="go", wait_s=3600.0)
    ros.spin(0.3)
    assert player.played == 0
    heard: dict[str, list[Any]] = {}
    for kind, topic, profile in (
        (CompressedImage, "third_person/image/compressed", qos.SENSOR),
        (CompressedImage, "wrist/image/compressed", qos.SENSOR),
        (JointState, "joint_states", qos.COMMAND),
        (String, "instruction", qos.LATCHED),
    ):
        heard[topic] = ros.listen(kind, topic, profile)
    ros.until(lambda: player.played == len(events), "every message")
    ros.spin(0.2)
    assert [len(heard[f"{c}/image/compressed"]) for c in CAMERAS] == pytest.approx([5, 5], abs=1)
    assert heard["instruction"][0].data == "go" and len(heard["joint_states"]) >= 20


def test_the_program_ends_with_the_bag_and_with_1_where_it_is_damaged(tmp_path: Path) -> None:
    bag = written(tmp_path, list(Sample(seconds=2.0, size=96, encoding="rgb8").events()))
    program = "import sys; from ecovla_ros.nodes.replay import main; sys.exit(main())"
    command = [
        sys.executable,
        "-c",
        program,
        "--ros-args",
        "-p",
        f"bag:={bag}",
        "-p",
        "rate:=20.0",
        "-p",
        "wait_s:=0.0",
    ]
    surroundings = {**os.environ, "ROS_DOMAIN_ID": str(1 + os.getpid() % 100)}
    whole = subprocess.run(command, env=surroundings, capture_output=True, text=True, timeout=60)
    assert whole.returncode == 0 and "the end: 141 messages played" in whole.stderr
    bag = sample.write(tmp_path / "sqlite", Sample(seconds=2.0, size=96, encoding="rgb8").events(), "sqlite3")
    command[command.index(f"bag:={tmp_path / 'bag'}")] = f"bag:={bag}"
    file = next(bag.glob("*.db3"))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    cut = subprocess.run(command, env=surroundings, capture_output=True, text=True, timeout=60)
    assert cut.returncode == 1 and "is damaged" in cut.stderr and "Traceback" not in cut.stderr


@pytest.mark.parametrize(
    "parameters, error, says",
    [
        ({"bag": "/no/such/bag"}, BagError, "no bag at '/no/such/bag'"),
        ({"rate": 0.0}, ConfigError, "valid: rate from 0.01 to 100"),
        ({"map": ["wirst=/x"]}, BagError, "Did you mean 'wrist'"),
        ({"map": ["wrist=/x"]}, BagError, "--map wrist=TOPIC"),
    ],
)
def test_what_it_cannot_play_it_names(
    ros: Graph, tmp_path: Path, parameters: Any, error: type[Exception], says: str
) -> None:
    bag = written(tmp_path, list(Sample(seconds=0.2, size=32, encoding="rgb8").events()))
    with pytest.raises(error, match=says):
        ros.start(ReplayNode, **{"bag": str(bag), **parameters})


def test_the_recorder_keeps_what_was_said_before_it_came_and_every_topic_since(ros: Graph, tmp_path: Path) -> None:
    create = ros.tester.create_publisher
    said = create(String, "instruction", qos.LATCHED)
    said.publish(String(data="place the apple in the basket"))
    clock, pictures = create(Clock, "/clock", qos.SENSOR), create(Image, "wrist/image", qos.SENSOR)
    recorder = ros.add(RecordNode(tmp_path / "bag"))
    ros.matched(clock)
    ros.matched(pictures)
    ros.until(lambda: recorder.counts.get("/instruction"), "the instruction of before")
    for i in range(5):
        clock.publish(Clock(clock=wire_time(i)))
        pictures.publish(Image(height=1, width=1, encoding="rgb8", step=3, data=[i, i, i]))
        ros.until(
            lambda n=i: recorder.counts.get("/wrist/image", 0) > n and recorder.counts.get("/clock", 0) > n, "a message"
        )
    recorder.close()
    with Bag(tmp_path / "bag") as bag:
        assert bag.latched >= {"/instruction"} and "/wrist/image" not in bag.latched
        assert [bag.decode(r).data.tolist() for r in bag.raw(["/wrist/image"])] == [[i, i, i] for i in range(5)]
        assert [bag.decode(r).clock.sec for r in bag.raw(["/clock"])] == list(range(5))
        assert next(bag.decode(r).data for r in bag.raw(["/instruction"])) == "place the apple in the basket"
    ros.executor.remove_node(recorder)


def wire_time(seconds: int) -> Any:
    from builtin_interfaces.msg import Time

    return Time(sec=seconds)


def test_diagnostics_are_what_rqt_and_foxglove_show(ros: Graph, tmp_path: Path) -> None:
    """REP-107: a stamp, a name that starts with the node, a level, text values under keys that do not repeat."""
    heard = ros.listen(DiagnosticArray, "/diagnostics")
    policy(ros, tmp_path / "small")
    from ecovla_ros.nodes.guard import GuardNode

    ros.start(GuardNode)
    ros.until(lambda: {s.name for a in heard for s in a.status} >= {"/policy", "/guard"}, "both nodes")
    for array in heard:
        for status in array.status:
            keys = [pair.key for pair in status.values]
            assert (
                status.name in ("/policy", "/guard")
                and status.hardware_id
                and len(keys) == len(set(keys))
                and all(keys)
            )
            assert (
                status.level in (DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR) and status.message
            )


def test_a_live_run_is_recorded_and_reported(ros: Graph, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ecovla_ros.cli", "report", str(tmp_path / "live"), "--live", "3"]
    surroundings = {**os.environ, "ROS_DOMAIN_ID": str(1 + os.getpid() % 100)}
    process = subprocess.Popen(command, env=surroundings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    states = ros.tester.create_publisher(JointState, "joint_states", qos.COMMAND)
    event = next(e for e in SAMPLE.events() if e.topic == "/joint_states")
    while process.poll() is None:
        msg = JointState(name=list(event.message.name), position=event.message.position.tolist())
        states.publish(msg)
        ros.spin(0.05)
    output = process.communicate()[0]
    assert process.returncode == 0, output
    assert "live.html" in output and (tmp_path / "live.html").stat().st_size > 1e6
    with Bag(tmp_path / "live") as bag:
        assert bag.counts()["/joint_states"] > 20


def test_the_overrides_for_ros2_bag_record_fit_what_the_nodes_offer(ros: Graph) -> None:
    """A subscription may ask for no more than is offered, and keeps what is kept for late joiners."""
    import yaml
    from rclpy.qos import DurabilityPolicy, ReliabilityPolicy
    from support.graph import FakeEngine

    from ecovla_ros import config
    from ecovla_ros.nodes.guard import GuardNode
    from ecovla_ros.nodes.sim import SimNode

    node = ros.start(lambda **options: PolicyNode(lambda config: FakeEngine(), **options))
    ros.start(GuardNode)
    ros.start(SimNode, overrides=["sim.width=32", "sim.height=32"])
    request = ChangeState.Request(transition=Transition(id=Transition.TRANSITION_CONFIGURE))
    assert ros.call(ChangeState, f"{node.get_name()}/change_state", request).success
    asked = yaml.safe_load(config.shipped("ros2bag/record_qos.yaml").read_text())
    for topic, profile in asked.items():
        offers = ros.tester.get_publishers_info_by_topic(topic)
        assert offers, f"nobody publishes {topic}"
        for offer in offers:
            reliable = offer.qos_profile.reliability == ReliabilityPolicy.RELIABLE
            latched = offer.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL
            assert reliable or profile["reliability"] == "best_effort", topic
            assert latched == (profile["durability"] == "transient_local"), topic
