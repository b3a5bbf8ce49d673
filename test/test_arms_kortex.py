"""The pipe and the loop of the kortex server: what is no report, and what is lost, late or malformed."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kortex_robot import Robot

from ecovla_ros.arms.kortex.process import SERVER, KortexArm
from ecovla_ros.control.limits import load

HOME = np.array([0.1, 0.3, 0.5, -1.8, -0.4, 0.9, 1.5])
LIMITS = load("normal")
FAKE = Path(__file__).parent / "fake_kortex"
STATE = {"joints": [0.0] * 7, "velocity": [0.0] * 7, "gripper": 0.0, "fault": ""}


def until(condition: Callable[[], Any], what: str, timeout_s: float = 20.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"not seen: {what}"
        time.sleep(0.01)


def test_only_reports_reach_standard_output_whoever_prints() -> None:
    lines = [
        f"import os, sys; sys.path.insert(0, {str(SERVER.parent)!r}); import server",
        "out = server.reports()",
        "print('from Python'); os.write(1, b'from C\\n'); os.system('echo from a child')",
        "print('a report', file=out, flush=True)",
    ]
    ran = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True)
    assert ran.stdout == "a report\n"
    assert all(f"from {who}" in ran.stderr for who in ("Python", "C", "a child"))


def test_a_connection_that_breaks_is_a_named_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(FAKE))
    robot = Robot(HOME)
    arm = KortexArm(sys.executable, LIMITS, time.time_ns, ["--ip", "127.0.0.1", "--port", str(robot.port)])
    try:
        until(lambda: arm.state() is not None, "a state")
        robot.stray = "a message for nobody"
        until(lambda: not robot.stray, "that it is sent")
        count = len(robot.calls)
        until(lambda: len(robot.calls) > count + 3, "calls after it")
        assert arm.fault == ""
        robot.hang_up()
        until(lambda: "does not answer" in arm.fault, "the fault by name")
    finally:
        arm.close()
        robot.close()


@pytest.mark.parametrize("line", ["[Errno 32] Broken pipe", "5", "{}", '{"fault": "", "joints": ["a"]}', "\\xff"])
def test_what_is_no_report_is_skipped_and_logged_once(
    line: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    print_it = f"sys.stdout.buffer.write(b'{line}\\n' * 2)"
    with caplog.at_level(logging.WARNING):
        python = program(tmp_path, print_it, f"print({json.dumps(STATE)!r}, flush=True)", "sys.stdin.read()")
        arm = KortexArm(python, LIMITS, lambda: 7)
        try:
            until(lambda: arm.state() is not None, "the state after it")
            assert arm.fault == "" and len(caplog.records) == 1
        finally:
            arm.close()


def test_a_process_that_reports_no_more_is_a_named_fault(tmp_path: Path) -> None:
    python = program(tmp_path, "sys.stdout.flush(); os.close(1)", "sys.stdin.read(); os._exit(0)")
    arm = KortexArm(python, LIMITS, lambda: 7)
    try:
        until(lambda: arm.fault == "the kortex process runs and reports no more", "the fault by name")
    finally:
        arm.close()


def program(folder: Path, *lines: str) -> str:
    """An interpreter that runs these lines whatever it is told to run."""
    made = folder / "python"
    made.write_text("\n".join([f"#!{sys.executable}", "import os, sys", *lines]))
    made.chmod(0o755)
    return str(made)
