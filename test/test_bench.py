"""Evaluation and benchmark: pairing, statistics, and figures that come from files."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from ecovla_ros import cli, config
from ecovla_ros.bench import latency, report, success
from ecovla_ros.bench.statistics import mcnemar
from ecovla_ros.errors import ConfigError, EcovlaError
from ecovla_ros.models.base import PolicySpec
from ecovla_ros.prune.site import Site
from ecovla_ros.sim import events

ROOT = Path(__file__).parents[1]


def test_every_method_meets_the_same_scenes():
    todo = success.trials(["dense", "ecovla"], [0.25, 0.4], ["apple", "banana"], ["calm", "shift"], 3, 1000)
    by_method = {}
    for t in todo:
        by_method.setdefault((t.method, t.ratio), set()).add((t.task, t.environment, t.seed))
    assert set(by_method) == {("dense", 0.0), ("ecovla", 0.25), ("ecovla", 0.4)}
    assert len({frozenset(v) for v in by_method.values()}) == 1 and len(next(iter(by_method.values()))) == 12


def test_what_happens_in_an_episode_depends_on_its_seed_alone():
    assert success.schedule("shift", 7, "apple") == success.schedule("shift", 7, "apple")
    assert success.schedule("shift", 7, "apple") != success.schedule("shift", 8, "apple")
    assert success.schedule("calm", 7, "apple") == []
    for event in success.schedule("shift", 7, "bottle"):
        events.check(event)


@pytest.mark.parametrize(
    ("methods", "tasks", "environments", "match"),
    [(["ecolva"], ["apple"], ["calm"], "ecovla"), (["dense"], ["appel"], ["calm"], "apple"),
     (["dense"], ["apple"], ["clam"], "calm")],
)
def test_unknown_names_list_the_valid_ones(methods, tasks, environments, match):
    with pytest.raises(EcovlaError, match=match):
        success.trials(methods, [0.25], tasks, environments, 1, 0)


@pytest.mark.parametrize(("lost", "won"), [(0, 0), (5, 0), (1, 4), (7, 7), (10, 3)])
def test_mcnemar_is_the_two_sided_binomial_test(lost, won):
    n = lost + won
    probability = [math.comb(n, k) / 2**n for k in range(n + 1)]
    expected = sum(p for k, p in enumerate(probability) if abs(2 * k - n) >= abs(lost - won))
    assert mcnemar(lost, won) == pytest.approx(expected)


def episode(method, seed, solved):
    return {"method": method, "ratio": 0.0 if method == "dense" else 0.25, "task": "apple", "environment": "calm",
            "seed": seed, "success": solved, "steps": 50, "frames": 10, "triggered": 2}


def test_the_table_counts_pairs():
    episodes = [episode("dense", i, i < 8) for i in range(10)] + [episode("ecovla", i, i in range(2, 9)) for i in range(10)]
    rows = {(r["method"], r["task"]): r for r in success.table(episodes)}
    dense, pruned = rows[("dense", "all")], rows[("ecovla", "all")]
    assert (dense["successes"], pruned["successes"]) == (8, 7)
    assert (pruned["only_dense"], pruned["only_this"]) == (2, 1) and dense["mcnemar_p"] is None
    assert dense["low"] < 0.8 < dense["high"] and pruned["trigger_rate"] == 0.2


def test_mac_ratio_counts_the_shapes():
    import torch

    site = Site("lm.0.mlp", "lm.mlp", "prefill", 64, 1, (torch.zeros(64, 8), torch.zeros(64, 8)), torch.zeros(64, 8))
    head = Site("lm.0.heads", "lm.heads", "prefill", 8, 4, (torch.zeros(32, 8),), torch.zeros(32, 8))
    got = latency.mac_ratio([site, head], {"lm.0.mlp": 32})
    assert got["prefill"] == pytest.approx((32 * 24 + 32 * 16) / (64 * 24 + 32 * 16)) and got["act"] == 1.0


def test_the_scripted_stream_has_calm_and_changing_phases():
    spec = PolicySpec("x", {"third_person": (32, 32), "wrist": (32, 32)}, 4, 0.1)
    images = [o.images["wrist"].astype(int) for o in latency.stream(spec, 2 * latency.CALM_FRAMES, 0)]
    change = [np.abs(a - b).mean() for a, b in zip(images, images[1:])]
    assert np.argmax(change) == latency.CALM_FRAMES - 1 and sorted(change)[-1] > 5 * sorted(change)[-2]


def test_readme_tables_are_those_of_the_result_files():
    root = Path(__file__).parents[1]
    assert report.main([str(root / "README.md"), "--results", str(root / "results"), "--check"]) == 0


def test_a_table_without_a_file_says_not_measured(tmp_path):
    text = report.fill("a\n<!-- table: latency -->\nold\n<!-- end -->\nb", tmp_path)
    assert "not measured" in text and "old" not in text and text.endswith("b")
    with pytest.raises(ConfigError, match="latency"):
        report.fill("<!-- table: latancy -->\n<!-- end -->", tmp_path)


def test_result_files_hold_what_is_needed_to_judge_them():
    for path in (Path(__file__).parents[1] / "results").glob("*.json"):
        document = json.loads(path.read_text())
        assert set(document) >= {"rows", "settings", "machine", "versions", "commit"} and document["rows"], path


@pytest.mark.parametrize(
    ("arguments", "match"),
    [(["eval", "--method", "ecolva"], "ecovla"), (["eval", "--tasks", "appel"], "apple"),
     (["bench", "--ratios", "a,b"], "list of numbers"), (["bench", "--model", "mimi"], "mini"),
     (["eval", "--set", "prune.ratoi=1"], "ratio"), (["eval", "--config", "mini_sin.yaml"], "mini_sim.yaml"),
     (["replay", "/nonexistent", "--map", "wrost=/x"], "wrist")],
)
def test_a_mistake_on_the_command_line_is_one_line(arguments, match, capsys):
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err.strip()
    assert match in error and error.startswith("ecovla: ") and "Traceback" not in error


def test_every_shipped_configuration_loads():
    paths = [p for p in config.shipped("mini_sim.yaml").parent.glob("*_sim.yaml")]
    assert paths and all(isinstance(config.load(p), config.Config) for p in paths)
