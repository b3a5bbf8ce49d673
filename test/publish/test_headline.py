"""The table of the README says what the files say, also where that is no success."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ecovla_ros.publish import headline, tables
from ecovla_ros.publish.markdown import MISSING

KEYS = {"method": "ecovla", "refresh": "probe"}
FILES = ("table.json", "latency_mid_bf16.json", "gpu-pi05.json", "faults.json", "trial.json")


def documents(verdict="not inferior", violations=0):
    row = {**KEYS, "ratio": 0.25, "task": "all", "successes": 90, "episodes": 100, "only_dense": 7, "only_this": 3}
    success = [{**row, "environment": e, "margin": 0.02, "verdict": verdict} for e in ("calm", "shift")]
    success.insert(0, {**success[0], "ratio": 0.5, "successes": 11})
    call = {**KEYS, "scope": "policy", "frames": "all", "mean_ms": 1000.0}
    latency = [{**call, "ratio": ratio, "speedup": 1 + ratio} for ratio in (0.25, 0.4)]
    latency.insert(0, {**latency[0], "frames": "sparse", "speedup": 9.0})
    latency.append({**call, "method": "dense", "ratio": 0.0, "mean_ms": 2000.0, "speedup": 1.0})
    gpu = [{**r, "device": "NVIDIA X", "speedup": 0.9} for r in latency]
    bench = {"settings": {"model": "big"}, "machine": {"cpu": "slow"}, "commit": "0123456789"}
    every = {"case": "all", "violations": violations, "count": 500}
    rests = [{"rest_s": 0.5}, {"rest_s": 0.75}, {"share": 0.1}]
    return (
        {"rows": success},
        {"rows": latency, **bench},
        {"rows": gpu, **bench},
        {"rows": [{"case": "NaN", "violations": 9, "count": 9}, every]},
        {"rows": rests},
    )


def test_the_table_is_what_the_files_say():
    lines = headline.headline(*documents()).splitlines()[2:]
    assert len(lines) == 8
    calm, shift, quarter, more, gpu, faults, rest, arm = lines
    for line in (calm, shift):
        assert "90 of 100 solved, dense 94: not inferior by more than 2 points (95 % confidence)" in line
    assert "big, random weights, 25 % pruned, slow | 1.25x: 1000 ms a policy call, dense 2000 ms" in quarter
    assert "1.40x" in more and "speed-cpu" in more and "commit 0123456" in more
    assert "40 % pruned, NVIDIA X | 0.90x" in gpu and "speed-gpu" in gpu
    assert "0 of 500" in faults and "0.75 s" in rest and MISSING in arm and not any("9.0" in line for line in lines)


def test_it_does_not_hide_what_went_wrong():
    calm, *_, faults, _, _ = headline.headline(*documents("inferior", 3)).splitlines()[2:]
    assert "inferior (95" in calm and "not inferior" not in calm and "3 of 500" in faults


@pytest.mark.parametrize("missing", FILES)
def test_a_headline_needs_every_file(missing, tmp_path: Path):
    for name, document in zip(FILES, documents()):
        if name != missing:
            (tmp_path / name).write_text(json.dumps(document))
    text = "<!-- table: headline -->\n<!-- end -->"
    assert MISSING in tables.fill(text, tmp_path)
    (tmp_path / missing).write_text(json.dumps(documents()[FILES.index(missing)]))
    assert "Equal success" in tables.fill(text, tmp_path)
