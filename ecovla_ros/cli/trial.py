"""`ecovla trial`: kills or freezes each process in mid-motion, over ROS 2, and checks how the arm comes to rest."""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path

from ecovla_ros.cli.options import add_json, module_with_ros
from ecovla_ros.errors import ConfigError


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--repeat", type=int, default=3, help="how often each process is killed (default: %(default)s)")
    parser.add_argument(
        "--out", type=Path, default=Path("out/trial"), help="folder for the logs (default: %(default)s)"
    )
    parser.add_argument(
        "--ros2-control", type=Path, metavar="PREFIX", default=os.environ.get("ECOVLA_ROS2_CONTROL") or None,
        help="prefix of a ROS 2 with ros2_control, e.g. /opt/ros/kilted: its controllers are tried too, on mock "
        "hardware (default: ECOVLA_ROS2_CONTROL)",
    )  # fmt: skip
    parser.add_argument("--resume", action="store_true", help="keep the trials that --json FILE has already")
    parser.add_argument(
        "--minutes", type=float, default=math.inf, help="begin no trial after so long; go on by --resume"
    )
    parser.add_argument(
        "--link", action="store_true",
        help="instead: the policy on another machine (a network namespace; needs root), and the cable unplugged",
    )  # fmt: skip
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """`ecovla trial`. Exit code 1 when a figure that was asked for is not reached. Raises ConfigError without ROS 2."""
    if options.link:
        link = module_with_ros("ecovla_ros.stage.link", "the trial")
        return int(link.main(options.repeat, options.out, options.json))
    if options.resume and options.json is None:
        raise ConfigError("--resume needs --json FILE: the trials lie in it")
    trial = module_with_ros("ecovla_ros.stage.trial", "the trial")
    return int(
        trial.main(options.repeat, options.out, options.json, options.ros2_control, options.resume, options.minutes)
    )
