"""What a GPU ran and when, kernel by kernel, as torch's profiler saw it.

Kernels of a replayed graph are seen one by one like any other. While the profiler is on everything is slower on the
host: who measures times does so before.
"""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile

from ecovla_ros.errors import EcovlaError

KINDS = {"kernel": "kernel", "gpu_memcpy": "copy", "gpu_memset": "set"}
"""Category of an event in the profiler's trace -> what it is called here."""


class DeviceSpan(NamedTuple):
    """One kernel, copy or filling on the device."""

    name: str
    kind: str
    start_us: float
    end_us: float
    stream: int


def recorded(run: Callable[[], object]) -> list[DeviceSpan]:
    """What the device did from here until `run` has returned and the device is idle, by start time.

    Raises EcovlaError where the profiler does not work on this machine, or sees no kernel.
    """
    try:
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
            run()
            torch.cuda.synchronize()
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "trace.json"
            seen.export_chrome_trace(str(file))
            document = json.loads(file.read_text(encoding="utf-8"))
    except (RuntimeError, OSError, ValueError) as error:
        raise EcovlaError(f"torch's profiler does not work here: {error}") from error
    found = spans(document["traceEvents"])
    if not found:
        raise EcovlaError("torch's profiler saw no kernel; valid where CUPTI may read this GPU")
    return found


def spans(events: Iterable[Mapping[str, Any]]) -> list[DeviceSpan]:
    """Device events of a trace in Chrome's form, by start time."""
    found = [
        DeviceSpan(e["name"], KINDS[e["cat"]], e["ts"], e["ts"] + e["dur"], int(e["args"]["stream"]))
        for e in events
        if e.get("ph") == "X" and e.get("cat") in KINDS
    ]
    return sorted(found, key=lambda s: s.start_us)


def count(found: Iterable[DeviceSpan], kind: str = "kernel") -> int:
    """How many of a kind."""
    return sum(s.kind == kind for s in found)


def by_name(found: Iterable[DeviceSpan], frames: int) -> list[dict[str, Any]]:
    """Rows name, kind, times a frame, us a frame, us each; the longest first."""
    sums: dict[tuple[str, str], list[float]] = defaultdict(list)
    for s in found:
        sums[s.name, s.kind].append(s.end_us - s.start_us)
    rows = [
        {"name": name, "kind": kind, "count": len(t) / frames, "us": sum(t) / frames, "us_each": sum(t) / len(t)}
        for (name, kind), t in sums.items()
    ]
    return sorted(rows, key=lambda row: -row["us"])


def union(found: Sequence[DeviceSpan]) -> list[tuple[float, float]]:
    """Stretches, us, in which at least one of these ran; by start time, apart from each other."""
    out: list[tuple[float, float]] = []
    for s in sorted(found, key=lambda s: s.start_us):
        if out and s.start_us <= out[-1][1]:
            out[-1] = (out[-1][0], max(out[-1][1], s.end_us))
        else:
            out.append((s.start_us, s.end_us))
    return out


def length(stretches: Iterable[tuple[float, float]]) -> float:
    """Their sum, us."""
    return sum(end - start for start, end in stretches)


def overlap(some: Sequence[tuple[float, float]], others: Sequence[tuple[float, float]]) -> float:
    """Time that lies in stretches of both, us."""
    total, i, j = 0.0, 0, 0
    while i < len(some) and j < len(others):
        total += max(0.0, min(some[i][1], others[j][1]) - max(some[i][0], others[j][0]))
        if some[i][1] < others[j][1]:
            i += 1
        else:
            j += 1
    return total


def frame(found: Sequence[DeviceSpan], gap_us: float = 5.0) -> dict[str, Any]:
    """One frame's spans in figures: kernels and copies, busy and idle time, the largest gaps, streams and overlap.

    The stream with the most device time is the frame's own; what runs on others ran beside it, or before or after.
    `gap_us`: idle stretches shorter than this are not counted as gaps. Raises EcovlaError without any span.
    """
    if not found:
        raise EcovlaError("the device did nothing in this frame")
    busy = union(found)
    gaps = [(later[0] - earlier[1], earlier[1]) for earlier, later in zip(busy, busy[1:])]
    streams = {n: union([s for s in found if s.stream == n]) for n in {s.stream for s in found}}
    main = max(streams, key=lambda n: length(streams[n]))
    return {
        "kernels": count(found),
        "copies": len(found) - count(found),
        "span_us": busy[-1][1] - busy[0][0],
        "busy_us": length(busy),
        "idle_us": sum(gap for gap, _ in gaps),
        "gaps": sum(gap >= gap_us for gap, _ in gaps),
        "largest_gaps": [_gap(found, gap, at) for gap, at in sorted(gaps, reverse=True)[:5]],
        "streams": [
            {
                "stream": n,
                "main": n == main,
                "kernels": count(s for s in found if s.stream == n),
                "busy_us": length(own),
                "beside_us": 0.0 if n == main else overlap(own, streams[main]),
            }
            for n, own in sorted(streams.items(), key=lambda item: -length(item[1]))
        ],
    }


def _gap(found: Sequence[DeviceSpan], us: float, at: float) -> dict[str, Any]:
    before = max((s for s in found if s.end_us <= at), key=lambda s: s.end_us)
    after = min((s for s in found if s.start_us > at), key=lambda s: s.start_us)
    return {"us": us, "after": before.name[:80], "before": after.name[:80]}
