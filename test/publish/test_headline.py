"""The first screen of the README says what the files say, also where that is no success."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ecovla_ros.publish import headline as report_headline
from ecovla_ros.publish import tables as report
from ecovla_ros.publish.markdown import MISSING

KEYS = {"method": "ecovla", "refresh": "probe"}
FILES = ("table.json", "latency_mid_bf16.json", "faults.json", "trial.json")


def documents(verdict="not inferior", violations=0):
    row = {**KEYS, "ratio": 0.25, "task": "all", "successes": 90, "episodes": 100, "only_dense": 7, "only_this": 3}
    success = [{**row, "environment": e, "margin": 0.02, "verdict": verdict} for e in ("calm", "shift")]
    success.insert(0, {**success[0], "ratio": 0.5, "successes": 11})
    call = {**KEYS, "scope": "policy", "frames": "all", "mean_ms": 1000.0}
    latency = [{**call, "ratio": ratio, "speedup": 1 + ratio} for ratio in (0.25, 0.4)]
    latency.insert(0, {**latency[0], "frames": "sparse", "speedup": 9.0})
    every = {"case": "all", "violations": violations, "count": 500}
    rests = [{"rest_s": 0.5}, {"rest_s": 0.75}, {"share": 0.1}]
    return (
        {"rows": success},
        {"rows": latency, "settings": {"model": "big"}, "machine": {"cpu": "slow"}},
        {"rows": [{"case": "NaN", "violations": 9, "count": 9}, every]},
        {"rows": rests},
    )


def test_the_headline_is_what_the_files_say():
    equal, faster, safe = report_headline.headline(*documents()).splitlines()
    assert equal.count("90 of 100 solved (dense 94; not inferior by 2 points, 95 % confidence)") == 2
    assert "big" in faster and "slow" in faster and "1.25x at 25 % (1000 ms), 1.40x at 40 % (1000 ms)" in faster
    assert "9.0" not in faster and "0 of 500" in safe and "0.75 s" in safe


def test_a_headline_does_not_hide_what_went_wrong():
    equal, _, safe = report_headline.headline(*documents("inferior", 3)).splitlines()
    assert "inferior, 95" in equal and "not inferior" not in equal and "3 of 500" in safe


@pytest.mark.parametrize("missing", FILES)
def test_a_headline_needs_every_file(missing, tmp_path: Path):
    for name, document in zip(FILES, documents()):
        if name != missing:
            (tmp_path / name).write_text(json.dumps(document))
    text = "<!-- table: headline -->\n<!-- end -->"
    assert MISSING in report.fill(text, tmp_path)
    (tmp_path / missing).write_text(json.dumps(documents()[FILES.index(missing)]))
    assert "Equal success" in report.fill(text, tmp_path)
