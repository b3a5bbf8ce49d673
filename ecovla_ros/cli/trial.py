"""`ecovla trial`: processes killed in mid-motion, over ROS 2."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

from ecovla_ros.errors import ConfigError


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--repeat", type=int, default=3, help="how often each process is killed")
    parser.add_argument("--out", type=Path, default=Path("out/trial"), help="folder for logs")
    parser.add_argument("--json", type=Path, help="write rows, settings, machine, versions and commit to this file")


def run(options: argparse.Namespace) -> int:
    """`ecovla trial`. Exit code 1 when a figure that was asked for is not reached. Raises ConfigError without ROS 2."""
    try:
        importlib.import_module("rclpy")
    except ImportError as error:
        raise ConfigError(f"this needs ROS 2, and rclpy does not import ({error}); run: make setup") from error
    trial = importlib.import_module("ecovla_ros.stage.trial")
    return int(trial.main(options.repeat, options.out, options.json))
