"""`ecovla doctor`: looks at the running system and says, before any motion, what is missing or wrong."""

from __future__ import annotations

import argparse

from ecovla_ros.cli.options import add_ros, module_with_ros, of_ros


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--config", default="", help="YAML file, or a shipped one; else that of the running nodes")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="override a key")
    add_ros(parser)
    parser.add_argument("--seconds", type=float, default=4.0, help="how long to listen, s (default: %(default)s)")


def run(options: argparse.Namespace) -> int:
    """`ecovla doctor`. Exit code 1 for a fault. Raises ConfigError where ROS 2 is missing."""
    doctor = module_with_ros("ecovla_ros.stage.doctor", "the doctor")
    return int(doctor.main(options.config, options.set, options.seconds, of_ros(options)))
