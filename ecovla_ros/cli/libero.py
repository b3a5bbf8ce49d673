"""What `--benchmark` means: `ecovla train --benchmark libero`, `ecovla eval --benchmark libero-object,...`."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from ecovla_ros.cli.options import plain
from ecovla_ros.config import ADAPTIVE
from ecovla_ros.errors import ConfigError, unknown

WORK, OUT = Path("data/libero"), Path("out/libero")
BENCHMARKS = ("libero",)


def add_train_options(parser: argparse.ArgumentParser) -> None:
    """What only a benchmark's training reads."""
    group = parser.add_argument_group("for --benchmark libero (in the environment that `make libero` makes)")
    group.add_argument("--benchmark", default="", help="train on a benchmark instead of our own tasks: libero")
    group.add_argument("--suites", default="libero-object", help="suites, separated by commas (default: %(default)s)")
    group.add_argument("--minutes", type=float, help="stop after so many minutes; the same command goes on from there")
    group.add_argument(
        "--steps", type=int, help="optimiser steps of everything together; a run may be gone on with to another number"
    )
    group.add_argument("--vision-steps", type=int, help="optimiser steps of the tower alone, before these")
    group.add_argument("--batch", type=int, help="frames of a step")
    group.add_argument(
        "--widen", type=int, default=2, help="MLPs so many times as wide as mini's (default: %(default)s)"
    )
    group.add_argument("--only-demos", action="store_true", help="drive the demonstrations, and end")


def add_eval_options(parser: argparse.ArgumentParser) -> None:
    """What only a benchmark's evaluation reads."""
    group = parser.add_argument_group("for --benchmark (in the environment that `make libero` makes)")
    group.add_argument(
        "--benchmark", default="", metavar="SUITES", help="suites of LIBERO, separated by commas, e.g. libero-object; "
        "--tasks are then numbers, --episodes counts initial states, --seed is the first of them (default: 0), and "
        "--method may also be oracle or shuffled",
    )  # fmt: skip
    group.add_argument(
        "--calibration", default="own", metavar="WHICH",
        help="what pruning starts from: own (the checkpoint's), none, weights (all energies alike), or suites joined "
        "by + whose demonstrations are looked at (default: %(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--demos", type=Path, default=WORK, help="folder with these demonstrations (default: %(default)s)"
    )
    group.add_argument(
        "--plan", type=Path, metavar="FILE",
        help="run the parts of a table that was decided before it was run, e.g. results/libero-plan.json; each goes on "
        "where it stopped, and leaves a result beside the plan",
    )  # fmt: skip
    group.add_argument("--parts", default="", metavar="NAMES", help="of the plan, these alone, separated by commas")
    group.add_argument(
        "--switched", type=int, default=0, metavar="LOOKS",
        help="before each episode another task of the suite is driven for so many looks, and the engine is not reset "
        "between them (default: %(default)s: no other task)",
    )  # fmt: skip
    group.add_argument("--server", default="", metavar="ADDRESS", help="ask `ecovla serve` there, by vla-eval's client")


def train(options: argparse.Namespace) -> int:
    """`ecovla train --benchmark libero`."""
    if options.benchmark not in BENCHMARKS:
        raise ConfigError(unknown("benchmark", options.benchmark, BENCHMARKS))
    from ecovla_ros.bench import document
    from ecovla_ros.train.libero import run as program

    settings, rows = _settings(options), []
    work, out = options.work or WORK, options.out or OUT

    def report(row: dict[str, Any]) -> None:
        rows.append(row)
        print("  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()), flush=True)

    stop = _stop(options.minutes)
    if options.only_demos:
        program.collect(work, settings, report, stop)
        return 0
    done = program.run(work, out, settings, report, stop)
    print(f"checkpoint: {out}" if done else f"stopped; the same command goes on from {work}")
    if options.json:
        document.write(options.json, rows[-1:], {**plain(options), "train": asdict(settings)}, progress=rows)
    return 0


def _settings(options: argparse.Namespace) -> Any:
    from ecovla_ros.train.libero import fit
    from ecovla_ros.train.libero.run import LiberoSettings

    asked = {"steps": options.steps, "vision_steps": options.vision_steps, "batch": options.batch}
    chosen = {name: value for name, value in asked.items() if value is not None}
    for name, value in chosen.items():
        if value < (0 if name == "vision_steps" else 1):
            raise ConfigError(f"--{name.replace('_', '-')} {value}; valid: a positive number")
    defaults = LiberoSettings()
    return replace(
        defaults,
        suites=tuple(name.strip().replace("-", "_") for name in options.suites.split(",")),
        episodes=defaults.episodes if options.episodes is None else options.episodes,
        widen=options.widen,
        device=options.device,
        processes=options.processes,
        fit=replace(fit.FitSettings(), seed=options.seed, **chosen),
        command=shlex.join(["ecovla", *sys.argv[1:]]),
    )


def _stop(minutes: float | None) -> Callable[[], bool]:
    """Whether the time is over, or somebody asked to stop: then what there is is saved first."""
    end = float("inf") if minutes is None else time.monotonic() + 60 * minutes
    asked = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: asked.set())
    return lambda: asked.is_set() or time.monotonic() >= end


def trials(options: argparse.Namespace) -> list[Any]:
    """The episodes of `ecovla eval --benchmark`. Raises ConfigError for a suite, task or state that does not exist."""
    from ecovla_ros.bench.libero import controls, episodes
    from ecovla_ros.cli.options import numbers
    from ecovla_ros.sim.libero import suites

    if options.environments != "calm" or options.latency is not None:
        raise ConfigError("--environments and --latency are of our own tasks: they do not go with --benchmark")
    if options.episodes < 1:
        raise ConfigError(f"{options.episodes} episodes; valid: 1 or more")
    if options.switched < 0:
        raise ConfigError(f"--switched {options.switched}; valid: a number of looks, or 0")
    chosen = controls.chosen(options.method.split(","), options.refresh.split(","), numbers(options.ratio))
    inside = [f"method {v.method}" for v in chosen if v.method in controls.RUN_AS]
    inside += ["--switched"] if options.switched else []
    if options.server and inside:
        raise ConfigError(f"{inside[0]} looks into the engine: it does not go with --server")
    fixed = sorted({v.method for v in chosen} - {"dense", "random", *ADAPTIVE, *controls.RUN_AS})
    if options.calibration == "none" and fixed:
        raise ConfigError(f"{', '.join(fixed)} without a calibration has no pattern; valid: --calibration weights")
    first = 0 if options.seed is None else options.seed
    return episodes.trials(
        chosen, options.benchmark.split(","), suites.task_numbers(options.tasks), range(first, first + options.episodes)
    )


def spread(options: argparse.Namespace) -> Any:
    """Where these episodes run."""
    from ecovla_ros.bench.libero import episodes, served
    from ecovla_ros.bench.success import workers

    if options.ray:
        raise ConfigError("--ray does not go with --benchmark; valid: --processes N")
    if options.server:
        answers: Any = partial(served.ServedAnswers, address=options.server)
    else:
        answers = partial(episodes.EngineAnswers, calibration=options.calibration, demos=options.demos)
    made = partial(episodes.LiberoRunner, answers=answers, switched=options.switched)
    return workers.processes(options.processes, made)


def head(options: argparse.Namespace) -> dict[str, Any]:
    """What these episodes depend on beside their trial."""
    if options.server:
        return {"benchmark": {"server": "vla-eval"}, "checkpoint": "the server's"}
    from ecovla_ros.bench.libero.calibrations import demonstrations

    looked_at = demonstrations(options.calibration, options.demos)
    more = {"demonstrations": looked_at, "switched": options.switched}
    return {"benchmark": {"calibration": options.calibration, **{k: v for k, v in more.items() if v}}}


def planned(options: argparse.Namespace, run: Callable[[argparse.Namespace], int]) -> int:
    """Every part of a plan, or those that are named, by `run`, with what the command line says of machine and time.

    An episode that an earlier part of the same benchmark has, of this plan or of those that it names as `earlier`, is
    taken from there. Raises ConfigError.
    """
    from ecovla_ros.bench.success.journal import beside

    named, earlier = _parts(options.plan), _earlier(options.plan)
    wanted = options.parts.split(",") if options.parts else list(named)
    for name in wanted:
        if name not in named:
            raise ConfigError(f"'{options.plan}': " + unknown("part", name, named))
    end = float("inf") if options.minutes is None else time.monotonic() + 60 * options.minutes
    for name, values in named.items():
        part = argparse.Namespace(**{**vars(options), **values, "plan": None, "parts": "", "resume": True})
        part.json = _result(options.plan, name)
        part.set = [*options.set, *values.get("set", ())]
        part.minutes = None if options.minutes is None else max(0.0, (end - time.monotonic()) / 60)
        before = earlier.setdefault(part.benchmark, [])
        part.reuse = [*options.reuse, *(journal for journal in before if journal.is_file())]
        before.append(beside(part.json))
        if name in wanted:
            print(f"{name}: {part.json}")
            run(part)
    return 0


def _result(plan: Path, part: str) -> Path:
    return plan.with_name(f"{plan.stem}-{part}.json")


def _earlier(plan: Path) -> dict[str, list[Path]]:
    """The journals of the plans that lie beside `plan` and that it names as earlier, by benchmark."""
    from ecovla_ros.bench.success.journal import beside

    named = _read(plan).get("earlier", [])
    try:
        others = [plan.with_name(name) for name in named] if isinstance(named, list) else None
    except (TypeError, ValueError):
        others = None
    if others is None:
        raise ConfigError(f"'{plan}', earlier {named!r}; valid: a list of files beside it")
    journals: dict[str, list[Path]] = {}
    for other in others:
        for name, values in _parts(other).items():
            journals.setdefault(values.get("benchmark", ""), []).append(beside(_result(other, name)))
    return journals


def _read(plan: Path) -> dict[str, Any]:
    from ecovla_ros import documents

    try:
        return dict(documents.read_json(plan))
    except OSError as error:
        raise ConfigError(f"cannot read the plan '{plan}': {error.strerror}") from error
    except (ValueError, TypeError) as error:
        raise ConfigError(f"'{plan}' is not a plan: parts, a list of objects with names ({error!r})") from error


def _parts(plan: Path) -> dict[str, dict[str, Any]]:
    """What each part of a plan says, by its name."""
    try:
        parts = _read(plan)["parts"]
        named = {str(part["name"]): {k: v for k, v in part.items() if k != "name"} for part in parts}
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"'{plan}' is not a plan: parts, a list of objects with names ({error!r})") from error
    if len(named) != len(parts):
        raise ConfigError(f"'{plan}': two parts have one name")
    for name, values in named.items():
        for key in values:
            if key not in PLANNED:
                raise ConfigError(f"'{plan}', part '{name}': " + unknown("key", key, PLANNED))
    return named


PLANNED = ("benchmark", "calibration", "method", "refresh", "ratio", "episodes", "seed", "tasks", "set", "margin",
           "switched")  # fmt: skip
"""What a part of a plan may say; the rest is of the command line."""
