"""`make gpu`: everything that only a GPU can show, in one command, from the source tree and without a network.

Tests on the device, then the bench of every family, then where a frame's time goes. One file after each step, so that
what was cut off can go on: a step whose file was written by the same code is not run again. Each step has its own time
limit, and one that fails stops no other.

Needs torch, triton, transformers, numpy, opencv, safetensors, tokenizers, PyYAML and pytest, and nothing else of what
this package needs elsewhere. `--device cpu` tries the same steps on a CPU at reduced width, as far as they go: its
figures say nothing about a GPU, and every row says that its device is a CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ecovla_ros.bench import document
from ecovla_ros.bench.speed import gpu_table

ROOT = Path(__file__).resolve().parents[3]
DEVICES = ("cuda", "cpu")


@dataclass(frozen=True)
class GpuStep:
    """One program that writes one file."""

    name: str
    what: str
    limit_s: float
    program: tuple[str, ...] = ()
    """Arguments of Python on a GPU; the file's name is put behind them."""
    on_cpu: tuple[str, ...] = ()
    """The same on a CPU; empty: it is left out there."""
    more: bool = False
    """Whether it runs only when it is named."""


def _bench(model: str, *options: str) -> tuple[str, ...]:
    return ("-m", "ecovla_ros.cli", "bench", "--model", model, *options, "--json")


def _small(model: str, *options: str) -> tuple[str, ...]:
    one_thread = ("--set", "policy.threads=1", "--set", "policy.device=cpu")
    return _bench(model, *options, "--frames", "6", "--warm-up", "1", *one_thread)


EARLY = ("--set", "policy.early_launch=true")
PI = ("--set", "prune.sites=[lm.mlp,expert.mlp]", "--set", "prune.p=0.2")
OFT = ("--set", "prune.sites=[lm.mlp,lm.heads]", "--set", "prune.p=0.2")
PROBE = ("--method", "dense,ecovla", "--refresh", "probe")
FIT = ("--set", "prune.fit=time", "--set", "prune.record_steps=2")
BEHIND = ("--set", "policy.refresh_behind=frame", "--set", "policy.ask=timed")
KERNELS = ("-m", "pytest", "test/gpu/test_kernels.py", "-q", "-s", "--durations=8", "-rs")
TESTS = ("-m", "pytest", "test/gpu", "--ignore=test/gpu/test_kernels.py", "-q", "--durations=8", "-rs")
PROFILE = "{folder}/gpu-profile.json"
"""In a program's arguments: a second file that it writes, that of the step "profile"."""


def _at_40(model: str, frames: int, *options: str) -> tuple[str, ...]:
    return _bench(model, "--ratios", "0.4", "--frames", str(frames), "--warm-up", "8", *options, *EARLY)


def _small_at_40(model: str, *options: str) -> tuple[str, ...]:
    return _small(model, "--ratios", "0.4", *options)


STEPS = (
    GpuStep(
        "pi05", "pi0.5 at full size, random weights, and where its frames go", 120,
        _at_40("pi05", 100, *PI, "--refresh", "probe", "--profile", PROFILE),
        _small_at_40("pi05-reduced", *PI, *PROBE),
    ),
    GpuStep(
        "pi05-behind", "pi0.5, channels kept by time, energies of two flow steps, refreshes behind the frame", 120,
        _at_40("pi05", 100, *PI, *PROBE, *FIT, *BEHIND),
        _small_at_40("pi05-reduced", *PI, *PROBE, *FIT),
    ),
    GpuStep(
        "mini-behind", "the shipped policy, refreshes behind the frame", 60,
        _bench("mini", "--ratios", "0.4", "--frames", "200", "--warm-up", "10", "--set", "prune.p=0.2", *PROBE,
               *BEHIND, *EARLY),
        _small_at_40("mini", "--refresh", "probe"),
    ),
    GpuStep(
        "pi05-sms16-behind", "pi0.5 on 16 multiprocessors, a small GPU, as pi05-behind", 90,
        _bench("pi05", "--ratios", "0.375", "--frames", "50", "--warm-up", "6", "--sms", "16", *PI, *PROBE, *FIT,
               *BEHIND, *EARLY),
    ),
    GpuStep(
        "cogact-behind", "CogACT at full size, random weights, as pi05-behind", 100,
        _at_40("cogact", 60, *OFT, *PROBE, *FIT, *BEHIND),
        _small_at_40("cogact-reduced", *OFT, *PROBE, *FIT),
    ),
    GpuStep(
        "openvla-oft-behind", "OpenVLA-OFT at full size, random weights, as pi05-behind", 100,
        _at_40("openvla-oft", 60, *OFT, *PROBE, *FIT, *BEHIND),
        _small_at_40("openvla-oft-reduced", *OFT, *PROBE, *FIT),
    ),
    GpuStep("tests", "streams, graphs and families on the device", 150, TESTS, TESTS),
    GpuStep("kernels", "kernels against their references, every way they can run", 90, KERNELS, KERNELS),
    GpuStep(
        "openvla-oft-sms16", "OpenVLA-OFT on 16 multiprocessors", 90,
        _bench("openvla-oft", "--ratios", "0.4", "--frames", "40", "--warm-up", "6", "--sms", "16", *OFT, *PROBE,
               *EARLY),
    ),
    GpuStep(
        "reference", "pi0 beside transformers' PI0, as it is and compiled", 240,
        _bench("pi0", "--ratios", "0.4", "--frames", "60", "--warm-up", "12", "--reference", "4", "--compiled", *PI,
               *PROBE, *EARLY),
        _small("pi0-reduced", "--ratios", "0.4", "--reference", "3", *PI, *PROBE),
    ),
    GpuStep(
        "pi05-fit", "as pi05-behind, but refreshes beside the action head", 90,
        _at_40("pi05", 100, *PI, *PROBE, *FIT),
        more=True,
    ),
    GpuStep(
        "cogact-fit", "as cogact-behind, but refreshes beside the action head", 100,
        _at_40("cogact", 60, *OFT, *PROBE, *FIT),
        more=True,
    ),
    GpuStep(
        "openvla-oft-fit", "as openvla-oft-behind, but refreshes beside the action head", 100,
        _at_40("openvla-oft", 60, *OFT, *PROBE, *FIT),
        more=True,
    ),
    GpuStep(
        "pi05-sms16-fit", "as pi05-sms16-behind, but refreshes beside the action head", 90,
        _bench("pi05", "--ratios", "0.375", "--frames", "50", "--warm-up", "6", "--sms", "16", *PI, *PROBE, *FIT,
               *EARLY),
        more=True,
    ),
    GpuStep(
        "mini", "the shipped policy, refreshes beside the action head", 60,
        _bench("mini", "--ratios", "0.4", "--frames", "100", "--warm-up", "10", "--set", "prune.p=0.2",
               "--refresh", "probe", *EARLY),
        more=True,
    ),
    GpuStep(
        "pi05-in-turn", "as pi05-behind, but no kernel begins before the one ahead has ended", 90,
        _bench("pi05", "--ratios", "0.4", "--frames", "100", "--warm-up", "8", *PI, *PROBE, *FIT, *BEHIND),
        more=True,
    ),
    GpuStep(
        "pi05-busy", "as pi05-behind, frame after frame without a pause", 90,
        _at_40("pi05", 96, *PI, *PROBE, *FIT, *BEHIND, "--pace", "back-to-back"),
        more=True,
    ),
    GpuStep("cogact", "CogACT, channels kept by count", 100, _at_40("cogact", 60, *OFT, *PROBE),
            _small_at_40("cogact-reduced", *OFT, *PROBE), more=True),
    GpuStep("openvla-oft", "OpenVLA-OFT, channels kept by count", 100, _at_40("openvla-oft", 60, *OFT, *PROBE),
            _small_at_40("openvla-oft-reduced", *OFT, *PROBE), more=True),
    GpuStep(
        "pi05-sms16", "pi0.5 on 16 multiprocessors, channels kept by count", 90,
        _bench("pi05", "--ratios", "0.375", "--frames", "50", "--warm-up", "6", "--sms", "16", *PI, *PROBE, *EARLY),
        more=True,
    ),
    GpuStep(
        "profile", "where a pi0.5 frame goes, kernel by kernel", 60,
        ("-m", "ecovla_ros.bench.speed.profile", *PI, *EARLY, "--model", "pi05", "--json"),
        more=True,
    ),
)  # fmt: skip
"""In the order of their worth; what the limit of all leaves is done by the next call. The limit of a step is generous:
what it is for is one that hangs."""


@dataclass
class GpuOutcome:
    """What became of a step."""

    step: GpuStep
    state: str
    """ok, kept (its file was there), failed, timed out, left out."""
    seconds: float = 0.0
    note: str = ""

    @property
    def good(self) -> bool:
        """Whether nothing went wrong."""
        return self.state in ("ok", "kept", "left out")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the steps; 1 if one failed or did not come to its turn."""
    parser = argparse.ArgumentParser(
        prog="make gpu", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--folder", type=Path, help="where the files go: results/, or out/gpu-on-cpu/ from a CPU")
    parser.add_argument("--only", default="", help=f"comma-separated steps of {','.join(s.name for s in STEPS)}")
    parser.add_argument("--device", choices=DEVICES, default="cuda", help="cpu: a trial at reduced width")
    parser.add_argument("--limit", type=float, default=480.0, help="everything ends after so many seconds")
    parser.add_argument("--again", action="store_true", help="also what this code has already written a file for")
    chosen = parser.parse_args(arguments)
    names = [n for n in chosen.only.split(",") if n]
    unknown = sorted(set(names) - {s.name for s in STEPS})
    if unknown:
        parser.error(f"--only {unknown[0]}; valid: {', '.join(s.name for s in STEPS)}")
    if not _fits(chosen.device):
        return 2
    chosen.folder = chosen.folder or ROOT / ("results" if chosen.device == "cuda" else "out/gpu-on-cpu")
    chosen.folder.mkdir(parents=True, exist_ok=True)
    began, outcomes = time.monotonic(), []
    for step in (s for s in STEPS if s.name in names or not (names or s.more)):
        left = chosen.limit - (time.monotonic() - began)
        outcomes.append(_outcome(step, chosen.folder, chosen.device, left, chosen.again))
    sys.stdout.write(gpu_table.text(outcomes, chosen.folder, chosen.device))
    return 0 if all(o.good for o in outcomes) else 1


def until_ended() -> int:
    """`main` of a process that SIGTERM ends as Ctrl-C does: with the step that runs, which would go on measuring."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    return main()


def _fits(device: str) -> bool:
    """Whether the machine has the device; says what it found."""
    import torch

    if device == "cpu":
        _say("On a CPU, at reduced width: nothing of what follows is a figure of a GPU.")
        return True
    if torch.cuda.is_available():
        _say(f"{torch.cuda.get_device_name(0)}, torch {torch.__version__}, CUDA {torch.version.cuda}")
        return True
    _say(
        f"torch {torch.__version__} finds no GPU here. To try the steps on a CPU, at reduced width and as far as they "
        "go: make gpu DEVICE=cpu"
    )
    return False


def _outcome(step: GpuStep, folder: Path, device: str, left_s: float, again: bool) -> GpuOutcome:
    program = step.program if device == "cuda" else step.on_cpu
    file = folder / gpu_table.NAME.format(step.name)
    if not program:
        return GpuOutcome(step, "left out", note="needs a GPU")
    if not again and _written(file, device):
        return GpuOutcome(step, "kept", note=str(file))
    if left_s <= 0:
        return GpuOutcome(step, "no time left")
    _say(f"\n=== {step.name}: {step.what}")
    second = PROFILE.format(folder=folder.resolve())
    program = tuple(second if word == PROFILE else word for word in program)
    written = [Path(second)] if second in program else []
    file.unlink(missing_ok=True)
    began = time.monotonic()
    failed = _run(step, program, file, device, min(step.limit_s, left_s))
    if not failed and not file.is_file():
        failed = "it wrote no file"
    if not failed:
        _mark(file, device)
    for other in (f for f in written if not failed and f.is_file()):
        _mark(other, device)
    state = ("timed out" if failed.startswith("not done") else "failed") if failed else "ok"
    return GpuOutcome(step, state, time.monotonic() - began, failed)


def _run(step: GpuStep, program: Sequence[str], file: Path, device: str, limit_s: float) -> str:
    """Why the program failed; empty if it did not. What it says goes to the terminal and to a file beside the other."""
    path = os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH", "")) if p)
    environment = {**os.environ, "PYTHONPATH": path, "OMP_WAIT_POLICY": "PASSIVE", "PYTHONUNBUFFERED": "1",
                   "ECOVLA_GPU_TESTS": device, "ECOVLA_TIMES": str(times := file.with_suffix(".times"))}  # fmt: skip
    tests = program[:2] == TESTS[:2]
    report = file.with_suffix(".xml")
    command = [sys.executable, *program, f"--junitxml={report}" if tests else str(file)]
    with file.with_suffix(".log").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )
        said = gpu_table.Echo(process, log)
        try:
            code = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            gpu_table.end(process)
            return f"not done after {limit_s:.0f} s"
        except BaseException:  # nothing goes on measuring beside the next call
            gpu_table.end(process)
            raise
        finally:
            said.close()
    if tests and report.is_file():
        kernels = json.loads(times.read_text(encoding="utf-8")) if times.is_file() else {}
        gpu_table.tests_document(report, file, {"device": device, "times_ms": kernels})
        report.unlink()
        times.unlink(missing_ok=True)
    return f"exit code {code}: {said.last}" if code else ""


def _written(file: Path, device: str) -> bool:
    """Whether the file comes from this very code and device."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(found.get("source") == _code() and found.get("step_device") == device)


def _mark(file: Path, device: str) -> None:
    """Say in a document which code and device wrote it."""
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    marked = {**found, "source": _code(), "step_device": device}
    file.write_text(json.dumps(marked, indent=2) + "\n", encoding="utf-8")


def _code() -> str:
    return document.source(ROOT / "test" / "gpu", ROOT / "test" / "support")


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(until_ended())
