"""Plots and traces: what is drawn is what the files say."""

from __future__ import annotations

import json

import pytest

from ecovla_ros import cli
from ecovla_ros.bench.success import trace
from ecovla_ros.errors import ConfigError
from ecovla_ros.publish import plots


def row(method, refresh, ratio, solved, task="all", environment="calm"):
    return {
        "task": task,
        "environment": environment,
        "method": method,
        "refresh": refresh,
        "ratio": ratio,
        "episodes": 10,
        "successes": solved,
        "low": 0.1,
        "high": 0.9,
    }


SUCCESS = {
    "commit": "a" * 40,
    "rows": [
        row("dense", "none", 0.0, 9),
        row("ecovla", "probe", 0.4, 6),
        row("ecovla", "probe", 0.25, 8),
        row("static", "none", 0.25, 7),
        row("static", "none", 0.25, 1, task="apple"),
        row("dense", "none", 0.0, 5, environment="shift"),
        row("static", "none", 0.25, 4, environment="shift"),
    ],
}
LATENCY = {
    "commit": "b" * 40,
    "rows": [
        {"method": m, "refresh": "none", "ratio": r, "scope": s, "frames": f, "speedup": 1 + r}
        for m in ("dense", "static")
        for r in (0.4, 0.25)
        for s in ("prefill", "policy", "act")
        for f in ("all", "sparse")
    ],
}
FRAMES = [
    {
        "frame": i,
        "seconds": 0.4 * i,
        "similarity": None if i == 0 else 0.9,
        "threshold": 0.95 if i > 3 else None,
        "triggered": i == 5,
        "kind": "sparse",
        "pattern_id": 0,
        "churn": 0.1 * (i == 5),
    }
    for i in range(8)
]
TRACE = {
    "commit": "c" * 40,
    "rows": FRAMES,
    "outcome": {"task": "apple", "environment": "shift", "ratio": 0.25, "events": [[1.2, "light_level"]]},
}


def test_series_start_at_dense_and_rise_with_the_ratio():
    series = plots.success_series(SUCCESS["rows"], "calm")
    assert [p[:2] for p in series["ecovla (probe)"]] == [(0.0, 0.9), (0.25, 0.8), (0.4, 0.6)]
    assert [p[:2] for p in series["static"]] == [(0.0, 0.9), (0.25, 0.7)]
    assert plots.success_series(SUCCESS["rows"], "shift")["static"][1][1] == 0.4
    assert plots.success_series(SUCCESS["rows"][:1], "calm") == {"dense": [(0.0, 0.9, 0.1, 0.9)]}
    assert plots.speed_series(LATENCY["rows"], "policy") == {"static": [(0.25, 1.25), (0.4, 1.4)]}


def test_the_command_draws_both_from_files(tmp_path):
    pytest.importorskip("matplotlib")
    paths = {}
    for name, document in (("success", SUCCESS), ("latency", LATENCY), ("trace", TRACE)):
        paths[name] = tmp_path / f"{name}.json"
        paths[name].write_text(json.dumps(document))
    files = [part for name, path in paths.items() for part in (f"--{name}", str(path))]
    assert cli.main(["plot", *files, "--out", str(tmp_path / "docs")]) == 0
    for name in ("ratio", "episode"):
        assert "</svg>" in (tmp_path / "docs" / f"{name}.svg").read_text()
    drawn = (tmp_path / "docs/episode.svg").read_bytes()
    assert cli.main(["plot", *files, "--out", str(tmp_path / "docs")]) == 0
    assert (tmp_path / "docs/episode.svg").read_bytes() == drawn, "the same files give the same picture"
    both = ["--success", str(paths["success"]), str(paths["success"])]
    assert cli.main(["plot", *files, *both, "--out", str(tmp_path / "more")]) == 0
    assert len((tmp_path / "more/ratio.svg").read_text()) > 1.3 * len((tmp_path / "docs/ratio.svg").read_text())
    assert cli.main(["plot", *files, "--out", str(tmp_path), "--format", "jpx"]) == 2


def test_a_missing_file_is_one_line(tmp_path, capsys):
    with pytest.raises(ConfigError, match="no result file"):
        plots.read(tmp_path / "a.json")
    assert cli.main(["plot", "--success", str(tmp_path / "a.json"), "--out", str(tmp_path / "docs")]) == 2
    assert "no result file" in capsys.readouterr().err and not (tmp_path / "docs").exists()


def test_churn_is_the_share_of_kept_channels_that_are_new():
    before = {"a": {0, 1, 2, 3}, "b": {0, 1}}
    assert trace.churn(before, before) == 0.0 and trace.churn({}, before) == 0.0
    assert trace.churn(before, {"a": {0, 1, 2, 7}, "b": {5, 6}}) == 0.5
