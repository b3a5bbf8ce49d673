"""`ecovla eval`: closed-loop success, paired across methods."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from ecovla_ros import config
from ecovla_ros.cli.options import add_common, numbers, plain, settings_of
from ecovla_ros.cli.terminal import Progress, print_table


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_common(parser)
    parser.add_argument("--method", default="dense,ecovla", help="comma-separated: " + ", ".join(config.METHODS))
    parser.add_argument("--ratio", default="0.25", help="comma-separated pruning ratios")
    parser.add_argument("--tasks", default="apple,bottle,banana", help="comma-separated task names")
    parser.add_argument("--environments", default="calm", help="comma-separated: calm, looks, shift")
    parser.add_argument("--episodes", type=int, default=20, help="per task and environment")
    parser.add_argument("--seed", type=int, default=1000, help="seed of the first episode")
    parser.add_argument("--processes", type=int, default=1, help="episodes run in so many processes")


def run(options: argparse.Namespace) -> int:
    """`ecovla eval`."""
    from ecovla_ros.bench import document, success

    settings = settings_of(options)
    if options.processes > 1:
        settings = config.override(settings, **{"policy.threads": 1})
    todo = success.trials(
        options.method.split(","), numbers(options.ratio), options.tasks.split(","), options.environments.split(","),
        options.episodes, options.seed,
    )
    progress = Progress(len(todo), "episodes")
    episodes = success.run(settings, todo, options.processes, lambda row: progress.step(_outcome(row)))
    rows = success.table(episodes)
    print_table(rows, ("environment", "method", "ratio", "task", "episodes", "successes", "low", "high", "steps_p50",
                       "trigger_rate", "only_dense", "only_this", "mcnemar_p"))
    if options.json:
        document.write(options.json, rows, {**plain(options), "config": asdict(settings), "per_episode": episodes})
    return 0


def _outcome(row: dict[str, Any]) -> str:
    return f"{row['method']} {row['task']} seed {row['seed']}: {'solved' if row['success'] else 'not solved'}"
