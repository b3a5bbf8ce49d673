"""What `make gpu` shows: the output of its programs as it comes, and a table of what their files say."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Protocol
from xml.etree import ElementTree

from ecovla_ros.bench import document

HEAD = ("step", "SMs", "method", "refresh", "ratio", "n", "policy p50", "p99", "sparse", "refresh", "prefill", "act",
        "act + refresh", "of reached", "kernels", "MACs", "speed-up", "triggers")  # fmt: skip
"""Times in ms: the policy call by the host's clock over all frames, its p50 of sparse and of refresh frames, and p50 on
the device of prefill and act in sparse (or dense) frames; what a refresh adds to act; share of the measured ceiling of
the policy call; kernels of such a frame; multiply-accumulates left; mean over mean."""


NAME = "gpu-{}.json"
"""File of a step."""
FAILED = ("failure", "error")


class Ended(Protocol):
    """What became of a step, see `gpu_steps.GpuOutcome`."""

    step: Any
    state: str
    seconds: float
    note: str


class Echo:
    """A thread that passes on what a program says, whole lines only: of a progress bar its last state."""

    def __init__(self, process: subprocess.Popen[bytes], log: IO[str]) -> None:
        self.last = ""
        self._process, self._log = process, log
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Take what is left. A grandchild that keeps the pipe open is not waited for."""
        self._thread.join(5.0)

    def _run(self) -> None:
        assert self._process.stdout is not None
        for raw in self._process.stdout:
            line = raw.decode("utf-8", "replace").rstrip("\r\n").rpartition("\r")[2]
            self.last = line.strip() or self.last
            for place in (self._log, sys.stdout):
                try:
                    place.write(line + "\n")
                    place.flush()
                except ValueError:  # the log was closed
                    return


def end(process: subprocess.Popen[bytes]) -> None:
    """Stop a program and what it started, in its own process group; first kindly."""
    for number, patience_s in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        try:
            process.wait(patience_s)
            return
        except subprocess.TimeoutExpired:
            continue


def tests_document(report: Path, file: Path, settings: Mapping[str, Any]) -> None:
    """pytest's report (JUnit's form) as a document: one row a test."""
    rows = []
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        found = next((kind for kind in ("failure", "error", "skipped") if case.find(kind) is not None), "")
        said = case.find(found) if found else None
        rows.append({
            "test": f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}",
            "outcome": found or "passed",
            "seconds": float(case.get("time") or 0.0),
            "why": "" if said is None else (said.get("message") or "")[:300],
        })  # fmt: skip
    document.write(file, rows, settings)


def text(outcomes: Sequence[Ended], folder: Path, device: str) -> str:
    """The table at the end."""
    lines = ["", "step                 state         s"]
    for outcome in outcomes:
        note = f"  {outcome.note}" if outcome.note else ""
        lines.append(f"{outcome.step.name:<20} {outcome.state:<12}{outcome.seconds:5.0f}{note}"[:200])
    cells = [list(HEAD)]
    notes: list[str] = []
    for outcome in outcomes:
        found = _read(folder / NAME.format(outcome.step.name))
        if found is None:
            continue
        cells += _cells(outcome.step.name, found["rows"])
        notes += _notes(outcome.step.name, found["rows"])
    if len(cells) > 1:
        widths = [max(len(row[i]) for row in cells) for i in range(len(HEAD))]
        lines += ["", *("  ".join(c.rjust(w) for c, w in zip(row, widths)) for row in cells)]
    where = "" if device == "cuda" else " Of a CPU at reduced width: no figure of a GPU."
    return "\n".join([*lines, *notes, "", f"Times in ms; the files are in {folder}.{where}", ""])


def _read(file: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found


def _cells(step: str, rows: Sequence[Mapping[str, Any]]) -> Iterator[list[str]]:
    """One line for each variant of a bench document; none for others."""
    for row in rows:
        if row.get("scope") != "policy" or row.get("frames") != "all":
            continue
        names = ("method", "refresh", "ratio", "tokens")
        mine = [r for r in rows if all(r.get(n) == row.get(n) for n in names)]
        yield _line(step, row, {(r["scope"], r["frames"]): r for r in mine})


def _line(step: str, row: Mapping[str, Any], by: Mapping[tuple[str, str], Mapping[str, Any]]) -> list[str]:
    plain = "sparse" if ("policy", "sparse") in by else "dense"
    policy, prefill, act = (by.get((scope, plain), {}) for scope in ("policy", "prefill", "act"))
    refresh, beside = by.get(("policy", "refresh"), {}), by.get(("act", "refresh"), {})
    figures = (
        row.get("p50_ms"), row.get("p99_ms"), policy.get("p50_ms"), refresh.get("p50_ms"), prefill.get("p50_ms"),
        act.get("p50_ms"), beside.get("refresh_cost_ms"), policy.get("of_reached"),
    )  # fmt: skip
    ends = (row.get("mac_ratio"), row.get("speedup"), row.get("trigger_rate"))
    return [
        step, _plain(row.get("sms")), str(row["method"]), str(row["refresh"]), f"{100 * row['ratio']:.4g} %",
        str(row["n"]), *(_figure(f) for f in figures), _plain(policy.get("kernels")), *(_figure(f) for f in ends),
    ]  # fmt: skip


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _plain(value: Any) -> str:
    return "-" if value is None else str(value)


def _notes(step: str, rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What a figure alone does not say: failed tests, missing counts, the kernels a frame spends most time in."""
    said = {str(row[key]) for row in rows for key in ("part_note", "kernels_by") if row.get(key)}
    yield from (f"{step}: {text}" for text in sorted(said - {"torch.profiler"}))
    tests = [row for row in rows if "outcome" in row]
    if tests:
        counts = {o: sum(t["outcome"] == o for t in tests) for o in ("passed", "failure", "error", "skipped")}
        yield f"{step}: " + ", ".join(f"{n} {o}" for o, n in counts.items() if n)
        yield from (f"{step}: {t['outcome']}: {t['test']}: {t['why']}" for t in tests if t["outcome"] in FAILED)
    for row in (r for r in rows if "busy_us" in r):
        beside = sum(s["beside_us"] for s in row["streams"])
        yield (
            f"{step}: {row['method']} {row['frames']} frame: {row['kernels']:.0f} kernels, {row['busy_us'] / 1e3:.2f} "
            f"ms busy and {row['idle_us'] / 1e3:.2f} ms idle, {beside / 1e3:.2f} ms of the refresh beside it"
        )
