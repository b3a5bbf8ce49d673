"""`ecovla doctor`: is everything there, before motion?"""

from __future__ import annotations

import argparse
import importlib

from ecovla_ros.cli import options as shared
from ecovla_ros.errors import ConfigError


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--config", default="", help="YAML file, or a shipped one; else that of the running nodes")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="override a key")
    shared.add_ros(parser)
    parser.add_argument("--seconds", type=float, default=4.0, help="how long to listen")


def run(options: argparse.Namespace) -> int:
    """`ecovla doctor`. Exit code 1 for a fault. Raises ConfigError where ROS 2 is missing."""
    try:
        importlib.import_module("rclpy")
    except ImportError as error:
        raise ConfigError(f"the doctor needs ROS 2, and rclpy does not import ({error}); run: make setup") from error
    doctor = importlib.import_module("ecovla_ros.stage.doctor")
    return int(doctor.main(options.config, options.set, options.seconds, shared.of_ros(options)))
