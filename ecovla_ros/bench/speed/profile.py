"""Where a frame goes on the device: `python -m ecovla_ros.bench.speed.profile --model pi05 --json FILE`.

Dense and adaptive, frame by frame: kernels and copies by time and count, what the device waits between them, and how
much of the refresh ran beside the frame. Measured under torch's profiler, which slows the host down: idle time here is
an upper bound, and times of frames are those of `ecovla bench`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from ecovla_ros import build, config
from ecovla_ros.bench import document
from ecovla_ros.bench.scenes import CALM_FRAMES, SceneFrame, stream
from ecovla_ros.bench.speed.device_trace import DeviceSpan, by_name, frame, recorded
from ecovla_ros.bench.variants import Bench, Variant, variants
from ecovla_ros.engine.engine import Engine
from ecovla_ros.errors import ConfigError, EcovlaError

FRAMES = 8
"""Recorded frames of each variant, the first of them calm, then a scene that changes."""
LISTED = 40
"""Kernels by name that are listed, the longest first."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what takes longest; with --json also write the document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="pi05")
    parser.add_argument("--ratio", type=float, default=0.4)
    parser.add_argument("--refresh", default="probe", choices=config.REFRESHES)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as in `ecovla bench`")
    parser.add_argument("--json", default="", help="file to write")
    chosen = parser.parse_args(arguments)
    settings = config.override(config.override_texts(config.Config(), chosen.set), **{"policy.model": chosen.model})
    made = rows(settings, chosen.ratio, chosen.refresh)
    for row in made:
        if "name" in row and row["us"] > 50:
            head = f"{row['method']:<7} {row['frames']:<8} {row['us']:8.0f} us  {row['count']:7.1f} x"
            sys.stdout.write(f"{head} {row['us_each']:7.2f}  {row['name'][:90]}\n")
    if chosen.json:
        document.write(chosen.json, made, {**vars(chosen), "config": asdict(settings), "warm_up": CALM_FRAMES - 4})
    return 0


def rows(settings: config.Config, ratio: float, refresh: str) -> list[dict[str, Any]]:
    """One row for each variant and kind of frame, then its kernels by name. Raises ConfigError without a GPU, and
    EcovlaError where torch's profiler does not work."""
    device = build.device_of(settings.policy)
    if device.type != "cuda":
        raise ConfigError("a profile of the device needs a GPU that CUDA can use")
    chosen = variants(["ecovla"], [refresh], [ratio])
    bench = Bench(settings, chosen, 0)
    out = []
    for index, variant in enumerate(chosen):
        engine = bench.engine(index, build.side_streams(settings.policy), 0)
        found = _recorded(engine, list(stream(engine.policy.spec, CALM_FRAMES - 4 + FRAMES, 0, bench.state)))
        out += of_variant(settings.policy.model, variant, found)
        engine.close()
    return out


def of_variant(
    model: str, variant: Variant, found: Mapping[str, Sequence[Sequence[DeviceSpan]]]
) -> list[dict[str, Any]]:
    """Rows of one variant. `found`: frame kind -> what the device did in each such frame."""
    names = {"model": model, "method": variant.method, "refresh": variant.refresh, "ratio": variant.ratio}
    return [{**names, "frames": kind, **row} for kind, frames in found.items() for row in of_kind(frames)]


def of_variants(
    model: str, chosen: Sequence[Variant], traces: Sequence[Mapping[str, Sequence[DeviceSpan]]]
) -> list[dict[str, Any]]:
    """Rows of a bench's variants, one frame of each kind. Raises EcovlaError where nothing was seen."""
    pairs = zip(chosen, traces)
    out = [row for one, seen in pairs for row in of_variant(model, one, {kind: [ran] for kind, ran in seen.items()})]
    if not out:
        raise EcovlaError("--profile: torch's profiler saw nothing; it needs a GPU that it may read")
    return out


def of_kind(frames: Sequence[Sequence[DeviceSpan]]) -> list[dict[str, Any]]:
    """The median frame of several of one kind in figures, then kernels by name over all of them."""
    figures = [frame(spans) for spans in frames]
    median = int(np.argsort([f["busy_us"] for f in figures])[len(figures) // 2])
    together = [span for spans in frames for span in spans]
    return [{"n": len(frames), **figures[median]}, *by_name(together, len(frames))[:LISTED]]


def _recorded(engine: Engine, frames: Sequence[SceneFrame]) -> dict[str, list[list[DeviceSpan]]]:
    """Frame kind -> what the device did in each such frame, its refresh included."""
    found: dict[str, list[list[DeviceSpan]]] = {}
    for one in frames[:-FRAMES]:
        engine.step(one.observation)
        engine.settle()
    for one in frames[-FRAMES:]:
        kinds: list[str] = []

        def answered(one: SceneFrame = one, kinds: list[str] = kinds) -> None:
            kinds.append(engine.step(one.observation).report.kind)
            engine.settle()

        spans = recorded(answered)
        found.setdefault(kinds[0], []).append(spans)
    return found


if __name__ == "__main__":
    sys.exit(main())
