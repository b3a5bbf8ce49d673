"""`ecovla replay`: the policy over a recorded bag, deterministic."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ecovla_ros import config
from ecovla_ros.cli.options import add_common, plain, settings_of
from ecovla_ros.cli.terminal import print_table


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_common(parser)
    parser.add_argument("bag", type=Path, help="rosbag2 folder or MCAP file")
    parser.add_argument("--method", default="", help="override prune.method")
    parser.add_argument("--ratio", type=float, help="override prune.ratio")
    parser.add_argument("--map", action="append", default=[], metavar="INPUT=TOPIC", help="topic of an input")
    parser.add_argument("--golden", type=Path, help="compare the chunks with those of an earlier --json file")


def run(options: argparse.Namespace) -> int:
    """`ecovla replay`."""
    from ecovla_ros.bags import replay as program
    from ecovla_ros.bench import document

    settings = settings_of(options)
    changes: dict[str, Any] = {}
    if options.method:
        changes["prune.method"] = options.method
    if options.ratio is not None:
        changes["prune.ratio"] = options.ratio
    rows = program.run(config.override(settings, **changes), options.bag, program.mapping(options.map))
    print_table(rows[-10:], ("stamp_ns", "kind", "similarity", "triggered", "total_ms", "joint_1", "gripper"))
    print(f"{len(rows)} frames")
    if options.json:
        document.write(options.json, rows, plain(options))
    return program.compare(rows, options.golden) if options.golden else 0
