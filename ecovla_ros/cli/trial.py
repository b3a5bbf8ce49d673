"""`ecovla trial`: kills or freezes each process in mid-motion, over ROS 2, and checks how the arm comes to rest."""

from __future__ import annotations

import argparse
from pathlib import Path

from ecovla_ros.cli.options import add_json, module_with_ros


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--repeat", type=int, default=3, help="how often each process is killed (default: %(default)s)")
    parser.add_argument(
        "--out", type=Path, default=Path("out/trial"), help="folder for the logs (default: %(default)s)"
    )
    parser.add_argument(
        "--link", action="store_true",
        help="instead: the policy on another machine (a network namespace; needs root), and the cable unplugged",
    )  # fmt: skip
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """`ecovla trial`. Exit code 1 when a figure that was asked for is not reached. Raises ConfigError without ROS 2."""
    name = "ecovla_ros.stage.link" if options.link else "ecovla_ros.stage.trial"
    trial = module_with_ros(name, "the trial")
    return int(trial.main(options.repeat, options.out, options.json))
