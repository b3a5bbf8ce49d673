"""One episode frame by frame: `python -m ecovla_ros.bench.success.trace --json results/trace.json`.

What the trigger saw and did, and how much of the pattern each refresh exchanged, in an episode with an event.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from typing import Any

from ecovla_ros import config
from ecovla_ros.bench import document
from ecovla_ros.bench.success.drive import TICK_S, Runner
from ecovla_ros.bench.success.environments import schedule
from ecovla_ros.bench.success.trials import Trial
from ecovla_ros.engine.engine import Engine, Step
from ecovla_ros.sim.tasks import TASKS
from ecovla_ros.types import Observation


class Trace:
    """Collects a row a frame; hand `watch` to `Runner.run`."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self._kept: dict[str, set[int]] = {}

    def watch(self, engine: Engine, seen: Observation, step: Step, tick: int) -> None:
        """One frame, and the pattern it leaves for the next."""
        report = step.report
        kept = {key: set(engine.patterns()[key][:count]) for key, count in engine.sparse_plan.kept.items()}
        self.rows.append(
            {
                "frame": len(self.rows),
                "seconds": round(tick * TICK_S, 2),
                "similarity": _plain(report.similarity),
                "threshold": _plain(report.threshold),
                "triggered": report.triggered,
                "kind": report.kind,
                "pattern_id": report.pattern_id,
                "churn": churn(self._kept, kept),
                "gripper": _plain(seen.gripper),
                "gripper_first": _plain(step.chunk.gripper[0]),
                "gripper_last": _plain(step.chunk.gripper[-1]),
            }
        )
        self._kept = kept


def churn(before: dict[str, set[int]], after: dict[str, set[int]]) -> float:
    """Share of the kept channels that were not kept before; 0 on a first frame."""
    total = sum(map(len, after.values()))
    if not before or not total:
        return 0.0
    return sum(len(after[key] - before[key]) for key in after) / total


def measure(settings: config.Config, trial: Trial) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows of `trial`, and its outcome with the events that happened (seconds and kind)."""
    trace = Trace()
    outcome = Runner(settings).run(trial, trace.watch)
    events = schedule(trial.environment, trial.seed, TASKS[trial.task].object)
    return trace.rows, {**outcome, "events": [[e.tick * TICK_S, e.kind] for e in events]}


def _plain(value: float) -> float | None:
    return None if value != value else round(float(value), 6)


def main(arguments: list[str] | None = None) -> int:
    """Print the frames that triggered; with --json write the document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", default="bottle")
    parser.add_argument("--environment", default="shift")
    parser.add_argument("--method", default="ecovla")
    parser.add_argument("--refresh", default="probe")
    parser.add_argument("--ratio", type=float, default=0.25)
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="as of every command")
    parser.add_argument("--json", default="", help="file to write")
    chosen = parser.parse_args(arguments)
    shipped = config.override(config.load(config.shipped("mini_sim.yaml")), **{"policy.threads": 1})
    settings = config.override_texts(shipped, chosen.set)
    trial = Trial(chosen.method, chosen.refresh, chosen.ratio, chosen.task, chosen.environment, chosen.seed)
    rows, outcome = measure(settings, trial)
    for row in rows:
        if row["triggered"]:
            sys.stdout.write(f"{row['seconds']:6.2f} s  similarity {row['similarity']}  churn {row['churn']:.3f}\n")
    if chosen.json:
        document.write(chosen.json, rows, {**vars(chosen), "config": asdict(settings)}, outcome=outcome)
    return 0


if __name__ == "__main__":
    sys.exit(main())
