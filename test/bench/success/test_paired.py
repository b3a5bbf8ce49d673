"""Two runs on the same scenes: what is counted is of scenes that both met, cell by cell."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ecovla_ros.bench.success import journal, paired
from ecovla_ros.bench.success.journal import Journal
from ecovla_ros.errors import ConfigError

KEYS = dict.fromkeys(journal.KEYS, "x")


def episodes(outcomes: str, environment: str = "calm", method: str = "static", first: int = 0) -> list[dict]:
    """One episode a letter, from seed `first` on: s solved, - not."""
    cell = {"environment": environment, "method": method, "refresh": "none", "ratio": 0.5, "task": "apple"}
    return [{**KEYS, **cell, "seed": first + i, "success": letter == "s", "seconds": 1.0 + i, "jerk": 2.0 * i}
            for i, letter in enumerate(outcomes)]  # fmt: skip


def write(path: Path, rows: list[dict], rtc: int) -> Path:
    book = Journal(journal.beside(path), {"config": {"policy": {"rtc": rtc, "model": "mini"}}}, False, f"c{rtc}")
    for row in rows:
        book.add(row)
    book.close()
    return path


def test_either_run_may_be_this_one() -> None:
    one, two = episodes("sss-s--s"), episodes("s-s-sss-")
    (here,), (there,) = paired.compared(one, two), paired.compared(two, one)
    assert (here["pairs"], here["only_this"], here["only_other"]) == (8, 2, 2)
    assert (here["this_solved"], here["other_solved"]) == (5, 5) == (there["other_solved"], there["this_solved"])
    assert (here["low"], here["high"]) == pytest.approx((-there["high"], -there["low"]))
    assert here["low"] < here["difference"] == -there["difference"] < here["high"]
    assert here["mcnemar_p"] == there["mcnemar_p"] == 1.0


def test_how_long_and_how_smooth_is_of_scenes_that_both_solved() -> None:
    this, other = episodes("sss-"), [{**row, "seconds": 10.0, "jerk": 1.0} for row in episodes("s-ss")]
    (row,) = paired.compared(this, other)
    assert (row["both_solved"], row["this_seconds_p50"], row["other_seconds_p50"]) == (2, 2.0, 10.0)
    assert (row["this_jerk_p50"], row["other_jerk_p50"]) == (2.0, 1.0)
    (none,) = paired.compared(episodes("--"), episodes("ss"))
    assert none["both_solved"] == 0 and none["this_seconds_p50"] is None


def test_only_scenes_that_both_met_are_counted_each_in_its_cell() -> None:
    one = [*episodes("ssss"), *episodes("--", "shift"), *episodes("s", "looks")]
    two = [*episodes("--ss", first=2), *episodes("ss", "shift"), *episodes("s", "looks", "wanda")]
    counted = {row["environment"]: (row["pairs"], row["only_this"], row["only_other"])
               for row in paired.compared(one, two)}  # fmt: skip
    assert counted == {"calm": (2, 2, 0), "shift": (2, 0, 2)}
    with pytest.raises(ConfigError, match="no episode of the same method and scene"):
        paired.compared(episodes("s"), episodes("s", first=7))


def test_the_result_says_what_the_runs_do_not_share(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    this, other = write(tmp_path / "a.json", episodes("ss-"), 8), write(tmp_path / "b.json", episodes("s--"), 0)
    assert paired.main([str(this), str(other), "--json", str(tmp_path / "p.json")]) == 0
    document = json.loads((tmp_path / "p.json").read_text())
    assert document["settings"]["differ"] == {"config.policy.rtc": [8, 0]}
    assert document["commits"] == ["c0", "c8"] and document["rows"][0]["only_this"] == 1
    capsys.readouterr()
    assert paired.main([str(this), str(tmp_path / "none.json")]) == 2
    said = capsys.readouterr().err
    assert "none.episodes.jsonl" in said and said.count("\n") == 1
