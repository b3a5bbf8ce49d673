"""The analytic table, computed and not measured: `python -m ecovla_ros.bench.speed.analytic --json FILE`."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import Any

import torch

from ecovla_ros import build
from ecovla_ros.bench import document
from ecovla_ros.bench.speed import cost
from ecovla_ros.bench.variants import TOKENS

PROMPT = 30
"""Tokens of the prompt, the state of pi0.5 included."""

RATIOS = {"pi0": (0.25, 0.375), "pi05": (0.25, 0.375), "openvla-oft": (0.25, 0.4), "cogact": (0.25, 0.4)}
"""As in the paper; three of eight query heads are 37.5 %."""

GROUPS = ("lm.mlp", "lm.heads")
SHARE = 0.5
"""Of the vision tokens: that leave after three layers (FastV), or that every layer reuses (VLA-Cache)."""


def rows() -> list[dict[str, Any]]:
    """One row per full shape, treatment of vision tokens and ratio: MACs by stage, weight bytes read, and the lower
    bounds by GPU, bfloat16, by its data sheet and by what it was measured to reach. A frame of VLA-Cache that reuses;
    how many do depends on the scene."""
    out = []
    for name, ratios in RATIOS.items():
        module, _, function = build.SHAPES[name].partition(":")
        policy = getattr(importlib.import_module(module), function)("meta", torch.bfloat16, 0)
        for way in TOKENS:
            policy.prune_tokens(3, SHARE if way == "fastv" else 0.0)
            policy.reuse_tokens((SHARE,) if way == "vla-cache" else (), 1 - SHARE, 0, 0.996)
            found = cost.products(policy, PROMPT)
            for ratio in (0.0, *ratios) if way == "none" else (0.0, ratios[-1]):
                out.append({
                    "model": name, "ratio": ratio, "way": way, "tokens": cost.prefix_tokens(policy, PROMPT),
                    **{f"{stage}_gmac": cost.macs(found, stage, ratio, GROUPS) / 1e9 for stage in cost.STAGES},
                    "weights_gb": cost.streamed(found, ratio, GROUPS) / 1e9,
                    "bound_ms": {gpu: cost.bound_ms(found, peak, ratio, GROUPS) for gpu, peak in cost.GPUS.items()},
                    "reached_ms": {gpu: cost.bound_ms(found, p, ratio, GROUPS) for gpu, p in cost.REACHED.items()},
                })  # fmt: skip
    return out


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; with --json also write the document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", default="", help="file to write")
    chosen = parser.parse_args(arguments)
    made = rows()
    for row in made:
        bounds = "  ".join(f"{gpu} {ms:.1f}" for gpu, ms in row["bound_ms"].items())
        bounds += "".join(f" ({gpu} reached: {ms:.1f})" for gpu, ms in row["reached_ms"].items())
        total = sum(row[f"{stage}_gmac"] for stage in cost.STAGES)
        head = f"{row['model']:<12} {row['way']:<9} {row['ratio']:<6} {total:7.0f} GMAC {row['weights_gb']:5.1f} GB"
        sys.stdout.write(f"{head}  {bounds} ms\n")
    if chosen.json:
        peaks, reached = ({gpu: p._asdict() for gpu, p in of.items()} for of in (cost.GPUS, cost.REACHED))
        settings = {"dtype": "bfloat16", "prompt": PROMPT, "groups": list(GROUPS), "peaks": peaks, "reached": reached,
                    "measured": False}  # fmt: skip
        document.write(chosen.json, made, settings)
    return 0


if __name__ == "__main__":
    sys.exit(main())
