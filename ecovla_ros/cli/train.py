"""`ecovla train`: demonstrations and the built-in policy, from scratch."""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ecovla_ros.cli.options import add_common, plain

Row = dict[str, Any]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_common(parser)
    parser.add_argument("--work", type=Path, default=Path("data/mini"), help="folder of demonstrations and stages")
    parser.add_argument("--out", type=Path, default=Path("out/mini"), help="folder of the checkpoint")
    parser.add_argument("--episodes", type=int, default=900, help="demonstrations")
    parser.add_argument("--vision-minutes", type=float, default=12.0)
    parser.add_argument("--policy-minutes", type=float, default=45.0)
    parser.add_argument("--processes", type=int, default=2, help="collecting processes")
    parser.add_argument("--threads", type=int, default=2, help="training threads")
    parser.add_argument("--seed", type=int, default=0)


def run(options: argparse.Namespace) -> int:
    """`ecovla train`."""
    from ecovla_ros.bench import document
    from ecovla_ros.train import demos
    from ecovla_ros.train import run as program

    settings = program.TrainSettings(
        demos=replace(demos.DemoSettings(), episodes=options.episodes), processes=options.processes,
        threads=options.threads, vision_minutes=options.vision_minutes, policy_minutes=options.policy_minutes,
        seed=options.seed,
    )
    rows: list[Row] = []

    def report(row: Row) -> None:
        rows.append(row)
        print("  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()), flush=True)

    out = program.run(options.work, options.out, settings, report)
    print(f"checkpoint: {out}")
    if options.json:
        document.write(options.json, rows, {**plain(options), "train": asdict(settings)})
    return 0
