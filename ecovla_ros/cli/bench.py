"""`ecovla bench`: latency, dense and pruned, interleaved."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from ecovla_ros import config
from ecovla_ros.cli.options import add_common, numbers, plain, settings_of
from ecovla_ros.cli.terminal import Progress, print_table


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_common(parser)
    parser.add_argument("--model", default="mini", help="name of the model")
    parser.add_argument("--method", default="dense,ecovla,static", help="comma-separated methods")
    parser.add_argument("--ratios", default="0,0.25,0.4", help="comma-separated pruning ratios")
    parser.add_argument("--frames", type=int, default=300, help="measured frames per variant")
    parser.add_argument("--warm-up", type=int, default=20, help="frames before measuring")
    parser.add_argument("--seed", type=int, default=0, help="seed of the scripted observations")


def run(options: argparse.Namespace) -> int:
    """`ecovla bench`."""
    from ecovla_ros.bench import document, latency

    settings = config.override(settings_of(options), **{"policy.model": options.model})
    progress = Progress(options.frames + options.warm_up, "frames")
    rows = latency.measure(
        settings, options.method.split(","), numbers(options.ratios), options.frames, options.warm_up, options.seed,
        lambda done, total: progress.to(done),
    )
    print_table(rows, ("scope", "method", "ratio", "frames", "n", "mean_ms", "p50_ms", "p95_ms", "p99_ms", "speedup",
                       "mac_ratio", "exposed_ms", "trigger_rate"))
    if options.json:
        document.write(options.json, rows, {**plain(options), "config": asdict(settings)})
    return 0
