"""Node `policy` over real topics, with an engine that answers at once: lifecycle, bad input, what is published."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("ecovla_ros.msg")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.serialization import serialize_message
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from support.graph import FakeEngine, Graph, graph, joints
from support.nodes import Bench, request

from ecovla_ros import wire
from ecovla_ros.errors import CheckpointError, ObservationError
from ecovla_ros.nodes.policy import PolicyNode
from ecovla_ros.nodes.ros import qos
from ecovla_ros.nodes.ros.mailbox import Mailbox
from ecovla_ros.types import CAMERAS, JOINTS


@pytest.fixture
def ros() -> Iterator[Graph]:
    with graph() as made:
        yield made


def test_the_life_of_a_policy(ros: Graph) -> None:
    bench = Bench(ros, FakeEngine())
    bench.activate()
    stamp = bench.show()
    msg = bench.answered()
    assert wire.stamp_ns(msg.header.stamp) == stamp, "the chunk carries the observation's stamp"
    ros.until(lambda: bench.latency and bench.pruning, "reports")
    assert wire.stamp_ns(bench.latency[0].header.stamp) == stamp == wire.stamp_ns(bench.pruning[0].header.stamp)
    assert bench.latency[0].camera_to_chunk_ms > 0 and not bench.latency[0].deadline_missed
    assert bench.change(Transition.TRANSITION_DEACTIVATE)
    bench.show()
    ros.spin(0.2)
    assert len(bench.chunks) == 1, "an inactive policy publishes nothing"
    assert bench.change(Transition.TRANSITION_ACTIVATE)
    bench.show()
    bench.answered(2)
    assert bench.change(Transition.TRANSITION_DEACTIVATE) and bench.change(Transition.TRANSITION_CLEANUP)
    assert bench.engine.closed
    assert bench.change(Transition.TRANSITION_CONFIGURE), "it can be configured again"


def test_most_deadlines_missed_is_a_warning_and_kept_ones_end_it(ros: Graph) -> None:
    bench = Bench(ros, FakeEngine(), overrides=["node.deadline_ms=100", "node.image_age_s=10.0"])
    bench.activate()

    def level(frames: int, total_ms: float) -> bytes:
        """Of `/diagnostics` after so many more frames whose policy call took so long."""
        bench.engine.total_ms = total_ms
        for _ in range(frames):
            answered = len(bench.chunks)
            bench.show()
            bench.answered(answered + 1)
        ros.until(lambda: len(bench.latency) == len(bench.chunks), "reports")
        said = len(bench.diagnostics)
        ros.until(lambda: len(bench.diagnostics) > said, "diagnostics")
        status = bench.diagnostics[-1].status[0]
        values = {pair.key: pair.value for pair in status.values}
        assert int(values["deadlines_missed"]) == sum(report.deadline_missed for report in bench.latency)
        return status.level

    assert level(9, 101.0) == DiagnosticStatus.OK, "nine frames say little"
    assert level(1, 101.0) == DiagnosticStatus.WARN
    assert "most of the last 10 policy calls took longer than 100 ms" in bench.diagnostics[-1].status[0].message
    assert level(9, 99.0) == DiagnosticStatus.WARN, "ten of nineteen"
    assert level(1, 99.0) == DiagnosticStatus.OK, "half is not most"
    assert level(1, 101.0) == DiagnosticStatus.OK, "the oldest miss is forgotten"


def broken(_config: Any) -> Any:
    raise CheckpointError("no checkpoint at 'x'; valid: a folder with model.safetensors")


@pytest.mark.parametrize(
    "parameters, says",
    [
        ({}, "no checkpoint at 'x'"),
        ({"config": "mini_simm.yaml"}, "Did you mean 'mini_sim.yaml'"),
        ({"overrides": ["prune.ratioo=0.1"]}, "Did you mean 'ratio'"),
        ({"overrides": ["prune.ratio"]}, "valid: section.key=value"),
        ({"overrides": ["prune.ratio=2.0"]}, "outside [0.0, 0.9]"),
    ],
)
def test_a_wrong_configuration_keeps_it_unconfigured_and_says_why(ros: Graph, parameters: Any, says: str) -> None:
    node = ros.start(lambda **options: PolicyNode(broken, **options), **parameters)
    heard = ros.listen(DiagnosticArray, "/diagnostics")
    assert not ros.call(ChangeState, "policy/change_state", request(Transition.TRANSITION_CONFIGURE)).success
    assert says in node._diagnostics.message
    ros.until(lambda: any(says in a.status[0].message for a in heard), says)


def test_bad_input_gives_a_diagnostic_and_no_chunk_and_good_input_mends_it(ros: Graph) -> None:
    bench = Bench(ros, FakeEngine(("place the apple in the basket",)), overrides=["node.image_age_s=0.2"])
    bench.activate()
    bench.says("no image for 0.2 s on /third_person/image (1 publishers), /wrist/image")
    bench.show(cameras=("third_person",))
    bench.says("no image for 0.2 s on /wrist/image")
    for _ in range(2):
        bench.show(encoding="16UC1")
    bench.says("16UC1 is a depth picture; valid: the colour topic")
    infinite = joints(bench.now())
    infinite.position[3] = math.inf
    bench.show(state=infinite)
    bench.says("not finite for joint_4")
    ros.spin(0.3)
    lacking = joints(bench.now())
    lacking.name[2] = "joint_three"  # joint_3 is known of the message before
    bench.show(state=lacking)
    bench.says("joint_states is 0.3")
    ros.spin(0.3)  # older than allowed, and yet newer than the last one
    bench.show(bench.now() - 10**9 // 4)
    bench.says("s old; valid: up to 0.200 s")
    bench.show(bench.now() + 10**10)
    bench.says("in the future")
    bench.show(bench.now(), cameras=("wrist",))
    bench.show(bench.now() + 15 * 10**7, cameras=("third_person",))
    bench.says("wrist is 0.15")
    ros.spin(0.2)
    bench.instruction.publish(String(data="make tea"))
    bench.ros.until(lambda: bench.node._instruction == "make tea")
    bench.show(bench.now())
    bench.show(bench.now())
    bench.says("unknown instruction 'make tea'; valid: place the apple in the basket")
    bench.engine.failure = RuntimeError("the tensor is not there")
    bench.instruction.publish(String(data="place the apple in the basket"))
    bench.ros.until(lambda: bench.node._instruction != "make tea")
    bench.show()
    bench.says("the tensor is not there")
    assert not bench.chunks
    bench.engine.failure = None
    bench.show()
    bench.answered()
    bench.says("running")
    bench.says("no image for 0.2 s")  # and now they stop


def test_reordered_joints_reach_the_engine_in_order(ros: Graph) -> None:
    bench = Bench(ros, FakeEngine())
    bench.activate()
    stamp = bench.now()
    state = joints(stamp)
    state.name = [*reversed(JOINTS), state.name[-1], "other"]
    state.position = [0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.4, math.inf]
    state.velocity = []
    bench.show(stamp, state=state)
    bench.answered()
    assert bench.engine.seen[0].joints == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])


def test_the_refresh_begins_once_the_chunk_was_published(ros: Graph) -> None:
    bench, told = Bench(ros, FakeEngine()), []
    bench.engine.rest = lambda: told.append("rest")
    publish = bench.node._publish
    bench.node._publish = lambda *answer: (told.append("publish"), publish(*answer))
    bench.activate()
    bench.show()
    bench.answered()
    bench.ros.until(lambda: "rest" in told)
    assert told[:2] == ["publish", "rest"]


def test_a_clock_that_jumps_back_starts_anew(ros: Graph) -> None:
    bench = Bench(ros, FakeEngine(), overrides=["node.image_age_s=10.0"])
    bench.activate()
    bench.show()
    bench.answered()
    resets = bench.engine.resets
    earlier = bench.now() - 5 * 10**9
    bench.show(earlier)
    assert wire.stamp_ns(bench.answered(2).header.stamp) == earlier
    assert bench.engine.resets == resets + 1


def test_the_newest_image_wins_and_what_it_overwrites_is_counted() -> None:
    box = Mailbox(CAMERAS)
    for stamp in (1, 2, 3):
        box.put("wrist", stamp, stamp, 0)
    assert box.wait(0.0) is None, "a frame needs every camera"
    box.put("third_person", 3, 3, 0)
    assert box.wait(0.0) == {"wrist": 3, "third_person": 3} and box.dropped == 2
    assert box.put("wrist", 2, 2, 0) and box.dropped == 3, "late, not rewound"
    assert box.silent(10, 5) == list(CAMERAS) and box.silent(10, 20) == []
    box.put("wrist", 10**10, 10**10, 0)
    assert not box.put("wrist", 5, 5, 0), "the clock jumped back"
    box.close()
    assert box.wait(1.0) is None


def test_pictures_of_two_instants_are_never_paired() -> None:
    box = Mailbox(CAMERAS, sync_ns=80)
    for stamp in (100, 200):  # the reader was busy while both cameras shot twice, and reads between two pictures
        box.put("third_person", ("third_person", stamp), stamp, 0)
        if stamp == 100:
            box.put("wrist", ("wrist", stamp), stamp, 0)
    assert box.wait(0.0) is None and "wrist is 0.000 s behind" in box.apart and box.dropped == 2
    box.put("wrist", ("wrist", 200), 200, 0)
    assert box.wait(0.0) == {name: (name, 200) for name in CAMERAS} and not box.apart


def test_the_joint_state_of_the_picture_is_found_among_later_ones() -> None:
    """Among messages that nobody was woken for, as many as are kept, and whoever else publishes there."""
    from ecovla_ros.nodes.ros.arm_states import ArmStates
    from ecovla_ros.types import GEN3

    with graph() as ros:
        states = ArmStates(ros.tester, GEN3, 1.0, qos.STATES, qos.STATES.depth)
        arm, base = (ros.matched(ros.tester.create_publisher(JointState, "joint_states", 100)) for _ in range(2))
        ms = 10**6
        for k in range(50):
            arm.publish(joints(10**9 + 10 * k * ms, 0.01 * k))
            base.publish(JointState(name=["wheel"], position=[1.0]))

        def newest() -> float:
            try:
                return float(states.nearest(10**10).joints[0])
            except ObservationError:
                return -1.0

        ros.until(lambda: newest() == 0.49, "the last")
        assert states.nearest(10**9 + 123 * ms).joints[0] == 0.12 and states.others == ["wheel"]
        assert states.nearest(0).joints[0] == 0.0
        arm.publish(joints(5, 0.7))
        ros.until(lambda: newest() == 0.7, "the new time")
        states.close()
    assert wire.raw_stamp_ns(serialize_message(joints(3 * 10**9 + 7))) == 3 * 10**9 + 7


def test_events_are_looked_at_once_a_second_and_services_always() -> None:
    """A peer with another quality of service is told of, late; nothing else of the node waits."""
    from ecovla_ros.nodes.ros.polling import EVENTS_S, OncePerSecond

    with graph() as ros:
        told: list[Any] = []
        events = SubscriptionEventCallbacks(incompatible_qos=told.append)
        ros.tester.create_subscription(String, "word", lambda _: None, qos.COMMAND, event_callbacks=events)
        heard = ros.listen(String, "other")
        once = OncePerSecond()
        once.turn(ros.tester, 0.0)
        once.turn(ros.tester, EVENTS_S / 2)  # closed again
        assert any(event.callback_group is once for event in ros.tester.waitables)
        wrong = ros.tester.create_publisher(String, "word", qos.SENSOR)
        right = ros.matched(ros.tester.create_publisher(String, "other", 10))
        right.publish(String(data="a"))
        ros.until(lambda: bool(heard), "a message")
        ros.spin(0.3)
        assert not told
        once.turn(ros.tester, EVENTS_S)
        ros.until(lambda: bool(told), "the warning")
        assert not wrong.get_subscription_count()
