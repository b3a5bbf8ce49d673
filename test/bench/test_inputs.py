"""Spoilt inputs: each is read, or refused in one line with exit code 2; the seed says what is done to which."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

pytest.importorskip("pyarrow")

from ecovla_ros import cli  # noqa: E402
from ecovla_ros.bench.inputs import campaign, mutations  # noqa: E402


def test_whatever_is_spoilt_no_command_ends_in_a_traceback(tmp_path: Path) -> None:
    rows = list(campaign.run(cli.main, tmp_path, 40, seed=7))
    assert not [row for row in rows if row["wrong"]]
    table = {row["kind"]: row for row in campaign.summary(rows)}
    assert set(table) == set(campaign.SHARES) and sum(row["inputs"] for row in table.values()) == 40
    assert all(row["refused"] for row in table.values())


def test_a_command_that_raises_says_nothing_or_too_much_is_counted_as_wrong(tmp_path: Path) -> None:
    def raising(arguments: object) -> int:
        raise KeyError("not ours")

    assert "KeyError" in next(campaign.run(raising, tmp_path / "a", 4, 0))["wrong"]
    for name, code in (("b", 2), ("c", 1)):
        assert next(campaign.run(lambda arguments, code=code: code, tmp_path / name, 4, 0))["wrong"]  # type: ignore[misc]
    assert not next(campaign.run(lambda arguments: 0, tmp_path / "d", 4, 0))["wrong"]


def test_the_same_seed_does_the_same(tmp_path: Path) -> None:
    for change in (*mutations.BYTES, mutations.json_file):
        data = b'{"a": [1, {"b": "c"}], "d": 2.5}' * (1 if change is mutations.json_file else 40)
        assert change(random.Random(3), data) == change(random.Random(3), data)
