"""Benchmark: what is counted, and figures that come from files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ecovla_ros import cli, config
from ecovla_ros.bench import latency, report
from ecovla_ros.errors import ConfigError
from ecovla_ros.models.base import PolicySpec
from ecovla_ros.prune.site import Site

ROOT = Path(__file__).parents[1]


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
