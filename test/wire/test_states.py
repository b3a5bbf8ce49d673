"""Joint states as ROS has them: by bytes as by messages, in parts, beside other robots' joints, under other names."""

from __future__ import annotations

import functools
from dataclasses import replace
from types import SimpleNamespace as Message
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecovla_ros import config, wire
from ecovla_ros.bags.kinds import Kinds
from ecovla_ros.config import ArmConfig, Config
from ecovla_ros.errors import ConfigError, ObservationError
from ecovla_ros.types import GEN3, GRIPPER_JOINT, JOINTS, ArmJoints
from ecovla_ros.wire import joint_names

KIND = "sensor_msgs/msg/JointState"
KINDS = Kinds()
NAMES = (*JOINTS, GRIPPER_JOINT)
MS = 1_000_000
T0 = 10**9


def message(names: Any, position: Any = None, velocity: Any = None, ns: int = T0, frame: str = "") -> Any:
    msg = KINDS.blank(KIND)
    wire.set_stamp(msg.header.stamp, ns)
    msg.header.frame_id, msg.name = frame, list(names)
    msg.position = np.array([0.1 * i for i in range(len(msg.name))] if position is None else position, float)
    msg.velocity = np.zeros(len(msg.name)) if velocity is None else np.array(velocity, float)
    return msg


def raw(*args: Any, **more: Any) -> bytes:
    return KINDS.encode(KIND, message(*args, **more))


def reader(joints: ArmJoints = GEN3, **more: Any) -> wire.JointStates:
    return wire.JointStates(lambda data: KINDS.decode(KIND, data), joints, **more)


@st.composite
def messages(draw: st.DrawFn) -> Any:
    """Any order, other joints, any frame, with and without velocities, now and then a joint too few."""
    names = draw(st.permutations([*NAMES, *draw(st.lists(st.sampled_from(["finger", "x", "Gelenk \u00e4"]), max_size=2,
                                                        unique=True))]))  # fmt: skip
    names = names[: len(names) - draw(st.sampled_from([0, 0, 0, 1]))]
    numbers = st.floats(-4.0, 4.0) | st.sampled_from([float("nan"), float("inf")])
    several = st.lists(numbers, min_size=len(names), max_size=len(names))
    frame = draw(st.sampled_from(["", "base_link", "abc", "\u00e4"]))
    return message(names, draw(several), draw(several) if draw(st.booleans()) else [], T0, frame)


def outcome(read, finite):
    try:
        state = read(finite)
    except ObservationError as error:
        return str(error)
    return state.stamp_ns, state.joints.tolist(), state.velocity.tolist(), state.gripper


@settings(max_examples=120, deadline=None)
@given(messages(), st.booleans())
def test_bytes_give_what_messages_give(msg: Any, finite: bool) -> None:
    states = reader()
    for _ in range(2):  # the second time its places are known
        states.put(KINDS.encode(KIND, msg))
        from_bytes = outcome(states.newest, finite)
        np.testing.assert_equal(from_bytes, outcome(functools.partial(wire.arm_state, msg), finite))
        assert states.newest() is None  # nothing came since


def test_known_places_need_no_message() -> None:
    made: list[bytes] = []
    states = wire.JointStates(lambda data: (made.append(data), KINDS.decode(KIND, data))[1])
    for k in range(5):
        states.put(raw(["wheel"], [1.0], ns=T0 + k))
        states.put(raw(NAMES, [0.1 * k] * 8, ns=T0 + k, frame="base_link"))
        state = states.newest()
        assert state is not None and state.joints.tolist() == [0.1 * k] * 7
    assert len(made) == 2 and states.others == ["wheel"] and states.passed_over == 5


@pytest.mark.reads("joint states", "beside joints of other robots")
@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=30, max_size=60))
def test_whoever_else_publishes_the_arm_is_read_as_if_alone(order: list[int]) -> None:
    """A base, a second arm with a prefix, and messages without positions, before, after and between ours."""
    foreign = [
        raw(["wheel_left", "wheel_right"], [1.0, 2.0]),
        raw([f"right_{name}" for name in NAMES], [3.0] * 8),
        raw(["pan", "tilt"], [], [1.0, 2.0]),
    ]
    alone, among = reader(), reader()
    for k, which in enumerate(order):
        if which:
            among.put(foreign[which - 1])
            continue
        ours = raw(NAMES, [0.01 * k] * 8, ns=T0 + k * MS)
        alone.put(ours)
        among.put(ours)
        for a, b in ((alone.newest(), among.newest()), (alone.nearest(T0), among.nearest(T0))):
            assert a is not None and b is not None and a.stamp_ns == b.stamp_ns
            np.testing.assert_array_equal(a.joints, b.joints)
    assert set(among.others) <= {"wheel_left", "wheel_right", "pan", "tilt", *(f"right_{n}" for n in NAMES)}


@pytest.mark.reads("joint states", "arm and gripper in messages of their own")
@pytest.mark.parametrize("parts", [(NAMES[:7], NAMES[7:]), (NAMES[4:], NAMES[:4]), tuple((n,) for n in NAMES)])
def test_parts_are_put_together_by_name_and_are_as_old_as_the_oldest(parts: tuple[tuple[str, ...], ...]) -> None:
    values = dict(zip(NAMES, 0.1 * np.arange(8)))
    states = reader()
    for k, part in enumerate(parts):
        states.put(raw(part, [values[name] for name in part], ns=T0 + k * MS))
    state = states.newest()
    arm = [k for k, part in enumerate(parts) if set(part) & set(JOINTS)]
    assert state is not None and state.stamp_ns == T0 + arm[0] * MS
    np.testing.assert_allclose(state.joints, 0.1 * np.arange(7))
    assert state.gripper == pytest.approx(0.7 / 0.8)
    states.put(raw(parts[-1], [values[name] for name in parts[-1]], ns=T0 + 90 * MS))
    again = states.newest()  # one part goes on alone: the state does not grow younger than the others
    assert (
        again is None or len(arm) == 1 or again.stamp_ns == T0 + (arm[1] if arm[0] == len(parts) - 1 else arm[0]) * MS
    )
    assert states.nearest(T0).stamp_ns == T0 + max(arm) * MS


def test_a_gripper_that_fell_silent_is_no_part_of_now() -> None:
    states = reader(part_age_s=0.5)
    states.put(raw(NAMES[7:], [0.4]))
    states.put(raw(JOINTS, ns=T0 + 400 * MS))
    assert states.newest() is not None
    states.put(raw(JOINTS, ns=T0 + 600 * MS))
    with pytest.raises(ObservationError, match="0.600 s away from the other joints.*part_age_s.*none without"):
        states.newest()


def test_the_state_of_a_picture_is_the_nearest_and_a_clock_that_jumps_back_forgets_every_part() -> None:
    states = reader()
    for k in range(50):
        states.put(raw(JOINTS, [0.01 * k] * 7, ns=T0 + 10 * k * MS))
        states.put(raw([GRIPPER_JOINT], [0.0], ns=T0 + (10 * k + 3) * MS))
    assert states.nearest(T0 + 123 * MS).stamp_ns == T0 + 120 * MS
    assert states.nearest(0).stamp_ns == T0 and states.nearest(10**10).joints[0] == pytest.approx(0.49)
    states.put(raw(JOINTS, [0.7] * 7, ns=5))
    with pytest.raises(ObservationError, match=f"lacks {GRIPPER_JOINT}"):  # that of before is not of this time
        states.nearest(5)


@pytest.mark.reads("joint states", "an arm without a gripper")
def test_an_arm_without_a_gripper_is_whole_without_it() -> None:
    bare = replace(GEN3, gripper="")
    for names in (JOINTS, NAMES):
        states = reader(bare)
        states.put(raw(names))
        state = states.newest()
        assert state is not None and state.gripper == 0.0
    assert list(wire.fill_joint_state(message([]), state, 5, bare).name) == list(JOINTS)
    with pytest.raises(wire.arm.ControlError, match="no gripper"):
        wire.gripper(Message(joint_names=[GRIPPER_JOINT], points=[]), bare)


@pytest.mark.reads("joint states", "other names, by the settings of section arm")
@pytest.mark.parametrize(
    "arm",
    [
        ArmConfig(joint_prefix="gen3_"),
        ArmConfig(joint_prefix="left_", gripper_joint="finger_joint", gripper_closed_rad=0.7),
        ArmConfig(joint_names=tuple(f"Actuator{i}" for i in range(1, 8)), gripper_joint="none"),
        ArmConfig(
            joint_names=tuple(f"shoulder{i}_x" for i in range(1, 8)), gripper_joint="robotiq_140_left_knuckle_joint"
        ),
    ],
)
def test_names_are_a_setting_and_the_error_without_it_proposes_it(arm: ArmConfig) -> None:
    joints = arm.joints
    state = wire.arm_state(message(NAMES))
    sent = wire.fill_joint_state(message([]), state, T0, joints)
    assert list(sent.name) == list(joints.wanted)
    back = wire.arm_state(sent, joints=joints)
    np.testing.assert_allclose(back.joints, state.joints)
    assert back.gripper == pytest.approx(state.gripper if joints.gripper else 0.0)
    assert joints.plain([*joints.arm, "wheel"]) == [*JOINTS, "wheel"]
    states = reader()
    states.put(KINDS.encode(KIND, sent))
    with pytest.raises(ObservationError) as caught:
        states.newest()
    texts = joint_names.settings(replace(joints, closed_rad=0.8))
    assert all(text in str(caught.value) for text in texts) and texts
    proposed = config.override_texts(Config(), [t.replace("[", "[").replace(",", ", ") for t in texts]).arm.joints
    assert proposed.wanted == joints.wanted


def test_two_arms_on_one_topic_are_both_proposed_and_none_is_guessed() -> None:
    states = reader()
    for side in ("left_", "right_"):
        states.put(raw([side + name for name in NAMES]))
    with pytest.raises(ObservationError, match="arm.joint_prefix=left_ or: arm.joint_prefix=right_"):
        states.newest()


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"joint_names": ["a", "b"]}, "2 different names"),
        ({"joint_names": ["a"] * 7}, "1 different names"),
        ({"joint_names": list(JOINTS), "joint_prefix": "x_"}, "both set"),
        ({"joint_names": list(JOINTS), "gripper_joint": "joint_3"}, "is a joint of the arm"),
        ({"gripper_closed_rad": 0.0}, "outside"),
        ({"joint_prefx": "x"}, "Did you mean 'joint_prefix'"),
    ],
)
def test_names_that_cannot_be_are_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        config.from_mapping({"arm": changes})


def test_somebody_who_invents_names_does_not_push_the_arm_out() -> None:
    states = reader()
    states.put(raw(NAMES))
    for k in range(100):
        states.put(raw([f"x{k}"], [1.0]))
    assert states.newest() is not None and len(states.others) < 40


def test_a_gripper_in_percent_or_degrees_is_no_gripper_in_radians() -> None:
    for value in (60.0, -45.0):
        msg = Message(
            header=Message(stamp=Message(sec=1, nanosec=0)),
            name=[*GEN3.wanted],
            position=[0.0] * 7 + [value],
            velocity=[],
        )
        with pytest.raises(ObservationError, match=f"{GEN3.gripper} is at {value:.4g}.*are these degrees"):
            wire.arm_state(msg)
        assert 0.0 <= wire.arm_state(msg, finite=False).gripper <= 1.0, "the guard needs the arm's joints alone"
