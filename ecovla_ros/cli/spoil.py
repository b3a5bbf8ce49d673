"""`ecovla spoil`: what the commands say to bags, data sets, settings and checkpoints that were spoilt."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from ecovla_ros.cli.options import plain
from ecovla_ros.cli.terminal import ProgressLine, print_table

COLUMNS = ("kind", "inputs", "read", "refused", "wrong")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--count", type=int, default=2000, help="how many inputs are spoilt (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of what is done to them (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write rows, settings, machine, versions and commit to this file")


def run(options: argparse.Namespace) -> int:
    """`ecovla spoil`. Exit code 1 where a command answered with anything but a result or one line and exit code 2."""
    from ecovla_ros import cli
    from ecovla_ros.bench import document
    from ecovla_ros.bench.inputs import campaign

    rows, bar = [], ProgressLine(options.count, "inputs")
    with tempfile.TemporaryDirectory(prefix="ecovla_spoil_") as folder:
        for row in campaign.run(cli.main, Path(folder), options.count, options.seed):
            rows.append(row)
            bar.step(row["kind"])
    table = campaign.summary(rows)
    print_table(table, COLUMNS)
    broken = [row for row in rows if row["wrong"]]
    for row in broken[:10]:
        print(f"case {row['case']}, {row['kind']}, {row['done']}: {row['wrong']}")
    if options.json:
        document.write(options.json, table, plain(options), wrong=broken)
    return int(bool(broken))
