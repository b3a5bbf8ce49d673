"""`ecovla enable` lets the guard move the arm for as long as the command runs."""

from __future__ import annotations

import argparse

from ecovla_ros.cli.options import add_ros, module_with_ros, of_ros


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--seconds", type=float, default=0.0, help="end after this time, s; 0: at Ctrl-C")
    add_ros(parser)


def run(options: argparse.Namespace) -> int:
    """`ecovla enable`. Exit code 1 when the guard does not enable or ends the motion. Raises EcovlaError."""
    enable = module_with_ros("ecovla_ros.stage.enable", "enable")
    return int(enable.main(of_ros(options), options.seconds))
