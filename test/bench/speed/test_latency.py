"""Evaluation and benchmark: pairing, statistics, and figures that come from files."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support import pi_models as small

from ecovla_ros import cli, config
from ecovla_ros.bench import scenes, variants
from ecovla_ros.bench.speed import device, families, latency, macs, reference
from ecovla_ros.errors import ConfigError
from ecovla_ros.models.base import Plan, PolicySpec
from ecovla_ros.publish import speed_tables as report_speed
from ecovla_ros.publish import tables as report

ROOT = Path(__file__).parents[3]


SMALL_RUN = ["--frames", "6", "--warm-up", "1", "--ratios", "0,0.5"]


def test_multiply_accumulates_are_those_of_the_shapes():
    """By hand: projections, scores and values of attention, gated MLP, and K/V alone of the last layer."""
    c, policy = small.SMALL, small.policy()
    obs = small.observation()
    length, kv, q = len(policy.encode(obs).prefix), 2 * c.kv_heads * c.head_dim, c.heads * c.head_dim
    layer = length * (c.lm_width * (kv + 2 * q) + 2 * length * q)
    for share in (1.0, 0.5):
        kept = {s.key: int(s.channels * share) for s in policy.sites if s.group == "lm.mlp"}
        mlp = length * 3 * c.lm_width * int(c.lm_mlp * share)
        expected = (c.layers - 1) * (layer + mlp) + length * c.lm_width * kv
        assert macs.count(policy, obs, Plan(kept), small.noise())["prefill"] == expected


def test_the_scripted_stream_has_calm_and_changing_phases():
    spec = PolicySpec("x", {"third_person": (32, 32), "wrist": (32, 32)}, 4, 0.1)
    frames = list(scenes.stream(spec, 3 * (scenes.CALM_FRAMES + scenes.CHANGING_FRAMES), 0))
    assert [f.observation.stamp_ns for f in frames] == sorted({f.observation.stamp_ns for f in frames})
    images = [f.observation.images["wrist"].astype(int) for f in frames]
    change = np.array([np.abs(a - b).mean() for a, b in zip(images, images[1:])])
    changing = np.array([f.phase == scenes.CHANGING for f in frames[1:]])
    assert change[changing].min() > 2 * change[~changing].max()


def test_the_bench_counts_all_frames_and_proves_that_pruning_is_on(tmp_path, capsys):
    out = tmp_path / "b.json"
    command = ["bench", *SMALL_RUN, "--set", "prune.p=0.5", "--method", "ecovla,static", "--json", str(out)]
    assert cli.main(command) == 0
    document = json.loads(out.read_text())
    rows = {(r["method"], r["refresh"], r["ratio"], r["scope"], r["frames"]): r for r in document["rows"]}
    for method, refresh in (("dense", "none"), ("ecovla", "probe"), ("ecovla", "dense"), ("static", "none")):
        for ratio in (0.0,) if method == "dense" else (0.0, 0.5):
            counts = [rows.get((method, refresh, ratio, "policy", k), {"n": 0})["n"] for k in latency.KINDS]
            assert counts[0] == 6 == sum(counts[1:])
    assert rows["dense", "none", 0.0, "policy", "all"]["speedup"] == 1.0
    share = rows["static", "none", 0.5, "prefill", "all"]["mac_ratio"]
    assert share == rows["ecovla", "probe", 0.5, "prefill", "all"]["mac_ratio"] < 0.75
    assert share < rows["ecovla", "dense", 0.5, "prefill", "all"]["mac_ratio"] < 1.0, "dense refreshes run all of it"
    assert 1.0 < rows["ecovla", "probe", 0.5, "policy", "all"]["memory_ratio"] < 1.1


def test_ways_with_vision_tokens_stand_beside_channel_pruning_with_their_own_work(tmp_path):
    out = tmp_path / "b.json"
    command = ["bench", "--frames", "3", "--warm-up", "1", "--ratios", "0.5", "--method", "static", "--json", str(out)]
    command += ["--tokens", "none,fastv,vla-cache", "--set", "policy.fastv_layer=2"]
    command += ["--set", "policy.vla_cache_similarity=0.9"]
    assert cli.main(command) == 0
    document = json.loads(out.read_text())["rows"]
    mine = [r for r in document if (r["scope"], r["frames"]) == ("prefill", "all")]
    rows = {(r["tokens"], r["method"], r["ratio"]): r for r in mine}
    assert len(rows) == 3 * 2 and rows["none", "dense", 0.0]["mac_ratio"] == 1.0
    for way in ("fastv", "vla-cache"):
        alone, both = rows[way, "dense", 0.0]["mac_ratio"], rows[way, "static", 0.5]["mac_ratio"]
        assert both < alone < 1.0 and both < rows["none", "static", 0.5]["mac_ratio"]
        assert (rows[way, "dense", 0.0]["reused_rate"] > 0.5) == (way == "vla-cache")


def test_families_at_reduced_width_in_one_command(tmp_path, monkeypatch):
    out = tmp_path / "f.json"
    monkeypatch.setattr(families, "FAMILIES", ("openvla-oft-reduced",))
    command = ["bench", "--reduced", "--ratios", "0.4", "--frames", "1", "--warm-up", "0", "--json", str(out)]
    assert cli.main(command) == 0
    rows = json.loads(out.read_text())["rows"]
    mine = {(r["ratio"], r["scope"]): r for r in rows if r["frames"] == "all"}
    assert {r["model"] for r in rows} == {"openvla-oft-reduced"} and mine[0.4, "policy"]["threads"] == 1
    assert mine[0.4, "policy"]["paper_speedup"] == 1.41 and mine[0.4, "prefill"]["paper_speedup"] is None


def test_back_to_back_frames_wait_for_their_refresh(tmp_path):
    out, saved = tmp_path / "b.json", tmp_path / "pattern.json"
    command = ["bench", *SMALL_RUN, "--method", "every", "--pace", "back-to-back", "--json", str(out)]
    assert cli.main([*command, "--save-pattern", str(saved)]) == 0
    rows = [r for r in json.loads(out.read_text())["rows"] if r["method"] == "every" and r["ratio"] == 0.5]
    assert all(r["exposed_ms"] > 0 and r["trigger_rate"] == 1.0 for r in rows)
    again = ["bench", *SMALL_RUN, "--method", "static", "--set", f"prune.pattern={saved}"]
    assert cli.main(again) == 0


@pytest.mark.parametrize("model", ["pi05", "openvla-oft", "cogact"])
def test_a_run_that_does_not_fit_into_memory_says_what_it_needs(model, monkeypatch):
    monkeypatch.setattr(variants.os, "sysconf", lambda name: 1 << 15)  # 1 GiB
    settings = config.override(config.Config(), **{"policy.model": model, "policy.dtype": "bfloat16"})
    with pytest.raises(ConfigError, match=r"need \d\d?\.\d GiB and 1.0 GiB are free; valid: fewer"):
        variants.Bench(settings, variants.variants(["static"], ["probe"], [0.25]), 0)


def test_the_tables_are_those_of_the_result_files(monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[3])
    assert report.main(["--check"]) == 0


def test_a_table_without_a_file_says_not_measured(tmp_path):
    text = report.fill("a\n<!-- table: latency -->\nold\n<!-- end -->\nb", tmp_path)
    assert "not measured" in text and "old" not in text and text.endswith("b")
    with pytest.raises(ConfigError, match="latency"):
        report.fill("<!-- table: latancy -->\n<!-- end -->", tmp_path)


def test_result_files_hold_what_is_needed_to_judge_them():
    for path in (Path(__file__).parents[3] / "results").glob("*.json"):
        document = json.loads(path.read_text())
        if "parts" in document:  # a plan says what is to be measured, before it is
            continue
        assert set(document) >= {"rows", "settings", "machine", "versions", "commit"} and document["rows"], path


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["eval", "--method", "ecolva"], "ecovla"),
        (["eval", "--tasks", "appel"], "apple"),
        (["bench", "--ratios", "a,b"], "list of numbers"),
        (["bench", "--pace", "pased"], "paced"),
        (["bench", "--refresh", "prob"], "probe"),
        (["bench", "--reference", "1"], "pi0-mid"),
        (["bench", "--compiled"], "--reference"),
        (["bench", "--frames", "0"], "at least 1"),
        (["bench", "--nodes", "1", "--model", "pi0-mid"], "mini"),
        (["bench", "--model", "mimi"], "mini"),
        (["eval", "--set", "prune.ratoi=1"], "ratio"),
        (["eval", "--config", "mini_sin.yaml"], "mini_sim.yaml"),
        (["replay", "/nonexistent", "--map", "wrost=/x"], "wrist"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(arguments, match, capsys):
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err.strip()
    assert match in error and error.startswith("ecovla: ") and "Traceback" not in error


def test_every_shipped_configuration_loads():
    paths = [p for p in config.shipped("mini_sim.yaml").parent.glob("*_sim.yaml")]
    assert paths and all(isinstance(config.load(p), config.Config) for p in paths)


def test_the_roofline_is_the_larger_of_bytes_and_products():
    x, w = torch.randn(1, 64), torch.randn(64, 32)
    with device.Roofline(flops_per_s=1e6, bytes_per_s=1e9) as slow_products:
        x @ w
    with device.Roofline(flops_per_s=1e12, bytes_per_s=1e3) as slow_memory:
        torch.addmm(torch.zeros(32), x, w)
    assert slow_products.seconds == pytest.approx(2 * 64 * 32 / 1e6)
    assert slow_memory.seconds == pytest.approx(4 * 64 * 32 / 1e3)
    assert device.peaks_of("NVIDIA GeForce RTX 3090") == device.PEAKS["3090"] and device.peaks_of("cpu") is None


def test_a_sparse_frame_has_a_lower_bound():
    policy, obs = small.policy(), small.observation()
    kept = Plan({s.key: s.channels // 2 for s in policy.sites})
    dense, sparse = (device.bound_ms(policy, obs, p, small.noise(), (1e12, 1e9)) for p in (Plan(), kept))
    assert all(0 < sparse[k] < dense[k] for k in ("prefill", "act"))


def test_the_command_of_a_table_is_the_one_that_wrote_it():
    import argparse

    from ecovla_ros.cli import bench

    parser = argparse.ArgumentParser()
    bench.add_options(parser)
    defaults = vars(parser.parse_args([]))
    assert {k: defaults[k] for k in report_speed.BENCH_DEFAULTS} == report_speed.BENCH_DEFAULTS
    words = ["--model", "pi0-mid", "--frames", "9", "--fidelity", "--set", "prune.p=0.2"]
    settings = vars(parser.parse_args(words))
    assert report_speed.bench_command({"settings": settings}) == " ".join(["ecovla bench", *words])


def test_what_a_kernel_of_our_own_computes_is_counted_too(monkeypatch):
    """A stand-in for the kernel, of which a counter sees as little as of the kernel."""
    from ecovla_ros.kernels import available
    from ecovla_ros.models.core import layers

    policy, obs, start = small.policy(), small.observation(), small.noise()
    plain = macs.count(policy, obs, Plan(), start), device.bound_ms(policy, obs, Plan(), start, (1e12, 1e9))
    monkeypatch.setattr(layers, "triton_runs_on", lambda x: not available._alone[0])
    monkeypatch.setattr(layers.Mlp, "made", lambda mlp, x, first, last, sums=None: torch.zeros(len(x), last - first))
    layers.pack((*policy.model.lm, *policy.model.expert))
    assert (policy.model.lm[0].mlp.hidden(torch.ones(2, 48), 0, 4) == 0.0).all() or torch.is_grad_enabled()
    assert (macs.count(policy, obs, Plan(), start), device.bound_ms(policy, obs, Plan(), start, (1e12, 1e9))) == plain
    assert available._alone[0] == 0, "and after a count the kernel runs again"


def test_the_reference_lies_on_the_device_and_answers_to_the_host():
    """torch's meta device in the place of a GPU."""
    given, policy = {}, small.policy(small.SIGLIP)
    policy.device = torch.device("meta")

    def sample_actions(*inputs, num_steps, **more):
        given.update(enumerate(inputs), **more)
        return torch.zeros(1, 6, 10, dtype=torch.bfloat16)

    made = object.__new__(reference.Reference)
    made.policy, made.model, made.steps = policy, SimpleNamespace(sample_actions=sample_actions), 3
    out = made._answer(small.observation(small.SIGLIP), small.noise(small.SIGLIP)[None], 3, 20)
    assert len(given) == 6 and {t.device.type for t in given.values()} == {"meta"}
    assert out.device.type == "cpu" and out.dtype == torch.float32


@pytest.fixture
def small_reference(monkeypatch):
    pytest.importorskip("transformers")
    shape = dataclasses.replace(small.SIGLIP, max_prompt=24, vocab=64, action_dim=32)
    monkeypatch.setitem(reference.SHAPES, "small", shape)


def test_the_reference_runs_compiled_too_and_says_where_it_cannot(small_reference):
    """By a stand-in for the compiler: what it makes runs only in the ways that say so."""
    ran, broken = [], []

    def compiler(method):
        def compiled(*inputs, **more):
            ran.append(method.__qualname__)
            if broken:
                raise broken[0]("no compiler here\nmore")
            return method(*inputs, **more)

        return compiled

    made = reference.Reference("small", config.PolicyConfig(device="cpu"), 2, compiler)
    obs = small.observation(small.SIGLIP, text=made.policy.spec.instructions[0])
    for _ in range(3):
        made.turn(obs, True)
    made.run_compiled([obs] * 4)
    assert [len(made.times[n]) for n in ("padded", "exact", "padded, compiled", "exact, compiled")] == [2] * 4
    parts, steps = 2, made.steps
    assert len(ran) == (parts + steps) * 2 * (reference.REHEARSALS + 2)
    assert torch.equal(made._way("exact", obs), made._way("exact, compiled", obs))
    ran.clear()
    made._way("padded", obs)
    assert not ran, "as transformers has it"
    broken.append(TypeError)
    other = reference.Reference("small", config.PolicyConfig(device="cpu"), 1, compiler)
    other.turn(obs, True)
    other.run_compiled([obs])
    rows = other.rows(1.0)
    assert [r["method"] for r in rows] == ["transformers, padded", "transformers, exact"]
    assert rows[0]["compiled_note"] == "TypeError: no compiler here"


def test_rows_outlive_a_profiler_that_sees_nothing(tmp_path):
    """As on a machine that lets nobody read its counters, and on a CPU."""
    file = tmp_path / "out.json"
    more = ["--method", "dense", "--frames", "2", "--json", str(file), "--profile", str(tmp_path / "profile.json")]
    assert cli.main(["bench", *more]) == 2
    assert json.loads(file.read_text())["rows"] and not (tmp_path / "profile.json").exists()


def test_what_is_measured_is_on_disk_before_anything_compiles(monkeypatch, tmp_path):
    """Whatever ends the process then, and with the compiled ways' rows where nothing does."""
    pytest.importorskip("transformers")
    file, found = tmp_path / "out.json", []
    monkeypatch.setattr(reference, "COMPILE", lambda method: method)
    measure = ["bench", "--model", "pi0-reduced", "--reference", "1", "--compiled", "--method", "dense",
               "--frames", "2", "--warm-up", "1", "--json", str(file)]  # fmt: skip
    run = reference.Reference.run_compiled

    def looks(self, observations):
        found.append(json.loads(file.read_text()))
        run(self, observations)

    monkeypatch.setattr(reference.Reference, "run_compiled", looks)
    assert cli.main(measure) == 0
    before, after = ([row["method"] for row in d["rows"]] for d in (found[0], json.loads(file.read_text())))
    assert before[-2:] == ["transformers, padded", "transformers, exact"]
    assert after == [*before, "transformers, padded, compiled", "transformers, exact, compiled"]
    monkeypatch.setattr(reference.Reference, "run_compiled", lambda *_: sys.exit(9))
    file.unlink()
    with pytest.raises(SystemExit):
        cli.main(measure)
    assert [row["method"] for row in json.loads(file.read_text())["rows"]] == before


def test_the_reference_agrees_with_ours_whatever_the_bucket(small_reference):
    for bucket in (1, 8):
        settings = config.PolicyConfig(device="cpu", bucket=bucket)
        made = reference.Reference("small", settings, 1)
        assert made.policy.bucket == bucket
        made.turn(small.observation(small.SIGLIP, text=made.policy.spec.instructions[0]), True)
        assert made.difference < 1e-4 and [len(t) for t in made.times.values()] == [1, 1]


def test_memory_is_that_of_the_device_the_weights_go_to(monkeypatch):
    monkeypatch.setattr(variants.build, "device_of", lambda settings: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda where: (3 << 30, 80 << 30))
    settings = config.override(config.Config(), **{"policy.model": "pi05", "policy.dtype": "bfloat16"})
    with pytest.raises(ConfigError, match="3.0 GiB are free"):
        variants.Bench(settings, variants.variants(["static"], ["probe"], [0.25]), 0)


def test_a_checkpoint_of_another_arm_is_timed_and_nothing_else(capsys):
    """Its state is of its own width, and its actions are no joints that could be compared."""
    other = ["--set", "policy.checkpoint=libero", "--set", "policy.embodiment.other=true"]
    command = ["bench", "--frames", "2", "--warm-up", "1", "--ratios", "0.5", "--method", "static", *other]
    assert cli.main(command) == 0 and "static" in capsys.readouterr().out
    for more in (["--fidelity"], ["--sessions", "2"], ["--nodes", "1"]):
        assert cli.main([*command, *more]) == 2
        assert "another arm" in capsys.readouterr().err
    spec = PolicySpec("x", {"wrist": (32, 32)}, 4, 0.1)
    assert [f.observation.state for f in scenes.stream(spec, 2, 0)] == [None, None]
    assert all(f.observation.state.shape == (8,) for f in scenes.stream(spec, 2, 0, 8))
