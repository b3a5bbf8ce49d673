"""Joint states read from their bytes are those of the messages, whatever changes from one to the next."""

from __future__ import annotations

import functools

import numpy as np
import pytest

pytest.importorskip("rclpy")

from hypothesis import given, settings
from hypothesis import strategies as st
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import JointState

from ecovla_ros import wire
from ecovla_ros.errors import ObservationError
from ecovla_ros.types import GRIPPER_JOINT, JOINTS

NAMES = (*JOINTS, GRIPPER_JOINT)


@st.composite
def messages(draw: st.DrawFn) -> JointState:
    """Any order, other joints, any frame, with and without velocities and efforts, now and then a joint too few."""
    names = draw(st.permutations([*NAMES, *draw(st.lists(st.sampled_from(["finger", "x", "Gelenk \u00e4"]), max_size=2,
                                                        unique=True))]))  # fmt: skip
    names = names[: len(names) - draw(st.sampled_from([0, 0, 0, 1]))]
    numbers = st.floats(-4.0, 4.0) | st.sampled_from([float("nan"), float("inf")])
    msg = JointState(name=list(names))
    msg.header.frame_id = draw(st.sampled_from(["", "base_link", "abc", "\u00e4"]))
    msg.header.stamp.sec, msg.header.stamp.nanosec = draw(st.integers(0, 2**31 - 1)), draw(st.integers(0, 999_999_999))
    msg.position = draw(st.lists(numbers, min_size=len(names), max_size=len(names)))
    msg.velocity = draw(st.lists(numbers, min_size=len(names), max_size=len(names))) if draw(st.booleans()) else []
    msg.effort = [0.0] * draw(st.sampled_from([0, len(names)]))
    return msg


def outcome(read, finite):
    try:
        state = read(finite)
    except ObservationError as error:
        return str(error)
    return state.stamp_ns, state.joints.tolist(), state.velocity.tolist(), state.gripper


@settings(max_examples=150, deadline=None)
@given(st.lists(messages(), min_size=1, max_size=4), st.booleans())
def test_bytes_give_what_messages_give(several: list[JointState], finite: bool) -> None:
    reader = wire.StateReader(lambda raw: deserialize_message(raw, JointState))
    for msg in [m for m in several for _ in range(2)]:  # the second time its places are known
        raw = serialize_message(msg)
        from_bytes = outcome(functools.partial(reader.read, raw), finite)
        np.testing.assert_equal(from_bytes, outcome(functools.partial(wire.arm_state, msg), finite))


def test_known_places_need_no_message() -> None:
    made: list[bytes] = []

    def deserialize(raw: bytes) -> JointState:
        made.append(raw)
        return deserialize_message(raw, JointState)

    reader = wire.StateReader(deserialize)
    for k in range(5):
        msg = JointState(name=list(NAMES), position=[0.1 * k] * 8, velocity=[0.0] * 8)
        msg.header.frame_id = "base_link"
        assert reader.read(serialize_message(msg)).joints.tolist() == [0.1 * k] * 7
    assert len(made) == 1
