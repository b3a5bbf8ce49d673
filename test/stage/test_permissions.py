"""SROS2's policies say what the nodes ask the middleware for, no more and no less."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("ecovla_ros.msg")
pytest.importorskip("prometheus_client")

from ecovla_ros.stage import permissions
from ecovla_ros.stage.children import free_domain

SHIPPED = Path(__file__).parents[2] / "config" / "sros2"
NEWER = ("get_type_description",)
"""Services that not every release has."""


def granted(text: str) -> dict[str, set[tuple[str, str]]]:
    """Enclave -> (kind, name) of everything it may do."""
    return {
        enclave.get("path", ""): {
            (kind, str(entry.text))
            for group in enclave.iterfind("profiles/profile/*")
            for kind in group.attrib
            for entry in group
            if not str(entry.text).endswith(NEWER)
        }
        for enclave in ElementTree.fromstring(text).iterfind("enclaves/enclave")
    }


def test_every_launch_has_a_policy() -> None:
    assert {path.name for path in SHIPPED.iterdir()} == {f"{launch}.policy.xml" for launch in permissions.LAUNCHES}


def test_a_policy_grants_what_the_nodes_ask_for(tmp_path: Path) -> None:
    surroundings = {**os.environ, "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST", "ROS_DOMAIN_ID": str(free_domain())}
    command = [sys.executable, "-m", "ecovla_ros.stage.permissions", str(tmp_path)]
    subprocess.run(command, env=surroundings, check=True, capture_output=True, timeout=120)
    for launch in permissions.LAUNCHES:
        name = f"{launch}.policy.xml"
        shipped, asked = (granted((folder / name).read_text(encoding="utf-8")) for folder in (SHIPPED, tmp_path))
        assert shipped == asked, "make them anew: python -m ecovla_ros.stage.permissions config/sros2"


def test_only_the_guard_may_command_the_arm_and_only_the_policy_sends_chunks() -> None:
    for launch in permissions.LAUNCHES:
        may = granted((SHIPPED / f"{launch}.policy.xml").read_text(encoding="utf-8"))
        commanding = {path for path, rights in may.items() for kind, name in rights
                      if kind == "publish" and name.endswith("joint_trajectory")}  # fmt: skip
        sending = {path for path, rights in may.items() if ("publish", "/action_chunk") in rights}
        assert commanding == {"/guard"} and sending == {"/policy"}
        assert not any(kind == "publish" and name == "/estop" for rights in may.values() for kind, name in rights)


def test_whatever_a_launch_starts_has_an_enclave_and_what_brings_the_policy_up_may_do_no_more() -> None:
    for launch in permissions.LAUNCHES:
        may = granted((SHIPPED / f"{launch}.policy.xml").read_text(encoding="utf-8"))
        text = (SHIPPED.parents[1] / "launch" / f"ecovla_{launch}.launch.py").read_text(encoding="utf-8")
        named = re.findall(r'node\(\s*"(\w+)"|executable="(\w+)"', text)
        started = {name for pair in named for name in pair if name} | {"policy", "guard", "launch", "record"}
        started |= {"metrics"} if "launching.metrics()" in text else set()
        assert started <= {path.strip("/") for path in may}
        asked = {(kind, name) for kind, name in may["/launch"] if kind not in ("publish", "reply")}
        assert asked == {("request", "/policy/change_state"), ("subscribe", "/policy/transition_event")}
        assert all(name.startswith("/launch_ros_*/") for kind, name in may["/launch"] if kind == "reply")


def test_record_may_hear_what_is_told_to_the_nodes_too() -> None:
    for launch in permissions.LAUNCHES:
        may = granted((SHIPPED / f"{launch}.policy.xml").read_text(encoding="utf-8"))
        talk = {name for path, rights in may.items() if path != "/record"
                for kind, name in rights if kind in ("publish", "subscribe")}  # fmt: skip
        assert talk <= {name for kind, name in may["/record"] if kind == "subscribe"}


@pytest.mark.parametrize(("launch", "topic"), [("gen3", "/joint_trajectory_controller/controller_state"),
                                               ("sim", "/joint_trajectory_controller/controller_state"),
                                               ("replay", "/controller_state")])  # fmt: skip
def test_the_guard_may_hear_its_controller_also_where_the_policies_were_made_without_control_msgs(
    launch: str, topic: str
) -> None:
    may = granted((SHIPPED / f"{launch}.policy.xml").read_text(encoding="utf-8"))
    assert ("subscribe", topic) in may["/guard"]
