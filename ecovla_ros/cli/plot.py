"""`ecovla plot` draws the figures of the documentation from result files."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--success",
        type=Path,
        nargs="+",
        metavar="FILE",
        default=[Path("results/table.json"), Path("results/table-latency.json")],
        help="result files of `ecovla eval`",
    )
    latency = Path("results/latency-study.json")
    parser.add_argument("--latency", type=Path, default=latency, help="result file of `ecovla bench`")
    parser.add_argument(
        "--trace",
        type=Path,
        default=Path("results/trace.json"),
        help="result file of `python -m ecovla_ros.bench.success.trace`",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("docs/figures"), help="folder for the pictures (default: %(default)s)"
    )
    parser.add_argument("--format", default="svg", help="svg, png or pdf (default: %(default)s)")


def run(options: argparse.Namespace) -> int:
    """`ecovla plot`."""
    from ecovla_ros.publish import plots

    trace, latency = plots.read(options.trace), plots.read(options.latency)
    success = [plots.read(path) for path in options.success]
    ratio, episode = (options.out / f"{name}.{options.format}" for name in ("ratio", "episode"))
    plots.episode_plot(trace, episode)
    print(episode)
    plots.ratio_plot(success, latency, ratio)
    print(ratio)
    return 0
