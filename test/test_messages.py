"""The message files themselves, read by rosbags: every field that wire touches exists and holds what it is given."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from ecovla_ros import wire
from ecovla_ros.types import JOINTS, ActionChunk, ArmState, FrameReport, Trajectory

ROOT = Path(__file__).resolve().parents[1]
MESSAGES = sorted(ROOT.glob("msg/*.msg"))
STORE = get_typestore(Stores.ROS2_KILTED)
for path in MESSAGES:
    STORE.register(get_types_from_msg(path.read_text(), f"ecovla_ros/msg/{path.stem}"))


def blank(kind: str) -> Any:
    """A message of that type with zeros, as rclpy makes one."""
    made = STORE.types[kind]
    values = {}
    for name, (node, detail) in STORE.fielddefs[kind][1]:
        if int(node) == 1:
            values[name] = "" if detail[0] == "string" else False if detail[0] == "bool" else 0
        elif int(node) == 2:
            values[name] = blank(detail)
        else:
            inner = detail[0]
            basic = int(inner[0]) == 1 and inner[1][0] != "string"
            values[name] = np.zeros(detail[1] if int(node) == 3 else 0, inner[1][0]) if basic else []
    return made(**values)


def sent(msg: Any, kind: str) -> Any:
    """There and back through CDR, as a bag or the wire does. Unknown fields and wrong types fail here."""
    extra = set(vars(msg)) - {field.name for field in dataclasses.fields(msg)}
    assert not extra, f"{kind} has no field {', '.join(extra)}"
    return STORE.deserialize_cdr(STORE.serialize_cdr(msg, kind), kind)


def test_a_chunk_passes_through_cdr() -> None:
    kind = "ecovla_ros/msg/ActionChunk"
    chunk = ActionChunk(10**18 + 1, 0.1, np.random.default_rng(0).normal(size=(3, 7)), np.array([0.0, 0.5, 1.0]))
    got = wire.chunk(sent(wire.fill_chunk(blank(kind), chunk), kind))
    np.testing.assert_array_equal(got.joints, chunk.joints)
    assert got.stamp_ns == chunk.stamp_ns


def test_reports_pass_through_cdr() -> None:
    report = FrameReport(
        10**18, {"act": 3.0}, 40.0, 1.0, 9.0, "ecovla", "sparse", 0.9, 0.8, False, 0.25, 4, 2, 31, "why", "probe"
    )
    kind = "ecovla_ros/msg/LatencyReport"
    got = sent(wire.fill_latency(blank(kind), report, 7, 1, 55.0, 100.0), kind)
    assert (got.act_ms, got.policy_ms, got.frame, got.deadline_missed) == (3.0, 40.0, 7, False)
    kind = "ecovla_ros/msg/PruningState"
    got = sent(wire.fill_pruning(blank(kind), report), kind)
    fields = "method refresh kind similarity threshold ratio pattern_id pattern_age swaps fault"
    for field in fields.split():
        assert getattr(got, field) == getattr(report, field)


def test_standard_messages_pass_through_cdr() -> None:
    kind = "sensor_msgs/msg/JointState"
    state = ArmState(0, np.arange(7.0), np.ones(7), 0.5)
    got = wire.arm_state(sent(wire.fill_joint_state(blank(kind), state, 10**9), kind))
    np.testing.assert_array_equal(got.joints, state.joints)
    picture = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    kind = "sensor_msgs/msg/Image"
    np.testing.assert_array_equal(wire.decode_image(sent(wire.fill_image(blank(kind), picture, 1, "f"), kind)), picture)
    kind = "trajectory_msgs/msg/JointTrajectory"
    path = Trajectory(np.array([0.5]), np.ones((1, 7)), np.zeros((1, 7)))
    filled = wire.fill_trajectory(blank(kind), path, lambda: blank("trajectory_msgs/msg/JointTrajectoryPoint"))
    assert wire.trajectory(sent(filled, kind)).times_s == pytest.approx([0.5])
    assert list(filled.joint_names) == list(JOINTS)


@pytest.mark.parametrize("path", MESSAGES, ids=lambda path: path.stem)
def test_a_message_starts_with_its_header_and_explains_its_numbers(path: Path) -> None:
    fields = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    assert fields[0].startswith("std_msgs/Header header")
    for line in fields:
        assert "#" in line, f"{path.name}: '{line}' says neither unit nor meaning"


def test_cmake_builds_every_interface_and_program() -> None:
    cmake = (ROOT / "CMakeLists.txt").read_text()
    for path in [*ROOT.glob("msg/*.msg"), *ROOT.glob("srv/*.srv"), *ROOT.glob("scripts/*")]:
        assert f"{path.parent.name}/{path.name}" in cmake


def test_the_version_is_the_same_for_colcon_and_for_pip() -> None:
    version = ElementTree.parse(ROOT / "package.xml").findtext("version")
    assert f'\nversion = "{version}"\n' in (ROOT / "pyproject.toml").read_text()
