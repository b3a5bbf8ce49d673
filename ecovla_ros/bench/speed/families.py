"""Every family at reduced width, dense and pruned: `ecovla bench --reduced`.

Random weights: latency and work depend on shapes, not on values. The language model's MLP channels and heads are
pruned, the refresh is the paper's (dense), and every frame counts. Beside the rows stand the paper's speed-ups.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from ecovla_ros import config
from ecovla_ros.bench.speed import latency
from ecovla_ros.bench.variants import variants

FAMILIES = ("pi0-reduced", "pi05-reduced", "openvla-oft-reduced", "cogact-reduced")
GROUPS = ("lm.mlp", "lm.heads")

PAPER_MS = {
    "OpenVLA-OFT": {0.0: 143.56, 0.25: 113.98, 0.4: 101.58},
    "pi0.5": {0.0: 81.94, 0.25: 62.66, 0.375: 55.98},
    "CogACT": {0.0: 104.16, 0.25: 72.65, 0.4: 66.43},
}
"""Model -> ratio -> ms of the whole call on an RTX 3090, as the paper's tables have them."""
PAPER = {
    ("pi05-reduced", 0.25, "none"): 1.31, ("pi05-reduced", 0.4, "none"): 1.46,
    ("openvla-oft-reduced", 0.25, "none"): 1.26, ("openvla-oft-reduced", 0.4, "none"): 1.41,
    ("openvla-oft-reduced", 0.25, "fastv"): 2.18, ("openvla-oft-reduced", 0.4, "fastv"): 2.35,
    ("openvla-oft-reduced", 0.25, "vla-cache"): 1.34, ("openvla-oft-reduced", 0.4, "vla-cache"): 1.50,
    ("cogact-reduced", 0.25, "none"): 1.44, ("cogact-reduced", 0.4, "none"): 1.57,
}  # fmt: skip
"""Speed-up of the whole policy call as arXiv 2602.00780 reports it: full size, RTX 3090; pi0.5 at 37.5 %, not 40 %.
VLA-Cache against a dense model of its own, with eager attention (162.78 ms)."""


def measure(
    settings: config.Config,
    ratios: Sequence[float],
    frames: int,
    warm_up: int,
    seed: int,
    tokens: Sequence[str],
    progress: Callable[[int], None],
) -> list[dict[str, Any]]:
    """Rows of `ecovla bench` for every family, scopes prefill and policy, with the paper's speed-up if it has one.

    `tokens`: of FastV and VLA-Cache, each beside channel pruning; empty: as `settings` say. Runs on one thread unless
    `settings` name another number.
    """
    rows: list[dict[str, Any]] = []
    for i, name in enumerate(FAMILIES):
        threads = settings.policy.threads or 1
        own = {"policy.model": name, "policy.threads": threads, "prune.sites": GROUPS}
        chosen = variants(["dense", "ecovla"], ["dense"], [r for r in ratios if r > 0.0], tokens)
        told = partial(_told, progress, i * (frames + warm_up))
        found = latency.measure(config.override(settings, **own), chosen, frames, warm_up, seed, "paced", told)
        for row in found:
            if row["scope"] != "act" and row["frames"] in ("all", "sparse"):
                whole = row["scope"] == "policy" and row["frames"] == "all"
                paper = PAPER.get((name, row["ratio"], row["tokens"] or "none")) if whole else None
                rows.append({**row, "model": name, "paper_speedup": paper})
    return rows


def _told(progress: Callable[[int], None], before: int, done: int, total: int) -> None:
    progress(before + done)
