"""The campaign against hostile messages: its generators break what they are given, and its small form reaches all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("ecovla_ros.msg")
pytest.importorskip("websockets")

from ecovla_ros import cli
from ecovla_ros.bench import document
from ecovla_ros.cli import fuzz
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


def test_a_campaign_goes_on_where_it_was_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def work(options: Any) -> list[tuple[str, Any]]:
        del options

        def shot(name: str) -> Any:
            return lambda: made.append(name) or {"node": "guard", "topic": name, "reached": True}

        return [(name, shot(name)) for name in ("guard estop", "presses")]

    monkeypatch.setattr(fuzz, "_work", work)
    monkeypatch.setattr(document, "commit", lambda: "abc")
    common = ["fuzz", "--resume", "--json", str(tmp_path / "fuzz.json")]
    assert cli.main([*common, "--messages", "3", "--presses", "2"]) == 0
    assert cli.main([*common, "--messages", "3", "--presses", "4"]) == 0
    assert made == ["guard estop", "presses", "presses"], "as many presses were not made yet"
    monkeypatch.setattr(document, "commit", lambda: "abc+")
    assert cli.main([*common, "--messages", "3", "--presses", "4"]) == 0
    assert made[3:] == ["guard estop", "presses"], "of another state of the files"
