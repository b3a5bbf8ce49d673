"""`ecovla eval` measures success in closed loop, with the same scenes for every method."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ecovla_ros import config
from ecovla_ros.cli import libero
from ecovla_ros.cli.options import add_common, numbers, plain, settings_of
from ecovla_ros.cli.terminal import ProgressLine, print_table
from ecovla_ros.errors import ConfigError

TASKS = "apple,bottle,banana"
COLUMNS = (
    "environment",
    "method",
    "refresh",
    "ratio",
    "task",
    "episodes",
    "successes",
    "low",
    "high",
    "seconds_p50",
    "trigger_rate",
    "only_dense",
    "only_this",
    "mcnemar_p",
    "verdict",
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_common(parser)
    libero.add_eval_options(parser)
    parser.add_argument(
        "--method", default="dense,ecovla", help="methods, separated by commas: " + ", ".join(config.METHODS)
    )
    parser.add_argument(
        "--refresh", default="probe", help="how adaptive methods measure: probe, dense, or both separated by a comma"
    )
    parser.add_argument("--ratio", default="0.25", help="pruning ratios, separated by commas (default: %(default)s)")
    parser.add_argument(
        "--tasks", default="", help=f"tasks, separated by commas (default: {TASKS}; of a benchmark: all)"
    )
    parser.add_argument(
        "--environments", default="calm", help="environments, separated by commas: calm, looks, shift, latency"
    )
    parser.add_argument(
        "--episodes", type=int, default=20, help="episodes of each task in each environment (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, help="seed of the first episode; the others follow (default: 1000)")
    parser.add_argument(
        "--margin", type=float, help="test that success is not below dense by more than this share, e.g. 0.02"
    )
    parser.add_argument(
        "--latency", type=Path, help="result file of `ecovla bench`, whose times the environment latency uses"
    )
    parser.add_argument(
        "--latency-factor",
        type=float,
        default=1.0,
        help="multiply these times, to stand for a model that is slower by this factor",
    )
    parser.add_argument(
        "--processes", type=int, default=1, help="how many processes share the episodes (default: %(default)s)"
    )
    parser.add_argument(
        "--ray", default="", metavar="ADDRESS", help="share the episodes on a Ray cluster: auto, local, ray://..."
    )
    parser.add_argument(
        "--minutes", type=float, help="begin no episode after this many minutes; the table then says how many there are"
    )
    parser.add_argument(
        "--resume", action="store_true", help="keep the episodes that an earlier run with the same --json has finished"
    )
    parser.add_argument(
        "--reuse",
        type=Path,
        nargs="+",
        default=(),
        metavar="JOURNAL",
        help="take those of these episodes that the *.episodes.jsonl of other runs have, where no setting that the "
        "method reads differs",
    )


def run(options: argparse.Namespace) -> int:
    """`ecovla eval`."""
    if options.plan is not None:
        return libero.planned(options, run)
    if options.parts:
        raise ConfigError("--parts names parts of a plan: it needs --plan FILE")
    from ecovla_ros import build
    from ecovla_ros.bench import document
    from ecovla_ros.bench.success import evaluation as success
    from ecovla_ros.bench.success import journal

    settings = settings_of(options)
    delays = _delays(options)
    todo = _trials(options)
    spread = _spread(options)
    book = None
    if options.json:
        late = "latency" in options.environments.split(",")
        head = {
            "config": asdict(settings),
            "checkpoint": journal.fingerprint(build.checkpoint_of(settings.policy)),
            "latency": str(options.latency) if late else "",
            "latency_factor": options.latency_factor if late else 1.0,
        }
        head |= libero.head(options) if options.benchmark else {}
        now = "" if options.minutes == 0 else document.commit()
        book = journal.Journal(journal.beside(options.json), head, options.resume, now, options.reuse, set(todo))
        print(f"{len(book.rows)} episodes are done already")
    elif options.resume or options.reuse:
        raise ConfigError("--resume and --reuse need --json FILE: the episodes lie beside it")
    done = {journal.trial_of(row) for row in book.rows} if book else set()
    progress = ProgressLine(sum(trial not in done for trial in todo), "episodes")
    try:
        episodes = success.run(
            settings, todo, spread, lambda row: progress.step(_outcome(row)), delays, book, _stop(options.minutes)
        )
    finally:
        if book is not None:
            book.close()
    rows = success.table(episodes, options.margin)
    if delays is not None:
        for row in rows:
            row["latency_ms"] = delays.mean_ms((row["method"], row["refresh"], row["ratio"]))
    print_table(rows, COLUMNS)
    if options.json:
        commits = {"commits": book.commits} if book else {}
        document.write(options.json, rows, {**plain(options), "config": asdict(settings)}, **commits)
    return 0


def _trials(options: argparse.Namespace) -> list[Any]:
    from ecovla_ros.bench.success import evaluation as success
    from ecovla_ros.bench.success import trials

    if options.benchmark:
        todo = libero.trials(options)
    else:
        chosen = trials.compared(options.method.split(","), options.refresh.split(","), numbers(options.ratio))
        names, places = (options.tasks or TASKS).split(","), options.environments.split(",")
        todo = trials.trials(chosen, names, places, options.episodes, 1000 if options.seed is None else options.seed)
    if options.margin is not None:
        if all(t.method != "dense" for t in todo):
            raise ConfigError("--margin compares with dense; add it: --method dense,...")
        first = todo[0].environment
        success.check_size(len({(t.task, t.seed) for t in todo if t.environment == first}), options.margin)
    return todo


def _stop(minutes: float | None) -> Callable[[], bool]:
    """Whether the time is over."""
    end = float("inf") if minutes is None else time.monotonic() + 60 * minutes
    return lambda: time.monotonic() >= end


def _delays(options: argparse.Namespace) -> Any:
    from ecovla_ros.bench.success import environments

    if options.latency is None:
        if "latency" in options.environments.split(","):
            raise ConfigError("the environment 'latency' needs measured times: --latency FILE, written by ecovla bench")
        return None
    return environments.measured(options.latency, options.latency_factor)


def _spread(options: argparse.Namespace) -> Any:
    from ecovla_ros.bench.success import workers as spread

    if options.benchmark:
        return libero.spread(options)
    return spread.ray(options.ray) if options.ray else spread.processes(options.processes)


def _outcome(row: dict[str, Any]) -> str:
    return f"{row['method']} {row['task']} seed {row['seed']}: {'solved' if row['success'] else 'not solved'}"
