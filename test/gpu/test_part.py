"""A part of the GPU in the place of a small one: in processes of their own, as a green context lasts for good."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.device_runs import needs_cuda

from ecovla_ros import cli
from ecovla_ros.bench.speed import green_context

ROOT = Path(__file__).parents[2]


@needs_cuda
def test_the_bench_runs_on_sixteen_multiprocessors_and_says_so(tmp_path):
    file = tmp_path / "part.json"
    command = ["bench", "--frames", "4", "--warm-up", "1", "--ratios", "0.5", "--method", "ecovla", "--sms", "16"]
    program = [sys.executable, "-m", "ecovla_ros.cli", *command, "--refresh", "probe", "--json", str(file)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(program, capture_output=True, text=True, env=environment, timeout=100)
    assert run.returncode == 0, run.stderr[-2000:]
    rows = json.loads(file.read_text())["rows"]
    assert {r["sms"] for r in rows} == {16} and rows[0]["of_sms"] > 16
    assert rows[0]["graphs"] or rows[0]["part_note"], "without graphs it says why"
    assert rows[0]["reached_tflops"] < 400, "no more than a part of what the GPU has"


def test_a_part_that_cannot_be_had_is_refused(capsys, monkeypatch):
    monkeypatch.setattr(green_context.torch.cuda, "is_available", lambda: False)
    assert cli.main(["bench", "--sms", "16"]) == 2 and "--sms" in capsys.readouterr().err
    assert cli.main(["bench", "--sms", "-1"]) == 2 and "--sms" in capsys.readouterr().err


@pytest.mark.parametrize(
    "graph_tflops, graphs", [(None, False), (104.0, True), (700.0, False)], ids=["none", "inside", "outside"]
)
def test_graphs_are_used_only_where_they_stay_in_the_part(graph_tflops, graphs):
    assert green_context.Part(16, 132, 108.0, graph_tflops, "").graphs is graphs
