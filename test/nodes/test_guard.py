"""Node `guard` over real topics: nothing moves before enable, bad input holds or latches, what is sent can be sent."""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("ecovla_ros.msg")

from rclpy.executors import SingleThreadedExecutor
from std_msgs.msg import Bool, String
from std_srvs.srv import SetBool, Trigger
from support.graph import Graph, graph, joints
from support.nodes import START, Arm
from trajectory_msgs.msg import JointTrajectory

from ecovla_ros import wire
from ecovla_ros.control.clocks import PlanClock
from ecovla_ros.errors import ConfigError
from ecovla_ros.nodes.guard import LOOK_TICKS, GuardNode
from ecovla_ros.nodes.ros import gripper, qos
from ecovla_ros.nodes.ros.interfaces import PruningState
from ecovla_ros.types import JOINTS, FrameReport


@pytest.fixture
def ros() -> Iterator[Graph]:
    with graph() as made:
        yield made


def test_nothing_is_sent_before_enable_and_the_arm_is_brought_to_rest_at_the_end(ros: Graph) -> None:
    arm = Arm(ros)
    for _ in range(5):
        arm.send(START + 0.05)
        ros.spin(0.03)
    assert not arm.sent and not arm.grips
    arm.is_in("DISARMED", "not enabled")
    assert arm.enable().success
    arm.send(START + 0.05)
    ros.until(lambda: arm.sent and arm.grips, "a trajectory and the gripper")
    trajectory = wire.trajectory(arm.sent[0])
    assert list(arm.sent[0].joint_names) == list(JOINTS)
    assert 0 <= arm.now() - wire.stamp_ns(arm.sent[0].header.stamp) < 10**9, "it says when it begins"
    assert trajectory.velocities is not None and not trajectory.velocities[-1].any()
    assert (np.diff(trajectory.times_s) > 0).all() and trajectory.times_s[0] == 0.0
    assert wire.gripper(arm.grips[0]) == 1.0
    ros.until(lambda: arm.values()["chunks_answered"] == "1", "the delay of the answer")
    assert 50.0 <= float(arm.values()["camera_to_command_ms"]) < 1000.0
    count = len(arm.sent)
    arm.node.close()
    ros.until(lambda: len(arm.sent) > count, "the hold at the end")
    assert wire.trajectory(arm.sent[-1]).times_s[-1] < 0.5


def test_it_does_not_arm_without_joint_states_and_says_so(ros: Graph) -> None:
    node = ros.start(GuardNode)
    answer = ros.call(SetBool, "guard/enable", SetBool.Request(data=True))
    assert not answer.success and "no joint state yet" in answer.message
    assert not node._guard._commands


def test_stopped_joint_states_hold_and_nan_latches_until_reset(ros: Graph) -> None:
    arm = Arm(ros, age_s=0.4)  # the chunk lasts longer
    assert arm.enable().success
    arm.send(START + 0.05)
    arm.is_in("ARMED", "first motion")
    arm.talking = False
    arm.is_in("HOLD", "the last joint state is")
    arm.talking = True
    arm.send(START)
    arm.is_in("ARMED")
    arm.talking = False  # the newest is read, and the broken one shall be it
    ros.spin(0.05)
    broken = joints(arm.now(), START)
    broken.position[2] = math.inf
    arm.states.publish(broken)
    arm.is_in("LATCHED", "the joint state holds NaN")
    answer = arm.enable()
    assert not answer.success and "Call reset first" in answer.message
    assert ros.call(Trigger, "guard/reset", Trigger.Request()).success
    arm.is_in("DISARMED")


def test_missing_joints_and_bad_chunks_are_named(ros: Graph) -> None:
    arm = Arm(ros)
    assert arm.enable().success
    arm.talking = False
    lacking = joints(arm.now(), START)
    lacking.name[6] = "joint_8"
    arm.states.publish(lacking)
    arm.is_in("HOLD", "the last joint state is")
    for _ in range(30):
        lacking.header.stamp = joints(arm.now(), START).header.stamp
        arm.states.publish(lacking)
        ros.spin(0.05)
    assert any("joint_7 on joint_states is" in said.message for said in arm.status)
    arm.talking = True
    ros.until(lambda: not arm.node._inputs, "good joint states")
    ros.until(lambda: arm.enable().success, "armed again")
    ros.spin(1.2)  # the driver may be another one: its controller is brought to where the arm stands
    arm.send(horizon=3)
    ros.until(lambda: "a chunk of horizon 3" in arm.node._inputs.get("action_chunk", ""), "the refused chunk")
    arm.send(positions=[1.5] * 56)
    ros.until(lambda: "jump" in arm.node._last.refusal, "a refusal")


def test_the_estop_latches_and_hold_stays(ros: Graph) -> None:
    arm = Arm(ros)
    assert arm.enable().success
    assert ros.call(Trigger, "guard/hold", Trigger.Request()).success
    arm.is_in("HELD", "asked to hold")
    arm.send(START + 0.05)
    ros.spin(0.1)
    assert not arm.sent, "held until enabled"
    arm.estop.publish(Bool(data=True))
    arm.is_in("LATCHED", "e-stop")
    assert "release" in ros.call(Trigger, "guard/reset", Trigger.Request()).message


def test_an_enable_that_nobody_asks_for_again_ends_and_asking_alone_enables_nothing(ros: Graph) -> None:
    arm = Arm(ros, enable_lease_s=0.4)
    asking = ros.matched(ros.tester.create_publisher(Bool, "guard/enable_lease", qos.REPORT))
    answer = arm.enable(seat=False)
    assert answer.success and "for 0.4 s" in answer.message
    for _ in range(6):
        ros.spin(0.2)
        asking.publish(Bool(data=True))
    assert arm.values()["state"] == "ARMED", "asked for again"
    arm.is_in("DISARMED", "whoever enabled is gone")
    asking.publish(Bool(data=True))
    ros.spin(0.2)
    assert arm.values()["state"] == "DISARMED", "asking again is no enabling"
    assert arm.enable(seat=False).success
    asking.publish(Bool(data=False))
    arm.is_in("DISARMED", "gave it back")


@pytest.mark.parametrize("kind, says", [("topc", "Did you mean 'topic'"), ("parallel_gripper", "topic, none")])
def test_a_gripper_that_cannot_be_served_is_refused(kind: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "control_msgs.action", None)
    with pytest.raises(ConfigError, match=says):
        gripper.sender(None, kind)


@pytest.mark.parametrize(
    "kind, action", [("parallel_gripper", "ParallelGripperCommand"), ("gripper_command", "GripperCommand")]
)
def test_the_gripper_action_gets_radians(kind: str, action: str, monkeypatch: pytest.MonkeyPatch) -> None:
    goals: list[Any] = []
    made = SimpleNamespace(Goal=lambda: SimpleNamespace(command=SimpleNamespace()))
    module = ModuleType("control_msgs.action")
    setattr(module, action, made)
    monkeypatch.setitem(sys.modules, "control_msgs", ModuleType("control_msgs"))
    monkeypatch.setitem(sys.modules, "control_msgs.action", module)
    client = SimpleNamespace(server_is_ready=lambda: True, send_goal_async=goals.append)
    monkeypatch.setattr(gripper, "ActionClient", lambda node, kind, name: client)
    gripper.sender(None, kind)(0.5)
    assert np.ravel(goals[0].command.position) == pytest.approx([0.4])


def test_the_gripper_action_is_taken_in_the_type_that_the_graph_offers(
    ros: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    graph: list[tuple[str, list[str]]] = [("/other/gripper_cmd", ["control_msgs/action/ParallelGripperCommand"])]
    monkeypatch.setattr(gripper, "get_action_names_and_types", lambda node: graph)
    acting = lambda node, kind, joints: made.append(kind) or (lambda closed: made.append(kind))  # noqa: E731
    monkeypatch.setattr(gripper, "_action", acting)
    send = gripper.sender(ros.tester, "auto")
    send(0.5)
    assert made == [], "an action by another name is not the gripper's, and nobody reads the topic: said, and dropped"
    for name in (
        "GripperCommand",
        "ParallelGripperCommand",
    ):  # also when the controller is started anew, of another type
        graph[:] = [("/gripper_cmd", [f"control_msgs/action/{name}"])]
        send(0.5)
        send(0.7)
    assert made == ["gripper_command"] * 3 + ["parallel_gripper"] * 3
    graph.clear()
    grips = ros.listen(JointTrajectory, "gripper_trajectory")
    ros.until(lambda: send._topic.read, "a reader of the topic")
    send(0.25)
    ros.until(lambda: grips, "the target on the topic")
    assert wire.gripper(grips[-1]) == 0.25


def test_a_fault_of_the_arm_latches_by_name_until_it_is_cleared(ros: Graph) -> None:
    arm = Arm(ros)
    assert arm.enable().success
    fault = ros.matched(ros.tester.create_publisher(String, "arm_fault", qos.LATCHED))
    fault.publish(String(data="joint_4: FOLLOWING_ERROR"))
    arm.is_in("LATCHED", "joint_4: FOLLOWING_ERROR")
    assert "clear the arm's fault" in ros.call(Trigger, "guard/reset", Trigger.Request()).message
    fault.publish(String(data=""))
    ros.spin(0.2)
    assert ros.call(Trigger, "guard/reset", Trigger.Request()).success


def test_driven_by_itself_it_answers_chunks_services_and_the_estop(ros: Graph) -> None:
    """As the process runs it: most ticks are slept through, and nothing that comes meanwhile is lost."""
    arm = Arm(ros)
    ros.executor.remove_node(arm.node)
    own, going = SingleThreadedExecutor(), [True]
    own.add_node(arm.node)
    thread = threading.Thread(target=arm.node.drive, args=(own, lambda: going[0]))
    thread.start()
    try:
        assert arm.enable().success
        for count in range(1, 4):
            arm.send(START + 0.01 * count)
            ros.until(lambda count=count: len(arm.sent) >= count, f"trajectory {count}")
            ros.spin(0.1)
        arm.send(float("nan"))
        arm.is_in("LATCHED", "broken")
        arm.estop.publish(Bool(data=True))
        ros.until(lambda: not ros.call(Trigger, "guard/reset", Trigger.Request()).success, "the e-stop heard")
        arm.estop.publish(Bool(data=False))
        ros.until(lambda: ros.call(Trigger, "guard/reset", Trigger.Request()).success, "and its release")
        arm.is_in("DISARMED")
    finally:
        going[0] = False
        thread.join()
        own.shutdown()
    assert not arm.node._listens(), "nothing is due while it is disarmed"
    arm.node._simulated_time = True
    assert arm.node._listens(), "a simulated clock comes through the executor"


def test_the_executor_is_asked_also_when_every_tick_takes_longer_than_its_period(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else services, chunks and the arm's fault would go unheard."""
    monkeypatch.setattr("ecovla_ros.nodes.guard.process.keep_loaded", lambda: None)
    ticks, waits = [0], [0]

    def tick() -> None:
        ticks[0] += 1
        threading.Event().wait(0.003)

    def spin_once(timeout_sec: float) -> None:
        waits[0] += 1

    node: Any = SimpleNamespace(
        destroy_timer=lambda _timer: None,
        _timer=None,
        _period_s=0.001,
        _tick=tick,
        _listens=lambda: False,
        waitables=[],
        services=[],
    )
    GuardNode.drive(node, SimpleNamespace(spin_once=spin_once), lambda: ticks[0] < 40)
    assert waits[0] >= 40 // LOOK_TICKS


def test_a_clock_that_is_set_is_told_to_the_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[float] = []
    guard = SimpleNamespace(on_clock_set=lambda step_s, _now: told.append(step_s), resting=False)
    node: Any = SimpleNamespace(_simulated_time=False, _plan=PlanClock(), _guard=guard)
    steady, wall = 10**9, 10**18
    monkeypatch.setattr("ecovla_ros.nodes.guard.time.monotonic_ns", lambda: steady)
    monkeypatch.setattr("ecovla_ros.nodes.guard.time.time_ns", lambda: wall)
    assert GuardNode._now_ns(node) == wall and not told
    steady, wall = steady + 10**7, wall + 10**7 + 5 * 10**7
    assert GuardNode._now_ns(node) == wall and told == [pytest.approx(0.05)]


def test_the_word_that_the_scene_has_changed_is_heard_and_old_policies_say_none(ros: Graph) -> None:
    """The word comes on `pruning`, behind the chunk; without it, as from a policy of before, a chunk waits."""
    arm = Arm(ros, overrides=["control.replan_s=10.0", "control.react_s=0.05", "control.chunk_silence_s=10.0"])
    frames = ros.matched(ros.tester.create_publisher(PruningState, "pruning", qos.REPORT))
    assert arm.enable().success
    arm.send(START + 0.05)
    ros.until(lambda: arm.sent, "the first trajectory")
    count = len(arm.sent)
    for triggered in (False, True):
        ros.spin(0.15)
        stamp_ns = arm.now() - 60_000_000  # a little before the chunk's
        arm.send(START + 0.05)
        frames.publish(wire.fill_pruning(PruningState(), FrameReport(stamp_ns, triggered=triggered)))
        if triggered:
            ros.until(lambda: len(arm.sent) > count, "the answer to the changed scene")
            ros.until(lambda: arm.values().get("count_reacted") == "1", "the count")
        else:
            ros.spin(0.15)
            assert len(arm.sent) == count
