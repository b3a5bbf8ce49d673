"""A node as a process: how it ends, by signals that come more than once, and with whoever started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("ecovla_ros.msg")

from support.launched import gone

START = "import sys; from ecovla_ros.nodes.{name} import main; sys.exit(main())"
GUARD = START.format(name="guard")
LIMIT_S = 60.0


def surroundings(tmp_path: Path) -> dict[str, str]:
    told = {"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST", "ROS_DOMAIN_ID": str(1 + os.getpid() % 100)}
    return os.environ | told | {"ROS_LOG_DIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}


def wait_for(file: Path, text: str) -> str:
    end = time.monotonic() + LIMIT_S
    while text not in file.read_text():
        assert time.monotonic() < end, file.read_text()
        time.sleep(0.02)
    return file.read_text()


@pytest.mark.parametrize("name, says", [("guard", "disarmed"), ("sim", "simulating")])
def test_the_exit_code_is_the_same_however_often_it_is_interrupted(name: str, says: str, tmp_path: Path) -> None:
    said = tmp_path / "said"
    with said.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", START.format(name=name)],
            env=surroundings(tmp_path), stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
    wait_for(said, says)
    while process.poll() is None:  # also while the interpreter ends
        process.send_signal(signal.SIGINT)
        time.sleep(0.005)
    assert process.returncode == 0 and "Traceback" not in said.read_text()


def test_a_node_ends_with_the_process_that_it_follows_and_does_not_start_without_it(tmp_path: Path) -> None:
    said = tmp_path / "said"
    starts = f"""
import os, subprocess, sys, time
node = subprocess.Popen([sys.executable, "-c", {GUARD!r}], env=os.environ | {{"ECOVLA_PARENT": str(os.getpid())}})
print("started", node.pid, flush=True)
time.sleep(600)
"""
    with said.open("wb") as output:
        parent = subprocess.Popen(
            [sys.executable, "-c", starts], env=surroundings(tmp_path), stdout=output, stderr=subprocess.STDOUT
        )
    text = wait_for(said, "disarmed")
    child = int(text.split("started ")[1].split()[0])
    parent.kill()
    parent.wait()
    wait_for(said, "ended; the arm holds")
    end = time.monotonic() + LIMIT_S
    while not gone(child):
        assert time.monotonic() < end
        time.sleep(0.02)
    late = surroundings(tmp_path) | {"ECOVLA_PARENT": str(parent.pid)}
    assert subprocess.run([sys.executable, "-c", GUARD], env=late, timeout=LIMIT_S).returncode == 2
