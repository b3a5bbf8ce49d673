"""`ecovla film`: the cameras of a bag as a film, or as a moving picture for a web page."""

from __future__ import annotations

import argparse
from pathlib import Path

from ecovla_ros.errors import ConfigError


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("bag", type=Path, help="a rosbag2 folder, or an .mcap or .db3 file")
    parser.add_argument(
        "out",
        type=Path,
        nargs="?",
        help="the file to write: .mp4, .webp or .gif; without it, the name of the bag with .mp4",
    )
    parser.add_argument(
        "--camera",
        action="append",
        default=[],
        metavar="TOPIC",
        help="an image topic; several stand side by side in the order given",
    )
    parser.add_argument(
        "--rate", type=float, default=0.0, help="pictures a second; 0: as many as the first camera recorded"
    )


def run(options: argparse.Namespace) -> int:
    """`ecovla film`."""
    from ecovla_ros.bags import film

    if options.rate and not film.RATES[0] <= options.rate <= film.RATES[1]:
        raise ConfigError(
            f"--rate {options.rate}; valid: {film.RATES[0]:g} to {film.RATES[1]:g} pictures a second, or 0"
        )
    out = options.out or options.bag.resolve().with_suffix(".mp4")
    count = film.make(options.bag, out, options.rate, cameras=options.camera)
    print(f"{out}: {count} pictures")
    return 0
