"""Latency of the policy call, dense and pruned, in one run on the same frames.

Regime: batch 1, two cameras; the prefix pass is compute-bound, the action head runs a few tokens many times and is
bound by overhead and weight traffic. Methods are interleaved frame by frame, forwards and backwards in turn (A B C, C B
A, ...), so that a drift of the machine hits all alike. Every frame counts: sparse, refresh and dense.

Pace. `paced`: between two frames of a variant there is time enough for its refresh, as on an arm whose policy waits for
the next image. `back-to-back`: each variant runs a few frames without a pause, and what is left of the refresh then
delays the next frame: `exposed_ms`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ecovla_ros import build, config
from ecovla_ros.bench.scenes import SceneFrame, stream
from ecovla_ros.bench.speed import macs
from ecovla_ros.bench.speed.device import Timed, bound_ms, peaks_of
from ecovla_ros.bench.speed.reference import Reference
from ecovla_ros.bench.variants import Bench, Variant
from ecovla_ros.engine.engine import Engine
from ecovla_ros.engine.graphs import Graphed
from ecovla_ros.engine.streams import streams_for
from ecovla_ros.errors import ConfigError, unknown
from ecovla_ros.models.base import DENSE
from ecovla_ros.prune import pattern
from ecovla_ros.types import FrameReport

SCOPES = ("prefill", "act", "policy")
KINDS = ("all", "sparse", "refresh", "dense")
PACES = ("paced", "back-to-back")
BLOCK = 8
"""Frames in a row of one variant, back to back."""


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
) -> list[dict[str, Any]]:
    """Rows of `ecovla bench`. Raises ConfigError for an unknown pace and whatever the model raises."""
    if pace not in PACES:
        raise ConfigError(unknown("pace", pace, PACES))
    bench = Bench(settings, chosen, seed, None if reference is None else reference.policy)
    device = build.device_of(settings.policy)
    engines = [bench.engine(i, streams_for(device), seed) for i in range(len(chosen))]
    reports: list[list[FrameReport]] = [[] for _ in chosen]
    block = BLOCK if pace == "back-to-back" else 1
    scripted = list(stream(engines[0].policy.spec, frames + warm_up, seed))
    shares = [_shares(engine, scripted[0], bench) for engine in engines]
    bounds = [_bounds(engine, scripted[0], bench, device) for engine in engines]
    try:
        for turn, start in enumerate(range(0, len(scripted), block)):
            order = range(len(engines)) if turn % 2 == 0 else range(len(engines) - 1, -1, -1)
            for index in order:
                for i in range(start, min(start + block, len(scripted))):
                    report = _timed(engines[index], scripted[i])
                    if i >= warm_up:
                        reports[index].append(report)
                engines[index].settle()
            if reference is not None:
                reference.turn(scripted[start].observation, measured=start >= warm_up)
            progress(min(start + block, len(scripted)), len(scripted))
        if save_pattern is not None:
            pattern.save(save_pattern, engines[-1].patterns(), engines[-1].sparse_plan.kept)
    finally:
        for engine in engines:
            engine.close()
    rows = [
        row
        for variant, own, engine, share, bound in zip(chosen, reports, engines, shares, bounds)
        for row in _rows(variant, own, reports[0], share, bound, 1 + engine.refresh_bytes / bench.weights_bytes)
    ]
    dense = float(np.mean([r.total_ms for r in reports[0]]))
    rows += [] if reference is None else reference.rows(dense)
    common = {
        "model": settings.policy.model,
        "dtype": str(build.dtype_of(settings.policy)).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "device": _device_name(device),
        "pace": pace,
    }
    return [{**common, **row} for row in rows]


def _timed(engine: Engine, frame: SceneFrame) -> FrameReport:
    """One frame; on CUDA prefill and act by the device's own clock, not by how long issuing them took."""
    report = engine.step(frame.observation).report
    if isinstance(engine.policy, Timed):
        return replace(report, stages_ms={**report.stages_ms, **engine.policy.take_ms()})
    return report


def _eager(policy: Any) -> Any:
    """The policy inside of timers and graphs."""
    while isinstance(policy, (Timed, Graphed)):
        policy = policy.inner
    return policy


def _bounds(engine: Engine, frame: SceneFrame, bench: Bench, device: torch.device) -> dict[str, float]:
    """Roofline bounds of a sparse frame by scope, ms; empty where the machine's peaks are not known."""
    peaks = peaks_of(_device_name(device))
    if peaks is None:
        return {}
    return bound_ms(_eager(engine.policy), frame.observation, engine.sparse_plan, bench.noise, peaks)


def _shares(engine: Engine, frame: SceneFrame, bench: Bench) -> dict[str, dict[str, float]]:
    """Scope -> frame kind -> share of the plain dense frame's multiply-accumulates, counted on one frame."""
    policy, plan = _eager(engine.policy), engine.sparse_plan
    plain = macs.count(_eager(bench.policies[0]), frame.observation, DENSE, bench.noise)
    dense, sparse = (macs.count(policy, frame.observation, p, bench.noise) for p in (DENSE, plan))
    reused = macs.count(policy, frame.observation, plan, bench.noise, reuse=True)
    kinds = {"sparse": sparse, "dense": dense, "refresh": sparse if engine.config.refresh == "probe" else dense,
             "reused": reused}  # fmt: skip
    return {s: {kind: found[s] / plain[s] for kind, found in kinds.items()} for s in SCOPES}


def _rows(
    variant: Variant,
    reports: list[FrameReport],
    dense: list[FrameReport],
    shares: dict[str, dict[str, float]],
    bounds: dict[str, float],
    memory: float,
) -> Iterator[dict[str, Any]]:
    sparse_p50 = {s: np.median([_time(r, s) for r in reports if r.kind == "sparse"] or [np.nan]) for s in SCOPES}
    for scope in SCOPES:
        base = np.array([_time(r, scope) for r in dense])
        for kind in KINDS:
            some = [r for r in reports if kind in ("all", r.kind)]
            if not some:
                continue
            times = np.array([_time(r, scope) for r in some])
            share = float(np.mean([shares[scope]["reused" if r.reused else r.kind] for r in some]))
            speedup = float(base.mean() / times.mean())
            yield {
                "method": variant.method,
                "refresh": variant.refresh,
                "ratio": variant.ratio,
                "tokens": variant.tokens,
                "scope": scope,
                "frames": kind,
                "n": len(some),
                "mean_ms": float(times.mean()),
                **{f"p{p}_ms": float(np.percentile(times, p)) for p in (50, 95, 99)},
                "mac_ratio": share,
                "speedup": speedup,
                "speedup_p50": float(np.median(base) / np.median(times)),
                "of_ideal": speedup * share,
                "over_sparse_p50": _finite(np.median(times) / sparse_p50[scope]),
                "exposed_ms": float(np.mean([r.exposed_ms for r in some])),
                "exposed_share": float(sum(r.exposed_ms for r in some) / sum(r.total_ms for r in some)),
                "refresh_ms": _finite(np.mean([r.refresh_ms for r in reports if r.refresh_ms > 0] or [np.nan])),
                "trigger_rate": float(np.mean([r.kind == "refresh" for r in reports])),
                "reused_rate": float(np.mean([r.reused for r in some])),
                "swaps": float(np.mean([r.swaps for r in reports])),
                "memory_ratio": memory,
                "of_roofline": bounds[scope] / float(np.median(times)) if scope in bounds and kind != "all" else None,
            }


def _time(report: FrameReport, scope: str) -> float:
    return report.total_ms if scope == "policy" else report.stages_ms[scope]


def _finite(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
