"""What the middleware's reader is handed holds all that its lengths say: else it ends the process that reads."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("ecovla_ros.msg")

from builtin_interfaces.msg import Duration
from rclpy.serialization import deserialize_message, serialize_message
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import Bool, String
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from ecovla_ros.errors import ObservationError
from ecovla_ros.nodes.ros.interfaces import ActionChunk, PruningState
from ecovla_ros.stage import hostile
from ecovla_ros.types import JOINTS
from ecovla_ros.wire import cdr

POINT = JointTrajectoryPoint(positions=[0.1] * 7, velocities=[0.0] * 7, time_from_start=Duration(sec=1))
SOUND: dict[str, Any] = {
    "Bool": Bool(data=True),
    "String": String(data="place the apple"),
    "Clock": Clock(),
    "JointState": JointState(name=[*JOINTS], position=[0.1] * 7, velocity=[0.1] * 7),
    "ActionChunk": ActionChunk(period=0.1, horizon=2, joint_names=[*JOINTS], positions=[0.1] * 14, gripper=[0.0, 1.0]),
    "Image": Image(height=2, width=3, step=9, encoding="rgb8", data=bytes(18)),
    "CompressedImage": CompressedImage(format="png", data=bytes(13)),
    "PruningState": PruningState(method="ecovla", kind="refresh", triggered=True),
    "JointTrajectory": JointTrajectory(joint_names=[*JOINTS], points=[POINT] * 3),
}
DEADLY = (b"\0\1\0\3", b"\0\1\0\3\xff\xff\xff\xff", b"\0\1\0\2\4\0\0\0abc\0")
"""Their options say that more of them is padding than there is: Fast CDR takes any length for good after that."""


def test_every_layout_is_tried() -> None:
    assert set(SOUND) == set(cdr.LAYOUTS)


def passes(raw: bytes, kind: str) -> bool:
    try:
        cdr.check(raw, kind)
    except ObservationError as error:
        assert f"bytes that are no {kind}" in str(error)
        return False
    return True


@pytest.mark.parametrize("kind", SOUND)
def test_the_shortest_beginning_that_passes_is_the_whole_message(kind: str) -> None:
    """What stands behind it is room that the writer did not need."""
    for msg in (SOUND[kind], type(SOUND[kind])()):
        raw = serialize_message(msg)
        whole = next(at for at in range(len(raw) + 1) if passes(raw[:at], kind))
        assert deserialize_message(raw[:whole], type(msg)) == msg
        assert all(passes(raw[:at], kind) for at in range(whole, len(raw) + 1))
        assert whole > len(raw) - 32


@pytest.mark.parametrize("kind", SOUND)
def test_what_passes_is_read_or_refused_and_ends_nothing(kind: str) -> None:
    raw, passed = serialize_message(SOUND[kind]), 0
    for seed in range(3000):
        _, broken = hostile.broken(np.random.default_rng([5, seed]), raw)
        try:
            cdr.check(broken, kind)
        except ObservationError:
            continue
        passed += 1
        with contextlib.suppress(RuntimeError, ValueError):
            deserialize_message(broken, type(SOUND[kind]))
    assert passed > 300, "sound ones in particular"


@pytest.mark.parametrize("raw", DEADLY)
def test_what_would_end_a_process_is_not_handed_on(raw: bytes) -> None:
    with pytest.raises(ObservationError):
        cdr.check(raw, "String")


@pytest.mark.parametrize("raw", [b"", b"\0\1\0", b"\0\1\0\3", b"\1\1\0\0abcd", b"\0\7\0\0abcd"])
def test_of_a_kind_that_is_not_known_the_encoding_is_looked_at(raw: bytes) -> None:
    with pytest.raises(ObservationError, match="are no JointTrajectoryControllerState"):
        cdr.check(raw, "JointTrajectoryControllerState")
    cdr.check(b"\0\1\0\3" + bytes(8), "JointTrajectoryControllerState")


def test_a_million_texts_are_not_counted() -> None:
    with pytest.raises(ObservationError):
        cdr.check(b"\0\1\0\0" + bytes(12) + b"\0\0\x10\0" + bytes(2**22), "JointState")
