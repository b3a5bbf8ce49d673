"""Result documents and intervals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ecovla_ros.bench import document
from ecovla_ros.bench.success.statistics import wilson


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(12, 20, 0.3866, 0.7812), (0, 10, 0.0, 0.2775), (200, 200, 0.9812, 1.0), (0, 0, 0.0, 1.0)],
)
def test_wilson_gives_published_values(successes: int, trials: int, low: float, high: float) -> None:
    assert wilson(successes, trials) == pytest.approx((low, high), abs=1e-4)


def test_a_document_has_the_five_keys(tmp_path: Path) -> None:
    file = tmp_path / "results" / "x.json"
    document.write(file, [{"task": "apple", "successes": 3}], {"seed": 1})
    read = json.loads(file.read_text(encoding="utf-8"))
    assert set(read) == {"rows", "settings", "machine", "versions", "commit"}
    assert read["rows"] == [{"task": "apple", "successes": 3}] and read["settings"] == {"seed": 1}
    assert read["machine"]["cores"] >= 1 and read["machine"]["memory_gib"] > 0 and read["machine"]["cpu"]
    assert {"python", "numpy"} <= set(read["versions"]) and read["commit"]


def test_numbers_of_numpy_are_written_and_other_things_refused(tmp_path):
    rows = [{"reached": np.bool_(True), "n": np.int64(3), "ms": np.float32(0.5)}]
    document.write(tmp_path / "r.json", rows, {})
    assert json.loads((tmp_path / "r.json").read_text())["rows"] == [{"reached": True, "n": 3, "ms": 0.5}]
    with pytest.raises(TypeError, match="set does not belong"):
        document.write(tmp_path / "s.json", [{"x": {1}}], {})
