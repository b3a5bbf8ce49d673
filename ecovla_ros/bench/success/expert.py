"""How often the scripted expert solves each task: `python -m ecovla_ros.bench.success.expert --json FILE`."""

from __future__ import annotations

import argparse
import statistics
import sys
from typing import Any

from ecovla_ros.bench import document
from ecovla_ros.bench.pool import pool
from ecovla_ros.bench.success.statistics import wilson
from ecovla_ros.sim.expert import Expert
from ecovla_ros.sim.tasks import TASKS
from ecovla_ros.sim.world import World

MAX_STEPS = 250


def measure(episodes_per_task: int = 200, seed: int = 50_000, processes: int = 1) -> list[dict[str, Any]]:
    """One row a task over the seeds `seed` ... `seed + episodes_per_task - 1`.

    Keys: task, environment, episodes, successes, low, high (95 % Wilson), steps_p50 (of the successes).
    """
    jobs = [(task, seed + i) for task in TASKS for i in range(episodes_per_task)]
    if processes > 1:
        with pool(processes) as running:
            outcomes = list(running.map(episode, *zip(*jobs), chunksize=max(1, len(jobs) // (8 * processes))))
    else:
        outcomes = [episode(*job) for job in jobs]
    return [_row(task, [o for job, o in zip(jobs, outcomes) if job[0] == task]) for task in TASKS]


_WORLDS: list[World] = []


def episode(task: str, seed: int) -> tuple[bool, int]:
    """One episode of the expert: solved or not, and the steps of 100 ms it took."""
    if not _WORLDS:
        _WORLDS.append(World())
    world = _WORLDS[0]
    world.reset(task, seed)
    expert = Expert(world)
    for step in range(1, MAX_STEPS + 1):
        if world.step(*expert.act()):
            return True, step
    return False, MAX_STEPS


def _row(task: str, outcomes: list[tuple[bool, int]]) -> dict[str, Any]:
    steps = [count for solved, count in outcomes if solved]
    low, high = wilson(len(steps), len(outcomes))
    return {
        "task": task,
        "environment": "sim",
        "episodes": len(outcomes),
        "successes": len(steps),
        "low": low,
        "high": high,
        "steps_p50": statistics.median(steps) if steps else None,
    }


def main(arguments: list[str] | None = None) -> int:
    """Print the table; with --json also write the document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=200, help="episodes per task")
    parser.add_argument("--seed", type=int, default=50_000, help="first seed")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--json", default="", help="file to write")
    chosen = parser.parse_args(arguments)
    rows = measure(chosen.episodes, chosen.seed, chosen.processes)
    for row in rows:
        interval = f"{row['low']:.3f} .. {row['high']:.3f}"
        counts = f"{row['task']:<8} {row['successes']}/{row['episodes']}"
        sys.stdout.write(f"{counts}  95 % {interval}  median steps {row['steps_p50']}\n")
    if chosen.json:
        settings = {"episodes": chosen.episodes, "seed": chosen.seed, "max_steps": MAX_STEPS, "policy": "expert"}
        document.write(chosen.json, rows, settings)
    return 0


if __name__ == "__main__":
    sys.exit(main())
