"""The demo as a user starts it: what it leaves, how it ends, and that nothing outlives it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

import cv2
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("ecovla_ros.msg")

from ecovla_ros.bags.read import messages, topics
from ecovla_ros.stage import children, summary
from ecovla_ros.stage.summary import Episode

LIMIT_S = 120.0


def start(out: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "ecovla_ros.cli", "demo", "--task", "apple", "--out", str(out), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def words(process: subprocess.Popen[str]) -> str:
    text, _ = process.communicate(timeout=LIMIT_S)
    return text


def pids(line: str) -> list[int]:
    return [int(number) for number in re.findall(r"\((\d+)\)", line)]


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def wait_for(output: IO[str] | None, text: str) -> str:
    assert output is not None
    return next(line for line in output if text in line)


def test_stopped_at_any_moment_it_leaves_no_process_and_a_readable_bag(tmp_path: Path) -> None:
    process = start(tmp_path)
    children_ids = pids(wait_for(process.stdout, "started"))
    assert len(children_ids) == 3
    for _ in range(2):  # people press Ctrl-C more than once
        process.send_signal(signal.SIGINT)
    text = words(process)
    assert process.returncode == 130 and "stopped by a signal" in text and "Traceback" not in text
    assert all(gone(pid) for pid in children_ids)
    assert isinstance(topics(tmp_path / "bag"), dict)
    assert json.loads((tmp_path / "summary.json").read_text())["faults"] == ["stopped by a signal"]


def test_nothing_outlives_a_demo_that_is_killed(tmp_path: Path) -> None:
    process = start(tmp_path)
    children_ids = pids(wait_for(process.stdout, "started"))
    process.kill()
    words(process)
    end = time.monotonic() + LIMIT_S
    while not all(gone(pid) for pid in children_ids):
        assert time.monotonic() < end, "they end with whoever started them"
        time.sleep(0.05)


def test_a_missing_checkpoint_is_named_and_ends_everything(tmp_path: Path) -> None:
    text = words(process := start(tmp_path, "--set", "policy.checkpoint=/no/such/folder"))
    assert process.returncode == 1
    assert "the policy did not configure" in text and "/no/such/folder" in text and "Traceback" not in text
    assert all(gone(pid) for pid in pids(text.split("started", 1)[1].splitlines()[0]))
    assert json.loads((tmp_path / "summary.json").read_text())["exit_codes"] == {"sim": 0, "guard": 0, "policy": 0}


@pytest.mark.parametrize(
    "arguments, says",
    [
        (("--method", "ecovlaa"), "Did you mean 'ecovla'"),
        (("--ratio", "2"), "outside [0.0, 0.9]"),
        (("--domain", "300"), "valid: 1 to 101"),
        (("--task", "aple"), "Did you mean 'apple'"),
    ],
)
def test_what_cannot_start_says_what_could(arguments: tuple[str, str], says: str, tmp_path: Path) -> None:
    text = words(process := start(tmp_path / "out", *arguments))
    assert process.returncode == 2 and says in text and "Traceback" not in text


def test_a_demo_ends_cleanly_and_leaves_bag_film_report_and_summary(tmp_path: Path) -> None:
    slow = ("--set", "sim.image_hz=5", "--set", "node.image_age_s=1.0", "--set", "control.chunk_age_s=1.0")
    text = words(process := start(tmp_path, "--seconds", "6", *slow))  # also where the machine has other work
    assert process.returncode == 0, text
    document = json.loads((tmp_path / "summary.json").read_text())
    row = document["rows"][0]
    assert row["steps"] > 5 and row["policy_p50_ms"] > 0 and row["camera_to_command_p50_ms"] > row["policy_p50_ms"]
    assert document["exit_codes"] == {"sim": 0, "guard": 0, "policy": 0}
    count = sum(1 for _ in messages(tmp_path / "bag", ["/third_person/image"]))
    film = cv2.VideoCapture(str(tmp_path / "film.mp4"))
    assert 0.5 * count < film.get(cv2.CAP_PROP_FRAME_COUNT) < 1.5 * count, "a second of the bag is a second of the film"
    assert film.read()[0]
    assert "Commands against limits" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_row_says_what_was_heard_and_a_dash_what_was_not() -> None:
    silent = Episode("apple", "place the apple in the basket", 0).row()
    heard = Episode("banana", "", 0, True, 4.0, [10.0, 20.0], [100.0], [True, False], [2, 4], [3, 8]).row()
    assert heard["trigger_rate"] == 0.5 and heard["frames_dropped"] == 5 and heard["policy_p50_ms"] == 15.0
    lines = summary.table([silent, heard]).splitlines()
    assert len({len(line) for line in lines}) == 1 and " - " in lines[1] and "yes" in lines[2]


def test_success_of_the_task_is_no_fault_and_a_silent_topic_or_a_crash_is() -> None:
    counts = dict.fromkeys(summary.TOPICS, 1)
    assert summary.faults({"sim": 0}, counts) == []
    assert summary.faults({"sim": -9}, {**counts, "/latency": 0}) == [
        "sim ended with exit code -9",
        "nothing was published on /latency",
    ]


def test_a_domain_somebody_listens_in_is_taken() -> None:
    import socket

    domain = children.free_domain()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("", 7400 + 250 * domain + 10))
        assert children.taken(domain)
    assert not children.taken(domain)
