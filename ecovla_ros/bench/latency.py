"""Latency of the policy call, dense and pruned, in one run on the same frames.

Regime: batch 1, float32, two cameras; the prefix pass is compute-bound, the action head runs a few tokens many times
and is bound by overhead and weight traffic. Methods are interleaved frame by frame (A, B, ..., A, B, ...) so that a
drift of the machine hits all alike. Every frame counts: sparse, refresh and dense. The frames of the other variants lie
between two frames of one, so its refresh has a gap to run in, as it has on an arm; `exposed_ms` is what the next frame
still waited for. With one variant alone frames come back to back, and there is no gap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from ecovla_ros import build, config
from ecovla_ros.engine.engine import Engine
from ecovla_ros.engine.streams import streams_for
from ecovla_ros.errors import ConfigError, unknown
from ecovla_ros.models.base import PolicySpec, Site
from ecovla_ros.types import CONTINUOUS, FrameReport, Observation

SCOPES = ("prefill", "act", "policy")
KINDS = ("all", "sparse", "refresh", "dense")
CALM_FRAMES = 40
"""The scripted scene changes wholly every so many frames."""


def stream(spec: PolicySpec, frames: int, seed: int) -> Iterator[Observation]:
    """Scripted observations: calm phases with sensor noise, and a new scene every `CALM_FRAMES` frames."""
    rng = np.random.default_rng(seed)
    text = spec.instructions[0] if spec.instructions else "place the apple in the basket"
    scenes: dict[str, np.ndarray] = {}
    for i in range(frames):
        if i % CALM_FRAMES == 0:
            scenes = {c: _scene(hw, rng) for c, hw in spec.cameras.items()}
        images = {
            c: np.clip(s + rng.integers(-4, 5, s.shape), 0, 255).astype(np.uint8) for c, s in scenes.items()
        }
        yield Observation(i * 100_000_000 + 1, images, np.zeros(len(CONTINUOUS)), 0.0, text)


def _scene(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Blocks of random colour, int (H, W, 3)."""
    blocks = rng.integers(0, 256, (size[0] // 16 + 1, size[1] // 16 + 1, 3))
    return blocks.repeat(16, 0).repeat(16, 1)[: size[0], : size[1]]


def measure(
    settings: config.Config, methods: Sequence[str], ratios: Sequence[float], frames: int, warm_up: int, seed: int,
    progress: Callable[[int, int], None],
) -> list[dict[str, Any]]:
    """Rows of `ecovla bench`. Raises ConfigError for an unknown method and whatever the model raises."""
    for name in methods:
        if name not in config.METHODS:
            raise ConfigError(unknown("method", name, config.METHODS))
    variants = [("dense", 0.0), *((m, r) for m in methods if m != "dense" for r in ratios)]
    engines = [_engine(settings, m, r, seed) for m, r in variants]
    reports: list[list[FrameReport]] = [[] for _ in variants]
    try:
        for i, obs in enumerate(stream(engines[0].policy.spec, frames + warm_up, seed)):
            for engine, kept in zip(engines, reports):
                report = engine.step(obs).report
                if i >= warm_up:
                    kept.append(report)
            progress(i + 1, frames + warm_up)
    finally:
        for engine in engines:
            engine.close()
    shares = [mac_ratio(e.policy.sites, e.sparse_plan) for e in engines]
    return [row for v, r, s in zip(variants, reports, shares) for row in _rows(settings, v, r, reports[0], s)]


def _engine(settings: config.Config, method: str, ratio: float, seed: int) -> Engine:
    """Each variant has weights of its own: their rows are ordered differently."""
    policy = build.policy(settings.policy)
    prune = config.override(settings, **{"prune.method": method, "prune.ratio": ratio}).prune
    engine = Engine(policy, prune, streams_for(build.device_of(settings.policy)), seed)
    if policy.calibration and method != "dense":
        engine.calibrate(policy.calibration)
    return engine


def mac_ratio(sites: Sequence[Site], kept: dict[str, int]) -> dict[str, float]:
    """Share of the multiply-accumulates of all sites of a phase that a sparse pass still does, from the shapes.

    Counts the weights of the sites alone (gate, up, down, query, output), not attention scores, K/V or the tower.
    """
    out = {}
    for phase in ("prefill", "act"):
        mine = [s for s in sites if s.phase == phase]
        total = sum(_macs(s, s.channels) for s in mine)
        out[phase] = sum(_macs(s, kept.get(s.key, s.channels)) for s in mine) / total if total else 1.0
    return out


def _macs(site: Site, channels: int) -> int:
    per_row = sum(w.shape[1] for w in (*site.producers, site.consumer))
    return channels * site.unit * per_row * site.calls


def _rows(
    settings: config.Config, variant: tuple[str, float], reports: list[FrameReport], dense: list[FrameReport],
    macs: dict[str, float],
) -> Iterator[dict[str, Any]]:
    method, ratio = variant
    for scope in SCOPES:
        base = float(np.mean([_time(r, scope) for r in dense]))
        for kind in KINDS:
            some = [r for r in reports if kind in ("all", r.kind)]
            if not some:
                continue
            times = np.array([_time(r, scope) for r in some])
            yield {
                "model": settings.policy.model, "dtype": "float32", "threads": torch.get_num_threads(),
                "device": str(build.device_of(settings.policy)), "method": method,
                "refresh": "dense" if method == "ecovla" else "none", "ratio": ratio, "scope": scope, "frames": kind,
                "n": len(some), "mean_ms": float(times.mean()),
                **{f"p{p}_ms": float(np.percentile(times, p)) for p in (50, 95, 99)},
                "mac_ratio": macs.get(scope), "speedup": base / float(times.mean()),
                "exposed_ms": float(np.mean([r.exposed_ms for r in some])),
                "trigger_rate": float(np.mean([r.triggered for r in reports])), "memory_ratio": None,
            }


def _time(report: FrameReport, scope: str) -> float:
    return report.total_ms if scope == "policy" else report.stages_ms[scope]
