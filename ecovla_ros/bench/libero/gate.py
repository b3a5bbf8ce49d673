"""How far patterns move: `python -m ecovla_ros.bench.libero.gate --checkpoint FOLDER --json FILE`.

Before anything is compared in closed loop: do the best channels differ between tasks, scenes and phases of an episode,
and what does a pattern lose that does not follow? The policy drives dense; every look is recorded, and
patterns are compared on these records. No pattern drives. See `movement` for what the numbers are.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ecovla_ros import config
from ecovla_ros.bench import document
from ecovla_ros.bench.libero import episodes, movement
from ecovla_ros.bench.libero.looks import LookRecorder
from ecovla_ros.bench.libero.program import exit_code
from ecovla_ros.bench.success.trials import Trial
from ecovla_ros.errors import ConfigError
from ecovla_ros.prune.site import Site
from ecovla_ros.sim.libero import suites

RATIOS = (0.25, 0.5, 0.75, 0.85)


def looks_of(runner: Any, answers: Any, todo: Sequence[Trial]) -> Iterator[tuple[dict[str, Any], list[movement.Look]]]:
    """Every episode's row and recorded looks, the policy driving dense."""
    for trial in todo:
        recorder = LookRecorder(answers.policy, trial.seed)
        answers.watch = recorder
        row = runner.run(trial)
        count = len(recorder.looks)
        yield (
            row,
            [
                movement.Look(trial.task, trial.seed, min(2, 3 * i // max(count, 1)), energy, sampled)
                for i, (energy, sampled) in enumerate(recorder.looks)
            ],
        )


def rows_of(sites: Sequence[Site], looks: Sequence[movement.Look], ratios: Sequence[float]) -> list[dict[str, Any]]:
    """One row for each site and ratio: overlaps, and what patterns keep."""
    rows = []
    for site in sites:
        for ratio in ratios:
            shares = {f"kept {name}": value for name, value in movement.kept_shares(site, looks, ratio).items()}
            same = {f"overlap {name}": value for name, value in movement.overlaps(site, looks, ratio).items()}
            rows.append({"site": site.key, "group": site.group, "ratio": ratio, **same, **shares})
    return rows


def main(arguments: list[str] | None = None) -> int:
    """Print the means by group; with --json also write the document."""
    parser = argparse.ArgumentParser(prog="python -m ecovla_ros.bench.libero.gate", description=__doc__)
    parser.add_argument("--checkpoint", required=True, help="folder of the policy")
    parser.add_argument("--suites", default="libero-object", help="suites, separated by commas (default: %(default)s)")
    parser.add_argument("--tasks", default="", help="their tasks by number, separated by commas (default: all)")
    parser.add_argument("--states", type=int, default=2, help="initial states of each task (default: %(default)s)")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args(arguments)
    return exit_code(lambda: _run(chosen))


def _run(chosen: argparse.Namespace) -> int:
    loaded = config.load(config.shipped("mini_sim.yaml"))
    settings = config.override(loaded, **{"policy.checkpoint": chosen.checkpoint, "policy.threads": 1})
    numbers = suites.task_numbers(chosen.tasks)
    if chosen.states < 1:
        raise ConfigError(f"{chosen.states} states; valid: 1 or more")
    tasks = [t for suite in chosen.suites.split(",") for t in suites.chosen(suite, numbers)]
    todo = [Trial("dense", "none", 0.0, t.name, t.suite, s) for t in tasks for s in range(chosen.states)]
    answers = episodes.EngineAnswers(settings)
    runner = episodes.LiberoRunner(settings, answers=lambda _: answers)
    outcomes, looks = [], []
    for row, some in looks_of(runner, answers, todo):
        outcomes.append(row)
        looks += some
        sys.stdout.write(f"{row['task']} state {row['seed']}: {'solved' if row['success'] else 'not solved'}\n")
    rows = rows_of(answers.policy.sites, looks, RATIOS)
    _print(rows)
    if chosen.json:
        told = {
            "checkpoint": chosen.checkpoint,
            "suites": chosen.suites,
            "tasks": chosen.tasks,
            "states": chosen.states,
        }
        solved = {"episodes": len(outcomes), "solved": sum(row["success"] for row in outcomes), "looks": len(looks)}
        document.write(chosen.json, rows, told | solved, episodes=outcomes)
    return 0


def _print(rows: Sequence[dict[str, Any]]) -> None:
    for group in dict.fromkeys(row["group"] for row in rows):
        for ratio in dict.fromkeys(row["ratio"] for row in rows):
            some = [row for row in rows if row["group"] == group and row["ratio"] == ratio]
            names = [n for n in some[0] if n.startswith(("overlap", "kept"))]
            values = {n: [row[n] for row in some if row.get(n) is not None] for n in names}
            told = "  ".join(f"{n} {sum(v) / len(v):.3f}" for n, v in values.items() if v)
            sys.stdout.write(f"{group:12} {ratio:.2f}  {told}\n")


if __name__ == "__main__":
    sys.exit(main())
