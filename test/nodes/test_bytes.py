"""Bytes that end whoever reads them with the middleware's own reader, for each kind of reader that a node has.

Topics are checked before they are read (test/wire). Requests, and what the middleware tells itself, are read in C:
there the reader itself is mended (`nodes/ros/cdr_bounds`). Each run is a process, since rclpy is loaded in this one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("ecovla_ros.msg")
pytest.importorskip("websockets")

from ecovla_ros.nodes.ros import cdr_bounds

ASK = "import ecovla_ros.nodes; from ecovla_ros.nodes.ros import cdr_bounds; print(cdr_bounds.looks())"
READERS = {
    "a request with texts": ("guard", "parameters", 1500),  # of which a 25th is sent: they are looked at once a second
    "a request for a transition": ("policy", "services", 600),
    "a request for motion": ("guard", "services", 600),
    "what the middleware tells itself": ("guard", "ros_discovery_info", 3000),
}
"""Reader -> part, topic and messages of a campaign."""


def run(*command: str, without: bool = False) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, cdr_bounds.WITHOUT: "1" if without else ""}
    return subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, timeout=240)


def campaign(folder: Path, reader: str, **options: Any) -> tuple[int, dict[str, Any]]:
    """Exit code of a small campaign, and its row; the row is empty when the process that shoots was ended too."""
    (part, topic, messages), file = READERS[reader], folder / "fuzz.json"
    aim = ("--part", part, "--topic", topic, "--messages", str(messages))
    done = run("-m", "ecovla_ros.cli", "fuzz", *aim, "--out", str(folder), "--json", str(file), **options)
    rows = json.loads(file.read_text())["rows"] if file.is_file() else [{}]
    return done.returncode, rows[0]


@pytest.fixture(scope="module")
def defective() -> bool:
    """Whether the middleware's reader needs mending, and there is what mends it."""
    return run("-c", ASK, without=True).stdout.strip() == "False"


def test_a_node_has_a_reader_that_looks_before_it_reads() -> None:
    assert run("-c", ASK).stdout.strip() == "True", "build ecovla_ros anew: pip install -e ."


@pytest.mark.parametrize("reader", READERS)
def test_no_bytes_end_the_reader_of(tmp_path: Path, reader: str) -> None:
    code, row = campaign(tmp_path, reader)
    assert (code, row["ends"], row["answered"]) == (0, 0, row["good"]), row
    assert row["sent"] > 0


def test_without_the_mending_they_would(tmp_path: Path, defective: bool) -> None:
    if not defective:
        pytest.skip("this Fast CDR looks before it reads by itself")
    code, row = campaign(tmp_path, "what the middleware tells itself", without=True)
    assert code != 0 and not row.get("reached")


def test_a_node_says_so_where_nothing_mends_it(defective: bool) -> None:
    if not defective:
        pytest.skip("this Fast CDR looks before it reads by itself")
    told = run("-c", ASK.replace("looks()", "fault()"), without=True).stdout
    assert "whoever speaks DDS on this network can end this process" in told and "discovery:=localhost" in told
    assert run("-c", ASK.replace("looks()", "fault()")).stdout.strip() == ""
