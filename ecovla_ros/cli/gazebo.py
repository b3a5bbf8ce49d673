"""`ecovla gazebo`: measures how the policy does in Gazebo, or records how the expert does, through the launch file."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from ecovla_ros.cli.options import add_json, module_with_ros
from ecovla_ros.errors import ConfigError
from ecovla_ros.sim.gazebo import RELEASES
from ecovla_ros.sim.tasks import TASKS


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--tasks", default=",".join(TASKS), help="separated by commas (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=20, help="scenes of each task and method (default: %(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=25.0, help="simulated time for an episode, s (default: %(default)s)"
    )
    parser.add_argument(
        "--minutes", type=float, default=math.inf, help="begin no episode after so long; the same command goes on"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("out/gazebo"), help="folder for the log (default: %(default)s)"
    )
    parser.add_argument("--release", choices=sorted(RELEASES), default="harmonic", help="of Gazebo")
    parser.add_argument("--engine", choices=("ogre2", "ogre"), default="ogre2", help="what draws")
    parser.add_argument(
        "--pace", type=float, default=1.0, help="seconds simulated in a second, at most (default: %(default)s)"
    )
    parser.add_argument(
        "--pictures", action="store_true", help="write five moments of every episode as both cameras saw them, to "
        "pictures/ in the folder",
    )  # fmt: skip
    parser.add_argument(
        "--demonstrations", type=Path, metavar="FOLDER", help="instead: let the built-in simulator's expert drive, and "
        "record each solved episode as a bag in this folder; the scenes are others than those that are measured",
    )  # fmt: skip
    parser.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE",
        help="replace one value of gazebo.yaml, for every method; may be given several times",
    )  # fmt: skip
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """`ecovla gazebo`. Exit code 1 when episodes are left. Raises ConfigError without ROS 2 or Gazebo."""
    arguments = {"release": options.release, "engine": options.engine, "pace": str(options.pace)}
    tasks = [name.strip() for name in options.tasks.split(",")]
    if options.demonstrations is not None:
        if options.pictures or options.json:
            raise ConfigError("--demonstrations makes no table; valid: without --json and --pictures")
        expert = module_with_ros("ecovla_ros.stage.gazebo_demonstrations", "the expert")
        return int(
            expert.main(
                options.seeds, options.seconds, options.minutes, options.demonstrations, arguments, tasks, options.set
            )
        )
    campaign = module_with_ros("ecovla_ros.stage.gazebo", "the campaign")
    return int(
        campaign.main(
            options.seeds,
            options.seconds,
            options.minutes,
            options.out,
            options.json,
            arguments,
            options.pictures,
            tasks,
            options.set,
        )
    )
