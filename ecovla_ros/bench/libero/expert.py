"""How often LIBERO's scripted expert solves each task: `python -m ecovla_ros.bench.libero.expert --json FILE`.

Runs in the environment that `make libero` makes. Tasks that are done already in FILE are kept, so that a run that was
interrupted goes on; tasks that the expert cannot do are left out, by name and with the reason.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ecovla_ros import documents
from ecovla_ros.bench import document
from ecovla_ros.bench.libero.program import exit_code
from ecovla_ros.bench.success.statistics import wilson
from ecovla_ros.errors import ConfigError
from ecovla_ros.sim.libero import suites
from ecovla_ros.sim.libero.expert import LiberoExpert, able
from ecovla_ros.sim.libero.scene import LiberoScene

SUITES = ("libero_object", "libero_spatial", "libero_goal")


def measure(task: suites.LiberoTask, states: Sequence[int]) -> dict[str, Any]:
    """One row: success over these initial states, each with its own count of steps; or why the task is left out."""
    scene = LiberoScene(task)
    try:
        row: dict[str, Any] = {"suite": task.suite, "task": task.index, "instruction": task.instruction}
        row["commit"] = document.commit()
        reason = able(scene)
        if reason:
            return row | {"episodes": 0, "left_out": reason}
        began = time.process_time()
        outcomes = [episode(scene, state) for state in states]
        solved = [steps for done, steps in outcomes if done]
        low, high = wilson(len(solved), len(outcomes))
        return row | {
            "episodes": len(outcomes), "successes": len(solved), "low": low, "high": high,
            "steps_p50": statistics.median(solved) if solved else None,
            "failed_states": [state for state, (done, _) in zip(states, outcomes) if not done],
            "cpu_s": round((time.process_time() - began) / len(outcomes), 2),
        }  # fmt: skip
    finally:
        scene.close()


def episode(scene: LiberoScene, state: int) -> tuple[bool, int]:
    """One episode from an initial state of the benchmark: solved or not, and its control steps."""
    scene.begin(state, state)
    expert, done = LiberoExpert(scene), False
    while not done and scene.steps < scene.task.max_steps:
        done = scene.step(expert.act())
    return done, scene.steps


def main(arguments: list[str] | None = None) -> int:
    """Print a row a task; with --json also write the document, after every task."""
    parser = argparse.ArgumentParser(prog="python -m ecovla_ros.bench.libero.expert", description=__doc__)
    parser.add_argument("--suites", default=",".join(SUITES), help="suites, separated by commas (default: %(default)s)")
    parser.add_argument("--states", type=int, default=10, help="initial states of each task (default: %(default)s)")
    parser.add_argument("--minutes", type=float, help="begin no task after this many minutes")
    parser.add_argument("--json", type=Path, help="file to write, and to go on from")
    chosen = parser.parse_args(arguments)
    return exit_code(lambda: _run(chosen))


def _run(chosen: argparse.Namespace) -> int:
    settings = {"suites": chosen.suites, "states": chosen.states, "policy": "scripted expert, privileged state"}
    rows = _earlier(chosen.json, settings)
    have = {(row["suite"], row["task"]) for row in rows}
    end = time.monotonic() + 60 * (chosen.minutes if chosen.minutes is not None else float("inf"))
    for task in [task for suite in chosen.suites.split(",") for task in suites.tasks(suite)]:
        suites.check_state(task, chosen.states - 1)
        if (task.suite, task.index) in have or time.monotonic() >= end:
            continue
        row = measure(task, range(chosen.states))
        said = row.get("left_out") or f"{row['successes']} of {row['episodes']}"
        sys.stdout.write(f"{task.name:20} {said:40} {task.instruction}\n")
        sys.stdout.flush()
        rows.append(row)
        if chosen.json:
            document.write(chosen.json, rows, settings)
    return 0


def _earlier(path: Path | None, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows that a run with the same settings has left. Raises ConfigError for a file of other settings."""
    if path is None or not path.is_file():
        return []
    try:
        before = documents.read_json(path)
        there, rows = before["settings"], [{"commit": before["commit"], **row} for row in before["rows"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"'{path}' is no result of this program ({error}); name another file") from error
    if there != settings:
        raise ConfigError(f"'{path}' is of other settings ({there}); remove it, or name another file")
    return rows


if __name__ == "__main__":
    sys.exit(main())
