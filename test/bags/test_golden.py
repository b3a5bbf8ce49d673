"""Golden actions of the shipped policy on a seeded bag, dense and pruned, and the fixture that users import.

After a change that is meant to change actions: pytest test/bags/test_golden.py --regenerate-golden
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ecovla_ros import cli
from ecovla_ros.bags import golden, sample
from ecovla_ros.bags.sample import Sample
from ecovla_ros.errors import BagError

EXAMPLE = Path(__file__).parents[2] / "examples" / "regress_a_bag"


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = sample.write(tmp_path_factory.mktemp("golden") / "sample", Sample(seconds=2.5).events())
    assert sum(p.stat().st_size for p in path.iterdir()) < 1_000_000
    return path


@pytest.mark.parametrize("method, ratio", [("dense", 0.0), ("ecovla", 0.25)])
def test_the_shipped_policy_answers_as_it_did(
    golden_replay: Callable[..., list[dict[str, Any]]], bag: Path, method: str, ratio: float
) -> None:
    rows = golden_replay(bag, method=method, ratio=ratio)
    assert len(rows) == 25 and all("joints" in row for row in rows)
    if method == "ecovla":
        kinds = [row["kind"] for row in rows]
        assert "sparse" in kinds and len({row["pattern"] for row in rows}) > 1
        assert rows[12]["triggered"], "the scene changes in the middle"
        decided = [abs(r["similarity"] - r["threshold"]) for r in rows if r["similarity"] and r["threshold"]]
        assert min(d for d in decided if d) > 1e-6, "no trigger of the golden bag hangs on the last bits of a float"


def rows() -> list[dict[str, Any]]:
    chunk = [[0.1 * j + i for j in range(7)] for i in range(3)]
    answered = [
        {
            "stamp_ns": i,
            "kind": "sparse",
            "pattern": "ab",
            "dtype": "float32",
            "joints": copy.deepcopy(chunk),
            "grippers": [0.0, 0.5, 1.0],
        }
        for i in range(4)
    ]
    return [*answered, {"stamp_ns": 4, "held": "no image for 0.3 s on /wrist/image"}]


def test_a_difference_is_found_where_it_is_and_shown_as_a_table() -> None:
    expected, found = rows(), rows()
    assert golden.differences(found, expected) == [] and golden.largest(found, expected) == 0.0
    found[2]["joints"][1][4] += 3e-4
    (wrong,) = golden.differences(found, expected)
    assert wrong["frame"] == 2 and wrong["what"] == "joint_5, row 1" and wrong["difference"] == pytest.approx(3e-4)
    lines = golden.table([wrong]).splitlines()
    assert len(lines) == 2 and "joint_5, row 1" in lines[1] and "0.0003" in lines[1]
    found[3]["grippers"][2] = float("nan")
    assert [f["what"] for f in golden.differences(found, expected)] == ["joint_5, row 1", "gripper, row 2"]


def test_tolerance_follows_the_dtype_of_the_golden_actions() -> None:
    for dtype, allowed in golden.TOLERANCES.items():
        expected, found = rows(), rows()
        for row in expected[:4]:
            row["dtype"] = dtype
        found[0]["joints"][0][0] += 0.5 * allowed
        assert golden.differences(found, expected) == []
        found[0]["joints"][0][0] += allowed
        assert len(golden.differences(found, expected)) == 1
    expected[0]["dtype"] = "float31"
    with pytest.raises(BagError, match="Did you mean 'float32'"):
        golden.tolerance(expected)


def test_frames_that_are_held_missing_or_run_another_way_differ() -> None:
    expected = rows()
    held = rows()
    held[1] = {"stamp_ns": 1, "held": "no"}
    other = rows()
    other[0]["kind"], other[3]["pattern"] = "refresh", "cd"
    assert [f["what"] for f in golden.differences(held, expected)] == ["held"]
    assert [f["what"] for f in golden.differences(other, expected)] == ["kind", "pattern"]
    assert [f["what"] for f in golden.differences(rows()[:4], expected)] == ["only in the golden file"]
    many = golden.differences([], [expected[0]] * 20)
    assert golden.table(many).endswith("... and 8 more frames")


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    golden.write(tmp_path / "new" / "golden.json", rows())
    assert golden.differences(rows(), golden.read(tmp_path / "new" / "golden.json")) == []
    (tmp_path / "other.json").write_text("[]")
    (tmp_path / "bench.json").write_text('{"rows": [{"kind": "bag", "inputs": 900}]}')
    for path in (tmp_path / "other.json", tmp_path / "none.json", tmp_path / "bench.json"):
        with pytest.raises(BagError, match="neither golden actions nor a document"):
            golden.read(path)


def test_the_example_makes_golden_actions_and_notices_a_change(pytester: pytest.Pytester) -> None:
    for file in EXAMPLE.glob("*.py"):
        (pytester.path / file.name).write_text(file.read_text(encoding="utf-8"), encoding="utf-8")
    options = ("-p", "no:cacheprovider", "-p", "no:launch_testing", "-p", "no:launch_ros")
    missing = pytester.runpytest_subprocess(*options, "-k", "dense")
    missing.stdout.fnmatch_lines(["*make them: pytest --regenerate-golden*"])
    pytester.runpytest_subprocess(*options, "--regenerate-golden").assert_outcomes(passed=3)
    pytester.runpytest_subprocess(*options).assert_outcomes(passed=3)
    file = pytester.path / "golden" / "sample-dense-0.json"
    changed = golden.read(file)
    changed[3]["joints"][5][2] += 0.01
    golden.write(file, changed)
    failed = pytester.runpytest_subprocess(*options, "-k", "dense")
    failed.assert_outcomes(failed=1)
    failed.stdout.fnmatch_lines(["*1 of 10 frames differ*", "*joint_3, row 5*0.01*0.0001*"])


def test_a_golden_file_that_is_none_is_told_before_the_replay(bag: Path, tmp_path: Path, capsys: Any) -> None:
    missing = tmp_path / "none.json"
    code = cli.main(["replay", str(bag), "--golden", str(missing)])
    said = capsys.readouterr()
    assert code == 2 and str(missing) in said.err and "frames" not in said.out
