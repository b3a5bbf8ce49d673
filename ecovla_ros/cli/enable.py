"""`ecovla enable`: the guard may move the arm while this runs."""

from __future__ import annotations

import argparse
import importlib

from ecovla_ros.cli import options as shared
from ecovla_ros.errors import ConfigError


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--seconds", type=float, default=0.0, help="end after so long; without it until Ctrl-C")
    shared.add_ros(parser)


def run(options: argparse.Namespace) -> int:
    """`ecovla enable`. Exit code 1 when the guard does not enable or ends the motion. Raises EcovlaError."""
    try:
        importlib.import_module("rclpy")
    except ImportError as error:
        raise ConfigError(f"this needs ROS 2, and rclpy does not import ({error}); run: make setup") from error
    enable = importlib.import_module("ecovla_ros.stage.enable")
    return int(enable.main(shared.of_ros(options), options.seconds))
