"""`make gpu` without a GPU: steps that fail, hang and go on where they stopped, and a device's trace in figures."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.kortex_robot import until

from ecovla_ros.bench import document
from ecovla_ros.bench.speed import gpu_steps, latency, profile, rows
from ecovla_ros.bench.speed.device_trace import DeviceSpan, by_name, frame, overlap, spans, union
from ecovla_ros.bench.speed.gpu_steps import GpuStep
from ecovla_ros.bench.variants import Variant
from ecovla_ros.errors import EcovlaError
from ecovla_ros.types import FrameReport

WRITES = "import sys, json; print('half\\rdone'); json.dump({'rows': []}, open(sys.argv[1], 'w'))"


def steps(monkeypatch, **programs):
    made = [GpuStep(name, "made up", 20.0 if name != "hangs" else 0.5, ("-c", text), ("-c", text))
            for name, text in programs.items()]  # fmt: skip
    monkeypatch.setattr(gpu_steps, "STEPS", made)


def run(folder, *more):
    return gpu_steps.main(["--device", "cpu", "--folder", str(folder), *more])


def test_a_step_that_fails_or_hangs_stops_no_other_and_is_told_by_the_exit_code(tmp_path, monkeypatch, capsys):
    hangs = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    steps(monkeypatch, fails="print('why not'); raise SystemExit(3)", hangs=hangs, silent="pass", good=WRITES)
    assert run(tmp_path) == 1
    said = capsys.readouterr().out
    states = {line.split()[0]: line for line in said.splitlines() if line.split(" ")[0] in ("fails", "hangs", "silent")}
    assert "failed" in states["fails"] and "why not" in states["fails"]
    assert "timed out" in states["hangs"] and "wrote no file" in states["silent"]
    assert (tmp_path / "gpu-good.json").is_file() and "done" in (tmp_path / "gpu-good.log").read_text()


def test_a_run_that_is_ended_leaves_nothing_running(tmp_path):
    """By Ctrl-C, or by whoever stops it: the next one would measure beside it."""
    began = tmp_path / "began"
    step = f"import os, pathlib, time; pathlib.Path({str(began)!r}).write_text(str(os.getpid())); time.sleep(60)"
    program = (
        "import signal, sys; from ecovla_ros.bench.speed import gpu_steps\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background has it ignored
        f"gpu_steps.STEPS = (gpu_steps.GpuStep('one', 'made up', 60.0, on_cpu=('-c', {step!r})),)\n"
        "sys.exit(gpu_steps.until_ended())"
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        began.unlink(missing_ok=True)
        arguments = ["--device", "cpu", "--folder", str(tmp_path)]
        process = subprocess.Popen([sys.executable, "-c", program, *arguments], stderr=subprocess.DEVNULL)
        until(lambda: began.is_file() and began.read_text(), "the step runs")
        process.send_signal(number)
        assert process.wait(20) != 0
        until(lambda: not Path("/proc", began.read_text()).exists(), "the step has ended")


def test_what_is_done_is_kept_until_the_code_changes(tmp_path, monkeypatch, capsys):
    steps(monkeypatch, one=WRITES, two="raise SystemExit(1)")
    assert run(tmp_path) == 1
    steps(monkeypatch, one="raise SystemExit(9)", two=WRITES)
    assert run(tmp_path) == 0, "one is kept, two is done at last"
    assert run(tmp_path, "--only", "two") == 0
    assert run(tmp_path, "--again", "--only", "one") == 1
    steps(monkeypatch, one=WRITES)
    assert run(tmp_path) == 0
    monkeypatch.setattr(gpu_steps, "_code", lambda: "another")
    steps(monkeypatch, one="raise SystemExit(9)")
    assert run(tmp_path) == 1
    capsys.readouterr()


def test_no_step_begins_after_the_limit(tmp_path, monkeypatch, capsys):
    steps(monkeypatch, one=WRITES)
    assert run(tmp_path, "--limit", "0") == 1 and "no time left" in capsys.readouterr().out


def test_a_machine_without_a_gpu_is_told_how_to_try(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert gpu_steps.main(["--folder", str(tmp_path)]) == 2
    assert "DEVICE=cpu" in capsys.readouterr().out and not list(tmp_path.iterdir())
    with pytest.raises(SystemExit):
        run(tmp_path, "--only", "nonsense")


def test_the_table_shows_what_a_refresh_costs_and_which_tests_failed(tmp_path, monkeypatch, capsys):
    variant = Variant("ecovla", "probe", 0.4)
    dense = [FrameReport(0, {"prefill": 6.0, "act": 20.0}, 30.0)] * 3
    reports = [FrameReport(0, {"prefill": 5.0, "act": act}, 5.0 + act, kind=kind, method="ecovla")
               for kind, act in (("sparse", 16.0), ("refresh", 18.5), ("sparse", 16.0))]  # fmt: skip
    shares = {scope: dict.fromkeys(("sparse", "refresh", "dense"), 0.7) for scope in rows.SCOPES}
    facts = rows.Facts(shares, kernels={"sparse": 900, "refresh": 1010}, kept={"lm.mlp": 9824})
    made = list(rows.of_variant(variant, reports, dense, facts))
    by = {(r["scope"], r["frames"]): r for r in made}
    assert by["act", "refresh"]["refresh_cost_ms"] == 2.5 and by["prefill", "refresh"]["refresh_cost_ms"] == 0.0
    assert by["act", "sparse"]["refresh_cost_ms"] is None and by["policy", "refresh"]["kernels"] == 1010
    tests = [{"test": "x::y", "outcome": "failure", "why": "1 != 2"}, {"test": "x::z", "outcome": "passed"}]
    steps(monkeypatch, bench=WRITES.replace("'rows': []", f"'rows': {made!r}"),
          tests=WRITES.replace("'rows': []", f"'rows': {tests!r}"))  # fmt: skip
    assert run(tmp_path) == 0
    said = capsys.readouterr().out
    line = next(line for line in said.splitlines() if "ecovla" in line)
    assert "2.5" in line.split() and "900" in line.split()
    assert "1 passed, 1 failure" in said and "x::y: 1 != 2" in said


def test_pytest_s_report_becomes_a_document(tmp_path, monkeypatch, capsys):
    (tmp_path / "test_made_up.py").write_text("def test_good(): pass\ndef test_bad(): assert 1 == 2\n")
    monkeypatch.setattr(gpu_steps, "TESTS", ("-m", "pytest", str(tmp_path), "-q", "-p", "no:cacheprovider"))
    monkeypatch.setattr(gpu_steps, "STEPS", [GpuStep("tests", "made up", 60.0, gpu_steps.TESTS, gpu_steps.TESTS)])
    folder = tmp_path / "out"
    assert run(folder) == 1
    found = json.loads((folder / "gpu-tests.json").read_text())
    assert [r["outcome"] for r in found["rows"]] == ["passed", "failure"] and sys.version.split()[0] in str(found)
    assert "test_bad" in capsys.readouterr().out


def test_a_frame_s_trace_in_figures():
    events = [
        {"ph": "X", "cat": "kernel", "name": name, "ts": ts, "dur": dur, "args": {"stream": stream}}
        for name, ts, dur, stream in (("a", 0, 10, 7), ("b", 10, 10, 7), ("c", 40, 20, 7), ("r", 15, 35, 20))
    ]
    events += [{"ph": "X", "cat": "cpu_op", "name": "x", "ts": 0, "dur": 99}, {"ph": "M", "name": "process"}]
    events += [{"ph": "X", "cat": "gpu_memcpy", "name": "h2d", "ts": 70, "dur": 5, "args": {"stream": 7}}]
    found = spans(events)
    told = frame(found)
    assert (told["kernels"], told["copies"], told["span_us"]) == (4, 1, 75)
    assert told["busy_us"] == 65 and told["idle_us"] == 10 and told["gaps"] == 1
    assert told["largest_gaps"] == [{"us": 10, "after": "c", "before": "h2d"}]
    main, side = told["streams"]
    assert main["main"] and main["busy_us"] == 45 and side == {
        "stream": 20, "main": False, "kernels": 1, "busy_us": 35, "beside_us": 15,
    }  # fmt: skip
    assert by_name(found, 2)[0] == {"name": "r", "kind": "kernel", "count": 0.5, "us": 17.5, "us_each": 35}
    assert overlap(union(found), [(64, 72)]) == 2
    with pytest.raises(EcovlaError):
        frame([])


def test_spans_that_lie_in_one_another_are_counted_once():
    inner = [
        DeviceSpan("a", "kernel", 0, 100, 1),
        DeviceSpan("b", "kernel", 10, 20, 2),
        DeviceSpan("c", "kernel", 100, 110, 1),
    ]
    assert union(inner) == [(0, 110)]


class Frames:
    """An engine whose frames are what a list says."""

    def __init__(self, kinds):
        self._kinds, self.settled = iter(kinds), 0

    def step(self, observation):
        return SimpleNamespace(report=SimpleNamespace(kind=next(self._kinds)))

    def settle(self):
        self.settled += 1


def test_kernels_are_counted_of_one_frame_of_each_kind_with_its_refresh(monkeypatch):
    counts = iter((900, 901, 1020, 902, 1021))

    def seen(run):
        run()
        return [DeviceSpan("k", "kernel", i, i + 1, 7) for i in range(next(counts))]

    monkeypatch.setattr(latency, "recorded", seen)
    engine, common = Frames(["sparse", "sparse", "refresh", "sparse"]), {"sms": 132}
    frames = [SimpleNamespace(observation=None)] * 8
    found = latency._seen(engine, frames, {"sparse", "refresh"}, common)
    assert {kind: len(ran) for kind, ran in found.items()} == {"sparse": 900, "refresh": 1020}
    assert engine.settled == 3 and common["kernels_by"] == "torch.profiler"
    made = profile.of_variants("pi05", [Variant("ecovla", "probe", 0.4)], [found])
    assert [r["kernels"] for r in made if "kernels" in r] == [900, 1020]
    assert latency._seen(engine, frames, {"sparse"}, {}) == {}, "nothing on a CPU"

    def broken(run):
        raise EcovlaError("torch's profiler saw no kernel")

    monkeypatch.setattr(latency, "recorded", broken)
    assert latency._seen(engine, frames, {"sparse"}, common) == {} and "no kernel" in common["kernels_by"]
    with pytest.raises(EcovlaError, match="--profile"):
        profile.of_variants("pi05", [Variant("ecovla", "probe", 0.4)], [{}])


def test_a_second_file_that_a_step_writes_is_kept_for_its_own_step(tmp_path, monkeypatch, capsys):
    both = "import sys, json; [json.dump({'rows': []}, open(name, 'w')) for name in sys.argv[1:]]"
    steps(monkeypatch, first=both, profile="raise SystemExit(9)")
    first = gpu_steps.STEPS[0]
    program = (*first.program, gpu_steps.PROFILE)
    monkeypatch.setattr(gpu_steps, "STEPS", [replace(first, on_cpu=program), gpu_steps.STEPS[1]])
    assert run(tmp_path) == 0
    said = capsys.readouterr().out
    assert next(line for line in said.splitlines() if line.startswith("profile")).split()[1] == "kept"


def test_a_document_names_the_gpu_that_its_process_used(monkeypatch):
    seen = SimpleNamespace(name="Made up 9000", multi_processor_count=132, total_memory=80 * 2**30)
    cuda = SimpleNamespace(is_initialized=lambda: True, get_device_properties=lambda index: seen)
    fake = SimpleNamespace(cuda=cuda, version=SimpleNamespace(cuda="13.0"))
    assert "gpu" not in document.machine() and "cuda" not in document.versions(), "no process without one says so"
    monkeypatch.setitem(sys.modules, "torch", fake)
    monkeypatch.setenv("PATH", "")
    assert document.machine()["gpu"] == {"name": "Made up 9000", "sms": 132, "memory_gib": 80.0}
    assert document.versions()["cuda"] == "13.0"


def test_a_tree_without_its_history_is_told_its_commit(monkeypatch):
    monkeypatch.setattr(document, "_git", lambda *_: "")
    monkeypatch.delenv(document.COMMIT, raising=False)
    assert document.commit() == "unknown"
    monkeypatch.setenv(document.COMMIT, "abc")
    assert document.commit() == "abc"
