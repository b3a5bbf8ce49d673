"""Two runs on the same scenes, pair by pair: `python -m ecovla_ros.bench.success.paired THIS OTHER --json FILE`.

What a setting changes that both runs do not share: each method against itself in the other run, tasks pooled. THIS and
OTHER are result files of `ecovla eval`; their episodes lie beside them.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ecovla_ros.bench import document
from ecovla_ros.bench.success import journal
from ecovla_ros.bench.success.statistics import Z95, least_difference, mcnemar
from ecovla_ros.errors import ConfigError, EcovlaError

Episode = Mapping[str, Any]
CELL = ("environment", "method", "refresh", "ratio")
MEASURES = ("seconds", "jerk")
"""Of an episode: how long it took, s, and how smooth it was, see `bench.success.drive`."""


def counted(mine: Mapping[Hashable, bool], theirs: Mapping[Hashable, bool]) -> dict[str, Any]:
    """Pairs of two runs, whether each was solved, by what they share: what each solved, the difference of the rates
    with its 95 % interval (Tango's score, two-sided), and McNemar's exact p. Raises ConfigError without pairs.
    """
    pairs = mine.keys() & theirs.keys()
    if not pairs:
        raise ConfigError("no scene was met by both; valid: runs of the same tasks and seeds")
    won = sum(mine[pair] and not theirs[pair] for pair in pairs)
    lost = sum(theirs[pair] and not mine[pair] for pair in pairs)
    return {
        "pairs": len(pairs),
        "this_solved": sum(mine[pair] for pair in pairs),
        "other_solved": sum(theirs[pair] for pair in pairs),
        "only_this": won,
        "only_other": lost,
        "difference": (won - lost) / len(pairs),
        "low": least_difference(lost, won, len(pairs), Z95),
        "high": -least_difference(won, lost, len(pairs), Z95),
        "mcnemar_p": mcnemar(lost, won),
    }


def compared(this: Sequence[Episode], other: Sequence[Episode]) -> list[dict[str, Any]]:
    """A row for each environment, method, refresh and ratio that both runs have. Raises ConfigError for none."""
    mine, theirs = _cells(this), _cells(other)
    cells = [cell for cell in mine if cell in theirs and mine[cell].keys() & theirs[cell].keys()]
    if not cells:
        raise ConfigError("the two have no episode of the same method and scene; valid: runs of the same seeds")
    return [{**dict(zip(CELL, cell)), **_row(mine[cell], theirs[cell])} for cell in sorted(cells)]


def _row(mine: Mapping[Hashable, Episode], theirs: Mapping[Hashable, Episode]) -> dict[str, Any]:
    """Success of all pairs, and `MEASURES` of those that both solved."""
    solved = [{key: bool(episode["success"]) for key, episode in some.items()} for some in (mine, theirs)]
    both = [key for key in mine.keys() & theirs.keys() if solved[0][key] and solved[1][key]]
    row = {**counted(*solved), "both_solved": len(both)}
    for name in MEASURES:
        for who, some in (("this", mine), ("other", theirs)):
            row[f"{who}_{name}_p50"] = statistics.median(some[key][name] for key in both) if both else None
    return row


def _cells(episodes: Sequence[Episode]) -> dict[tuple[Any, ...], dict[Hashable, Episode]]:
    found: dict[tuple[Any, ...], dict[Hashable, Episode]] = {}
    for episode in episodes:
        found.setdefault(tuple(episode[name] for name in CELL), {})[episode["task"], episode["seed"]] = episode
    return found


def main(arguments: list[str] | None = None) -> int:
    """Print the rows; with --json also write them."""
    parser = argparse.ArgumentParser(
        prog="python -m ecovla_ros.bench.success.paired", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("this", type=Path)
    parser.add_argument("other", type=Path)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args(arguments)
    try:
        return _run(chosen)
    except EcovlaError as error:
        sys.stderr.write(f"{error}\n")
        return 2


def _run(chosen: argparse.Namespace) -> int:
    (this, mine), (other, theirs) = (journal.read(journal.beside(path)) for path in (chosen.this, chosen.other))
    rows = compared(this, other)
    for row in rows:
        sys.stdout.write("  ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()))
        sys.stdout.write("\n")
    if chosen.json:
        settings = {
            "this": str(chosen.this),
            "other": str(chosen.other),
            "differ": journal.unlike(*(journal.beside(path) for path in (chosen.this, chosen.other))),
        }
        document.write(chosen.json, rows, settings, commits=list(dict.fromkeys((*theirs, *mine))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
