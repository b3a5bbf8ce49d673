"""Latency of the policy call, dense and pruned, in one run on the same frames.

Regime: batch 1, two cameras; the prefix pass is compute-bound, the action head runs a few tokens many times and is
bound by overhead and weight traffic. Methods are interleaved frame by frame, forwards and backwards in turn (A B C, C B
A, ...), so that a drift of the machine hits all alike; only a reference that is compiled comes after them all. Every
frame counts: sparse, refresh and dense.

Pace. `paced`: between two frames of a variant there is time enough for its refresh, as on an arm whose policy waits for
the next image; one that runs behind the frame is issued in that pause, as by the node, and is in no policy call.
`back-to-back`: each variant runs a few frames without a pause, every refresh is issued within the call, and what is
left of it then delays the next frame: `exposed_ms`. What a refresh costs the frame beside it is more than that wait, as
both share one device: `refresh_cost_ms`, by which a frame with a refresh takes longer than a sparse one, for every
scope.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ecovla_ros import build, config
from ecovla_ros.bench.scenes import CALM_FRAMES, SceneFrame, stream
from ecovla_ros.bench.speed import macs, rows
from ecovla_ros.bench.speed.device import Timed, bound_ms, ceilings, peaks_of
from ecovla_ros.bench.speed.device_trace import DeviceSpan, count, recorded
from ecovla_ros.bench.speed.green_context import Part
from ecovla_ros.bench.speed.reference import Reference
from ecovla_ros.bench.speed.rows import KINDS, SCOPES, Facts
from ecovla_ros.bench.variants import Bench, Variant
from ecovla_ros.engine.engine import Engine
from ecovla_ros.engine.graphs import Graphed
from ecovla_ros.errors import ConfigError, EcovlaError, unknown
from ecovla_ros.models.base import DENSE
from ecovla_ros.prune import pattern
from ecovla_ros.types import FrameReport

__all__ = ["KINDS", "PACES", "SCOPES", "measure"]

PACES = ("paced", "back-to-back")
BLOCK = 8
"""Frames in a row of one variant, back to back."""
COUNTED = 12
"""Frames whose kernels are counted at most, around a change of the scene, after all that are timed."""

Traces = dict[str, list[DeviceSpan]]
"""Frame kind -> what the device did in one such frame and in its refresh."""


def measure(
    settings: config.Config,
    chosen: Sequence[Variant],
    frames: int,
    warm_up: int,
    seed: int,
    pace: str,
    progress: Callable[[int, int], None],
    reference: Reference | None = None,
    save_pattern: str | Path | None = None,
    part: Part | None = None,
    traces: list[Traces] | None = None,
    keep: Callable[[list[dict[str, Any]]], None] | None = None,
) -> list[dict[str, Any]]:
    """Rows of `ecovla bench`. Raises ConfigError for an unknown pace and whatever the model raises.

    `part`: of the GPU that this process was held to, see `green_context.enter`. `traces`: takes one entry for each
    variant, of the frames whose kernels are counted. `keep` gets all rows that are known before anything is compiled.
    """
    if pace not in PACES:
        raise ConfigError(unknown("pace", pace, PACES))
    device = build.device_of(settings.policy)
    common = _device_facts(device, part)
    bench = Bench(settings, chosen, seed, None if reference is None else reference.policy)
    engines = [bench.engine(i, build.side_streams(settings.policy), seed) for i in range(len(chosen))]
    reports: list[list[FrameReport]] = [[] for _ in chosen]
    block = BLOCK if pace == "back-to-back" else 1
    scripted = list(stream(engines[0].policy.spec, max(frames + warm_up, CALM_FRAMES + COUNTED), seed, bench.state))
    timed = scripted[: frames + warm_up]
    shares = [_shares(engine, scripted[0], bench) for engine in engines]
    try:
        for turn, start in enumerate(range(0, len(timed), block)):
            order = range(len(engines)) if turn % 2 == 0 else range(len(engines) - 1, -1, -1)
            for index in order:
                for i in range(start, min(start + block, len(timed))):
                    report = _timed(engines[index], timed[i], rest=block > 1)
                    if i >= warm_up:
                        reports[index].append(report)
                engines[index].settle()
            if reference is not None:
                reference.turn(timed[start].observation, measured=start >= warm_up)
            progress(min(start + block, len(timed)), len(timed))
        if save_pattern is not None:
            pattern.save(save_pattern, engines[-1].patterns(), engines[-1].sparse_plan.kept)
        facts = []
        for engine, own, share in zip(engines, reports, shares):
            seen = _seen(engine, scripted[CALM_FRAMES - 2 :], {r.kind for r in own}, common)
            facts.append(_facts(engine, scripted[0], bench, share, seen, common))
            if traces is not None:
                traces.append(seen)
    finally:
        for engine in engines:
            engine.close()
    measured = [
        row
        for variant, answered, known in zip(chosen, reports, facts)
        for row in rows.of_variant(variant, answered, reports[0], known)
    ]
    dense = float(np.mean([r.total_ms for r in reports[0]]))
    common |= {
        "model": settings.policy.model,
        "dtype": str(build.dtype_of(settings.policy)).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "graphs": settings.policy.graphs and device.type == "cuda",
        "pace": pace,
    }

    def with_reference() -> list[dict[str, Any]]:
        return [{**common, **row} for row in (*measured, *(() if reference is None else reference.rows(dense)))]

    if keep is not None:
        keep(with_reference())
    if reference is not None:
        turns = (timed[start] for start in range(0, len(timed), block) if start >= warm_up)
        reference.run_compiled([frame.observation for frame in turns])
    return with_reference()


def _device_facts(device: torch.device, part: Part | None) -> dict[str, Any]:
    """Name of the device, the multiprocessors in use, and what its products and copies reach; a CPU has a name."""
    if device.type != "cuda":
        return {"device": "cpu"}
    name = torch.cuda.get_device_name(device)
    whole = torch.cuda.get_device_properties(device).multi_processor_count
    flops, copied = ceilings()
    torch.cuda.empty_cache()  # for the weights
    return {
        "device": name,
        "sms": whole if part is None else part.sms,
        "of_sms": whole,
        "part_note": "" if part is None else part.note,
        "reached_tflops": flops / 1e12,
        "reached_gb_s": copied / 1e9,
    }


def _timed(engine: Engine, frame: SceneFrame, rest: bool) -> FrameReport:
    """One frame; on CUDA prefill and act by the device's own clock, not by how long issuing them took."""
    report = engine.step(frame.observation, rest=rest).report
    if not rest:
        engine.rest()
    if isinstance(engine.policy, Timed):
        return replace(report, stages_ms={**report.stages_ms, **engine.policy.take_ms()})
    return report


def _eager(policy: Any) -> Any:
    """The policy inside of timers and graphs."""
    while isinstance(policy, (Timed, Graphed)):
        policy = policy.inner
    return policy


def _facts(
    engine: Engine, frame: SceneFrame, bench: Bench, shares: rows.Shares, seen: Traces, common: dict[str, Any]
) -> Facts:
    """What is known of a variant once its frames have been timed."""
    bounds: dict[str, float] = {}
    reached: dict[str, float] = {}
    if "sms" in common:
        policy, obs, plan = _eager(engine.policy), frame.observation, engine.sparse_plan
        sheet = peaks_of(common["device"]) if common["sms"] == common["of_sms"] else None
        bounds = bound_ms(policy, obs, plan, bench.noise, sheet) if sheet is not None else {}
        measured = (common["reached_tflops"] * 1e12, common["reached_gb_s"] * 1e9)
        reached = bound_ms(policy, obs, plan, bench.noise, measured)
    memory = 1 + engine.refresh_bytes / bench.weights_bytes
    groups = {s.key: s.group for s in engine.policy.sites}
    kept = {groups[key]: channels for key, channels in engine.sparse_plan.kept.items()}
    return Facts(shares, bounds, reached, {kind: count(ran) for kind, ran in seen.items()}, memory, kept)


def _seen(engine: Engine, frames: Sequence[SceneFrame], wanted: set[str], common: dict[str, Any]) -> Traces:
    """What the device does in one frame of each wanted kind, from torch's profiler, where there is a device and it
    works."""
    found: Traces = {}
    for frame in frames[:COUNTED] if "sms" in common else ():
        kinds: list[str] = []

        def answered(frame: SceneFrame = frame, kinds: list[str] = kinds) -> None:
            kinds.append(engine.step(frame.observation).report.kind)
            engine.settle()

        try:
            ran = recorded(answered)
        except EcovlaError as error:
            common["kernels_by"] = f"not counted: {error}"
            return {}
        common["kernels_by"] = "torch.profiler"
        found.setdefault(kinds[0], ran)
        if found.keys() >= wanted:
            break
    return found


def _shares(engine: Engine, frame: SceneFrame, bench: Bench) -> rows.Shares:
    """Scope -> frame kind -> share of the plain dense frame's multiply-accumulates, counted on one frame."""
    policy, plan = _eager(engine.policy), engine.sparse_plan
    plain = macs.count(_eager(bench.policies[0]), frame.observation, DENSE, bench.noise)
    dense, sparse = (macs.count(policy, frame.observation, p, bench.noise) for p in (DENSE, plan))
    reused = macs.count(policy, frame.observation, plan, bench.noise, reuse=True)
    kinds = {"sparse": sparse, "dense": dense, "refresh": sparse if engine.config.refresh == "probe" else dense,
             "reused": reused}  # fmt: skip
    return {s: {kind: found[s] / plain[s] for kind, found in kinds.items()} for s in SCOPES}
