"""`ecovla fuzz`: hostile messages at guard, policy and serve, and attacks on who owns the arm."""

from __future__ import annotations

import argparse
import importlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from ecovla_ros.cli.options import module_with_ros

PARTS = ("guard", "policy", "serve", "presses", "owners")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--messages",
        type=int,
        default=50_000,
        help="how many hostile messages each topic and the server get (default: %(default)s)",
    )
    parser.add_argument(
        "--presses", type=int, default=1000, help="how often the e-stop is pressed under load (default: %(default)s)"
    )
    parser.add_argument(
        "--part", action="append", choices=PARTS, default=[], help="run only this part; may be given several times"
    )
    parser.add_argument("--topic", default="", help="run only this topic of guard or policy")
    parser.add_argument("--seed", type=int, default=1, help="seed of everything random (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("out/fuzz"), help="folder for the logs (default: %(default)s)")
    parser.add_argument(
        "--json", type=Path, help="write the results to this file; rows of parts that did not run now stay"
    )


def run(options: argparse.Namespace) -> int:
    """`ecovla fuzz`. Exit code 1 when a figure that was asked for is not reached. Raises ConfigError without ROS 2."""
    module_with_ros("ecovla_ros.stage.fuzz", "the fuzz campaign")
    rows = []
    for name, work in _work(options):
        made = work()
        for row in made if isinstance(made, list) else [made]:
            row["seed"] = options.seed
            print(f"{name}: " + ", ".join(f"{k} {v}" for k, v in row.items() if k not in ("kinds", "node", "topic")))
            rows.append(row)
        if options.json:
            _write(options.json, rows)
    return int(not all(row["reached"] for row in rows))


def _work(options: argparse.Namespace) -> list[tuple[str, Callable[[], Any]]]:
    fuzz = importlib.import_module("ecovla_ros.stage.fuzz")
    work: list[tuple[str, Callable[[], Any]]] = []
    wanted, out = options.part or PARTS, options.out
    for part, topics in (("guard", fuzz.GUARD_TOPICS), ("policy", fuzz.POLICY_TOPICS)):
        for topic in topics if part in wanted else ():
            if options.topic in ("", topic):
                shot = partial(getattr(fuzz, part), topic, options.messages, out, options.seed)
                work.append((f"{part} {topic}", shot))
    if "serve" in wanted:
        server = importlib.import_module("ecovla_ros.stage.fuzz_serve")
        work.append(("serve", partial(server.serve, options.messages, out, options.seed)))
    if "presses" in wanted:
        target = importlib.import_module("ecovla_ros.stage.fuzz_guard")
        work.append(("presses", partial(target.presses, options.presses, out)))
    if "owners" in wanted:
        work.append(("owners", partial(importlib.import_module("ecovla_ros.stage.owner_attacks").attacks, out)))
    return work


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Rows of an earlier run stay unless they were made anew: the campaign is long, and may be run in parts."""
    document = importlib.import_module("ecovla_ros.bench.document")
    made = {(row["node"], row["topic"]) for row in rows}
    before = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.is_file() else []
    kept = [row for row in before if (row["node"], row["topic"]) not in made]
    settings = {"command": "ecovla fuzz"}
    document.write(path, [*kept, *({"commit": document.commit(), **row} for row in rows)], settings)
