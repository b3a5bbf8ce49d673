"""One cause, one sentence: a bag, the doctor, the policy's diagnostics and the guard's status say the same words."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("ecovla_ros.msg")

from sensor_msgs.msg import CompressedImage, Image
from support.graph import FakeEngine, Graph, graph, joints, picture
from support.nodes import Bench
from support.small_bag import Stay, answers

from ecovla_ros import wire
from ecovla_ros.bags import sample
from ecovla_ros.bags.inputs import choose
from ecovla_ros.bags.read import Bag
from ecovla_ros.config import Config
from ecovla_ros.control import checks, limits
from ecovla_ros.control.checks import Refused
from ecovla_ros.errors import BagError
from ecovla_ros.nodes.ros import qos
from ecovla_ros.stage import doctor
from ecovla_ros.types import ActionChunk
from ecovla_ros.wire import causes

S = 10**9
IMAGES = ("/third_person/image", "/wrist/image")
SAID = {
    "degrees": causes.degrees("joint_1", 90.0),
    "old": causes.old(1.0, 0.3),
    "future": causes.future("the newest image", 2.0),
    "unstamped": causes.unstamped("the newest image"),
    "apart": causes.apart("wrist", 0.5, 0.08),
    "frozen": causes.frozen("third_person", 0.4),
    "packed": causes.packed("/third_person/image", "/third_person/image/compressed"),
    "crowded": causes.crowded("/wrist/image", ["a", "b"]),
}
"""Cause -> its sentence; numbers and who it was do not matter."""


def bare(text: str) -> str:
    """A sentence without its numbers, and without the names of publishers."""
    return re.sub(r"-?\d+(\.\d+)?", "#", re.sub(r"(publishers on \S+): .*?;", r"\1;", text))


def told(cause: str, texts: list[str]) -> bool:
    return any(bare(SAID[cause]) in bare(text) for text in texts)


@pytest.fixture
def ros() -> Iterator[Graph]:
    with graph() as made:
        yield made


def shift(event: Any, ns: int) -> None:
    wire.set_stamp(event.message.header.stamp, wire.stamp_ns(event.message.header.stamp) + ns)


class Spoilt:
    """Changes to the events of a bag, in place."""

    def __init__(self) -> None:
        self.first: dict[str, Any] = {}
        self.count = 0

    def degrees(self, event: Any) -> None:
        if event.topic == "/joint_states":
            event.message.position = np.asarray(event.message.position) + 90.0

    def old(self, event: Any) -> None:
        """The cameras stand still after a while."""
        if event.topic in IMAGES:
            at = wire.stamp_ns(event.message.header.stamp)
            begun = self.first.setdefault("ns", at)
            shift(event, min(0, begun + S // 2 - at))

    def future(self, event: Any) -> None:
        if event.topic in IMAGES:
            shift(event, 5 * S)

    def unstamped(self, event: Any) -> None:
        if event.topic in IMAGES:
            wire.set_stamp(event.message.header.stamp, 0)

    def apart(self, event: Any) -> None:
        if event.topic == "/wrist/image":
            shift(event, -S // 5)

    def frozen(self, event: Any) -> None:
        if event.topic == "/third_person/image":
            event.message.data = self.first.setdefault("data", event.message.data)
        if event.topic == "/joint_states":
            event.message.position = np.asarray(event.message.position) + 0.3 * event.time_ns / S % 3

    def crowded(self, event: Any) -> None:
        if event.topic == "/wrist/image":
            self.count += 1
            event.message.header.frame_id = f"wrist_{self.count % 2}"


def events(change: Callable[[Any], None]) -> Iterator[Any]:
    for event in sample.Sample(seconds=2.0, size=16, encoding="rgb8").events():
        if "joint" in event.topic or "image" in event.topic:
            change(event)
        yield event


@pytest.mark.parametrize("cause", [c for c in SAID if c != "packed"])
def test_a_replay_says_it(cause: str, tmp_path: Path) -> None:
    path = sample.write(tmp_path / "bag", events(getattr(Spoilt(), cause)))
    held = [answer.held for answer in answers(path, Stay())]
    assert told(cause, held), set(held)
    others = [c for c in SAID if c not in (cause, "apart") and told(c, held)]
    assert not others, f"{cause} is called {others}"


def test_a_replay_that_is_told_the_raw_topic_names_the_other(tmp_path: Path) -> None:
    path = sample.write(tmp_path / "bag", sample.Sample(seconds=0.3, size=16, encoding="png").events())
    with Bag(path) as bag, pytest.raises(BagError) as error:
        choose(bag, {"third_person": "/third_person/image"})
    assert told("packed", [str(error.value)]) and "--map third_person=" in str(error.value)


def test_the_policys_diagnostics_say_it(ros: Graph) -> None:
    bench = Bench(ros, FakeEngine())
    bench.activate()

    def says(cause: str) -> None:
        ros.until(lambda: told(cause, [bench.node._diagnostics.message]),
                  lambda: f"{cause}; said: {bench.node._diagnostics.message}")  # fmt: skip

    bench.show(bench.now() + 10 * S)
    says("future")
    bench.show(bench.now() - S)
    says("old")
    for publisher in bench.images.values():
        publisher.publish(picture(0))
    says("unstamped")
    bench.show(state=joints(bench.now(), 90.0))
    says("degrees")
    bench.show(state=joints(bench.now(), 0.1))
    bench.show(state=joints(bench.now(), 0.6))
    says("frozen")
    bench.show(bench.now(), cameras=("wrist",))
    bench.show(bench.now() + S // 5, cameras=("third_person",))
    says("apart")
    second = ros.tester.create_publisher(Image, "wrist/image", qos.SENSOR)
    ros.until(lambda: bench.node._crowd, "the second publisher")
    assert told("crowded", [bench.node._pace(100.0)[1]])
    ros.tester.destroy_publisher(second)
    for publisher in bench.images.values():
        ros.tester.destroy_publisher(publisher)
    ros.tester.create_publisher(CompressedImage, "third_person/image/compressed", qos.SENSOR)
    says("packed")


def test_the_doctor_says_it(ros: Graph) -> None:
    for topic in ("wrist/image", "wrist/image"):
        ros.tester.create_publisher(Image, topic, qos.SENSOR)
    ros.tester.create_publisher(CompressedImage, "third_person/image/compressed", qos.SENSOR)

    def found(
        position: float = 0.1, camera_s: float | None = 0.0, wrist_s: float = 0.0, moved: float = 0.0
    ) -> list[str]:
        made = doctor.Doctor(Config())
        now = made.get_clock().now().nanoseconds
        for k in range(3):
            state = joints(now, position + k * moved)
            made._listener("joint_states")(state)
            made._states.put(serialized(state))
            for name, shift_s in (("third_person", 0.0), ("wrist", wrist_s)):
                stamp_ns = 0 if camera_s is None else now + round((camera_s + shift_s) * S)
                made._listener(f"{name}/image")(picture(stamp_ns))
        ros.until(lambda: made.count_publishers("wrist/image") == 2, "the publishers")
        ros.until(lambda: made.count_publishers("third_person/image/compressed") == 1, "the compressed one")
        texts = [finding.text for finding in made.findings()]
        made.destroy_node()
        return texts

    for cause, how in {
        "degrees": {"position": 90.0}, "old": {"camera_s": -2.0}, "future": {"camera_s": 2.0},
        "unstamped": {"camera_s": None}, "apart": {"wrist_s": -0.2}, "frozen": {"moved": 0.3}, "packed": {},
        "crowded": {},
    }.items():  # fmt: skip
        texts = found(**how)
        assert told(cause, texts), "\n".join([cause, *texts])
        others = [c for c in SAID if c not in (cause, "packed", "crowded") and told(c, texts)]
        assert not others, f"{cause} is called {others}"


def serialized(msg: Any) -> bytes:
    from rclpy.serialization import serialize_message

    return bytes(serialize_message(msg))


def test_the_guards_status_says_it() -> None:
    assert told("degrees", [limits.load("normal").outside(np.full(7, 90.0))])
    chunk = ActionChunk(10 * S, 0.1, np.zeros((2, 7)), np.zeros(2))
    with pytest.raises(Refused) as error:
        checks.age(chunk, 5 * S, 0.5)
    assert bare(causes.future("its observation", 5.0)) == bare(str(error.value))


def test_a_camera_is_frozen_only_where_the_arm_moved_under_the_same_picture() -> None:
    still, rng = wire.Stillness(), np.random.default_rng(0)
    one, other = (SimpleNamespace(data=rng.integers(0, 256, 3000, np.uint8).tobytes()) for _ in range(2))
    at = np.zeros(7)
    for k in range(5):
        assert not still.look("wrist", one.data, at + 0.02 * k), "an arm that trembles"
        assert not still.look("scene", (one, other)[k % 2].data, at + 0.3 * k), "a picture that changes"
    assert "shows the same picture" in still.look("wrist", one.data, at + 0.5)
    still.clear()
    assert not still.look("wrist", one.data, at + 0.9)
