"""The campaign against hostile messages: its generators break what they are given, and its small form reaches all."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("ecovla_ros.msg")
pytest.importorskip("websockets")

from ecovla_ros import cli
from ecovla_ros.stage import hostile

SOUND = b"\0\1\0\0" + bytes(range(100))


@pytest.mark.parametrize("how", hostile.BREAKS, ids=lambda how: how.__name__)
def test_a_break_is_drawn_from_its_generator_and_stays_small(how: hostile.Break) -> None:
    drawn = [[how(np.random.default_rng([7, k]), SOUND) for k in range(50)] for _ in range(2)]
    assert drawn[0] == drawn[1], "the same draws give the same bytes"
    assert max(map(len, drawn[0])) <= 200_000
    assert (set(drawn[0]) == {SOUND}) == (how is hostile.untouched)


hostile_parts = ["--part", "guard", "--topic", "estop", "--part", "presses", "--part", "serve"]


def test_a_small_campaign_ends_nothing_and_is_written_down(tmp_path: Path) -> None:
    file = tmp_path / "fuzz.json"
    common = ["--messages", "300", "--presses", "10", "--out", str(tmp_path), "--json", str(file)]
    cli.main(["fuzz", *hostile_parts, *common])
    rows = {row["topic"]: row for row in json.loads(file.read_text())["rows"]}
    assert set(rows) == {"estop", "estop, pressed under load", "websocket"}
    assert all(row["ends"] == 0 and row["answered"] == row["good"] for row in rows.values()), rows
    assert rows["websocket"]["told"] == rows["websocket"]["sent"] == 300
    cli.main(["fuzz", "--part", "guard", "--topic", "arm_fault", *common])
    assert len(json.loads(file.read_text())["rows"]) == 4, "what was run before stays"
