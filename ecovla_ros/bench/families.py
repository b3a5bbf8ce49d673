"""Every family at reduced width, dense and pruned: `python -m ecovla_ros.bench.families --json results/families.json`.

Random weights: latency and work depend on shapes, not on values. The language model's MLP channels and heads are
pruned, the refresh is the paper's (dense), and every frame counts. Beside the rows stand the paper's speed-ups.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from ecovla_ros import config
from ecovla_ros.bench import document, latency
from ecovla_ros.bench.variants import variants

FAMILIES = ("pi0-reduced", "pi05-reduced", "openvla-oft-reduced", "cogact-reduced")
RATIOS = (0.25, 0.4)
GROUPS = ("lm.mlp", "lm.heads")

PAPER = {
    ("pi05-reduced", 0.25): 1.31, ("pi05-reduced", 0.4): 1.46, ("openvla-oft-reduced", 0.25): 1.26,
    ("openvla-oft-reduced", 0.4): 1.41, ("cogact-reduced", 0.25): 1.44, ("cogact-reduced", 0.4): 1.57,
}  # fmt: skip
"""Speed-up of the whole policy call as arXiv 2602.00780 reports it: full size, RTX 3090; pi0.5 at 37.5 %, not 40 %."""


def measure(frames: int, warm_up: int, seed: int, threads: int) -> list[dict[str, Any]]:
    """Rows of `ecovla bench` for every family, scopes prefill and policy, with the paper's speed-up if it has one."""
    rows = []
    for name in FAMILIES:
        changes = {"policy.model": name, "policy.threads": threads, "prune.sites": GROUPS}
        settings = config.override(config.Config(), **changes)
        chosen = variants(["dense", "ecovla"], ["dense"], list(RATIOS))
        found = latency.measure(settings, chosen, frames, warm_up, seed, "paced", _quiet)
        for row in found:
            if row["scope"] != "act" and row["frames"] in ("all", "sparse"):
                paper = PAPER.get((name, row["ratio"])) if row["scope"] == "policy" and row["frames"] == "all" else None
                rows.append({**row, "model": name, "paper_speedup": paper})
    return rows


def _quiet(done: int, total: int) -> None:
    """Progress that is not shown."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; with --json also write the document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", default="", help="file to write")
    parser.add_argument("--frames", type=int, default=40, help="measured frames per variant")
    parser.add_argument("--warm-up", type=int, default=5, help="frames before measuring")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    parser.add_argument("--seed", type=int, default=0, help="seed of the scripted observations")
    chosen = parser.parse_args(arguments)
    rows = measure(chosen.frames, chosen.warm_up, chosen.seed, chosen.threads)
    for r in rows:
        sys.stdout.write(
            f"{r['model']:<20} {r['method']:<7} {r['ratio']:<5} {r['scope']:<8} {r['frames']:<7} {r['n']:>3} "
            f"{r['mean_ms']:8.2f} ms  x{r['speedup']:.2f}  of ideal {r['of_ideal']:.2f}\n"
        )
    if chosen.json:
        document.write(chosen.json, rows, {**vars(chosen), "groups": list(GROUPS), "weights": "random"})
    return 0


if __name__ == "__main__":
    sys.exit(main())
