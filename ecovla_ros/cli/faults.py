"""`ecovla faults` tries faults against the guard, and compares five ways to play one motion."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from ecovla_ros.cli.options import add_json, plain
from ecovla_ros.cli.terminal import ProgressLine, print_table
from ecovla_ros.errors import ConfigError


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--cases",
        type=int,
        default=10_000,
        help="how many fault cases to try; the kinds take turns (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the first case of each kind, and of the delays in the motion study"
    )
    parser.add_argument("--processes", type=int, default=1, help="how many processes share the cases")
    parser.add_argument("--outcomes", type=Path, help="keep every outcome in this file, and go on from there")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """`ecovla faults`. Exit code 1 for a command outside limits, anything raised, or a latch without a reason."""
    from ecovla_ros.bench import document
    from ecovla_ros.bench.guard import campaign, playback

    ways = playback.measure(options.seed)
    print_table(ways, ("way", "rms_acceleration", "ratio", "peak_jerk", "rest_share", "rms_error_mrad"))
    outcomes = _kept(options)
    progress = ProgressLine(options.cases - len(outcomes), "cases")
    for outcome in campaign.run(options.cases, options.seed, options.processes, len(outcomes)):
        outcomes.append(outcome)
        if options.outcomes:
            with options.outcomes.open("a", encoding="utf-8") as file:
                file.write(json.dumps(outcome) + "\n")
        progress.step(outcome["case"])
    rows = campaign.table(outcomes)
    print_table(rows, tuple(rows[0]))
    bad = [o for o in outcomes if o["violations"] or o["crash"] or o["unexplained"] or o["moving"]]
    for outcome in bad[:20]:
        print(", ".join(f"{key} {outcome[key]}" for key in ("case", "seed", "violations", "crash", "state")))
    if options.json:
        document.write(options.json, rows, plain(options), playback=ways, bad=bad, releases=campaign.releases(outcomes))
    return int(bool(bad))


def _kept(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The outcomes of an earlier run with the same seed that was cut off. Raises ConfigError for another's."""
    if not options.outcomes or not options.outcomes.is_file():
        return []
    kept = [json.loads(line) for line in options.outcomes.read_text(encoding="utf-8").splitlines()]
    if kept and kept[0]["seed"] != options.seed:
        raise ConfigError(f"'{options.outcomes}' begins with seed {kept[0]['seed']}, not {options.seed}")
    return kept[: options.cases]
