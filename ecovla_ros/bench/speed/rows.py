"""Rows of a latency document: one variant's frames by scope and kind, beside what they could cost at best."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ecovla_ros.bench.variants import Variant
from ecovla_ros.types import FrameReport

SCOPES = ("prefill", "act", "policy")
"""Device time of the two phases (host time on a CPU), and the whole policy call by the host's clock."""
KINDS = ("all", "sparse", "refresh", "dense")

Shares = Mapping[str, Mapping[str, float]]
"""Scope -> frame kind -> share of the plain dense frame's multiply-accumulates."""


@dataclass(frozen=True)
class Facts:
    """What is known of a variant beside the times of its frames."""

    shares: Shares
    bounds: Mapping[str, float] = field(default_factory=dict)
    """Scope -> roofline bound of a sparse frame by the vendor's data sheet, ms; empty where it is not known."""
    reached: Mapping[str, float] = field(default_factory=dict)
    """The same by what a large product and a large copy reach on the device; empty on a CPU."""
    kernels: Mapping[str, int] = field(default_factory=dict)
    """Frame kind -> kernels the device ran for one such frame, its refresh included; empty where none were counted."""
    memory: float = 1.0
    """Weights and what the refresh owns, over weights."""
    kept: Mapping[str, int] = field(default_factory=dict)
    """Site group -> channels that a sparse frame keeps of each site; empty when dense."""


def of_variant(
    variant: Variant, reports: Sequence[FrameReport], dense: Sequence[FrameReport], facts: Facts
) -> Iterator[dict[str, Any]]:
    """Rows of one variant. `dense`: the frames of the plain dense one, which a speed-up is over."""
    for scope in SCOPES:
        base = np.array([time_of(r, scope) for r in dense])
        sparse = _median([time_of(r, scope) for r in reports if r.kind == "sparse"])
        for kind in KINDS:
            some = [r for r in reports if kind in ("all", r.kind)]
            if some:
                yield _names(variant, scope, kind) | _row(scope, kind, some, reports, base, sparse, facts)


def time_of(report: FrameReport, scope: str) -> float:
    """ms."""
    return report.total_ms if scope == "policy" else report.stages_ms[scope]


def _names(variant: Variant, scope: str, kind: str) -> dict[str, Any]:
    return {
        "method": variant.method,
        "refresh": variant.refresh,
        "ratio": variant.ratio,
        "tokens": variant.tokens,
        "scope": scope,
        "frames": kind,
    }


def _row(
    scope: str,
    kind: str,
    some: Sequence[FrameReport],
    reports: Sequence[FrameReport],
    base: np.ndarray,
    sparse: float,
    facts: Facts,
) -> dict[str, Any]:
    times = np.array([time_of(r, scope) for r in some])
    p50 = float(np.median(times))
    share = float(np.mean([facts.shares[scope]["reused" if r.reused else r.kind] for r in some]))
    speedup = float(base.mean() / times.mean())
    return {
        "n": len(some),
        "mean_ms": float(times.mean()),
        **{f"p{p}_ms": float(np.percentile(times, p)) for p in (50, 95, 99)},
        "mac_ratio": share,
        "speedup": speedup,
        "speedup_p50": float(np.median(base) / p50),
        "of_ideal": speedup * share,
        "over_sparse_p50": _finite(p50 / sparse),
        "refresh_cost_ms": _finite(p50 - sparse) if kind == "refresh" else None,
        "exposed_ms": float(np.mean([r.exposed_ms for r in some])),
        "exposed_share": float(sum(r.exposed_ms for r in some) / sum(r.total_ms for r in some)),
        "refresh_ms": _finite(_mean([r.refresh_ms for r in reports if r.refresh_ms > 0])),
        "trigger_rate": float(np.mean([r.kind == "refresh" for r in reports])),
        "reused_rate": float(np.mean([r.reused for r in some])),
        "swaps": float(np.mean([r.swaps for r in reports])),
        "memory_ratio": facts.memory,
        "of_roofline": facts.bounds[scope] / p50 if scope in facts.bounds and kind != "all" else None,
        "of_reached": facts.reached[scope] / p50 if scope in facts.reached and kind != "all" else None,
        "kernels": facts.kernels.get(kind) if scope == "policy" else None,
        "kept": dict(facts.kept),
    }


def _median(values: Sequence[float]) -> float:
    return float(np.median(values)) if values else float("nan")


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
