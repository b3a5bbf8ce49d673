"""`ecovla train`: demonstrations and the built-in policy, from scratch or from a checkpoint, and its evaluation."""

from __future__ import annotations

import argparse
import shlex
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ecovla_ros import config
from ecovla_ros.cli import libero
from ecovla_ros.cli.options import add_common, plain, settings_of
from ecovla_ros.cli.terminal import ProgressLine, duration, print_table

Row = dict[str, Any]
WORK, OUT = Path("data/mini"), Path("out/mini")
EPISODES = 900


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_common(parser)
    libero.add_train_options(parser)
    parser.add_argument(
        "--work",
        type=Path,
        help=f"folder for demonstrations and unfinished stages (default: {WORK}; of a benchmark {libero.WORK})",
    )
    parser.add_argument(
        "--out", type=Path, help=f"folder for the checkpoint (default: {OUT}; of a benchmark {libero.OUT})"
    )
    parser.add_argument("--start", default="", metavar="FOLDER", help="go on from this checkpoint; empty: from scratch")
    parser.add_argument(
        "--episodes",
        type=int,
        help=f"how many demonstrations the expert gives (default: {EPISODES}; of a benchmark, of each task: 90)",
    )
    parser.add_argument(
        "--looks",
        type=float,
        default=0.25,
        help="share of the episodes with random colours, light and cameras (default: %(default)s)",
    )
    parser.add_argument(
        "--corrections",
        type=int,
        default=150,
        help="episodes that the policy drives and the expert labels (default: %(default)s)",
    )
    parser.add_argument("--bags", type=Path, nargs="*", default=[], help="train on these rosbags of teleoperation")
    parser.add_argument(
        "--map", action="append", default=[], metavar="INPUT=TOPIC", help="read an input from this topic of the bags"
    )
    parser.add_argument("--lerobot", type=Path, nargs="*", default=[], help="train on these LeRobot data sets")
    parser.add_argument(
        "--camera",
        action="append",
        default=[],
        metavar="CAMERA=KEY",
        help="which pictures of the data sets a camera has",
    )
    parser.add_argument(
        "--export-lerobot",
        type=Path,
        metavar="FOLDER",
        help="write all demonstrations to this folder as a LeRobot data set, and end",
    )
    parser.add_argument("--vision-minutes", type=float, default=12.0, help="time for the vision stage, min")
    parser.add_argument("--policy-minutes", type=float, default=45.0, help="time for the policy stage, min")
    parser.add_argument("--together-minutes", type=float, default=40.0, help="time for all parts together, min")
    parser.add_argument(
        "--processes",
        type=int,
        default=2,
        help="how many processes collect and, on a CPU, train (default: %(default)s)",
    )
    parser.add_argument(
        "--threads", type=int, default=1, help="threads of torch in the vision stage (default: %(default)s)"
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    parser.add_argument(
        "--evaluate",
        type=int,
        default=20,
        help="episodes of each task in the evaluation at the end, calm and looks; 0: none",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random (default: %(default)s)")


def run(options: argparse.Namespace) -> int:
    """`ecovla train`."""
    if options.benchmark:
        return libero.train(options)
    options.work, options.out = options.work or WORK, options.out or OUT
    options.episodes = EPISODES if options.episodes is None else options.episodes
    from ecovla_ros.bench import document
    from ecovla_ros.train import run as program

    settings = _settings(options)
    _import(options, settings.demos)
    if options.export_lerobot:
        return _export(options, settings)
    rows: list[Row] = []

    def report(row: Row) -> None:
        rows.append(row)
        print("  ".join(f"{name} {_shown(name, value)}" for name, value in row.items()), flush=True)

    out = program.run(options.work, options.out, settings, report)
    print(f"checkpoint: {out}")
    table = _evaluate(options, out)
    if options.json:
        document.write(options.json, table or rows, {**plain(options), "train": asdict(settings)}, progress=rows)
    return 0


def _shown(name: str, value: Any) -> str:
    if name == "seconds_left":
        return duration(value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _settings(options: argparse.Namespace) -> Any:
    from ecovla_ros.train import run as program
    from ecovla_ros.train.frames import DemoSettings

    demos = replace(DemoSettings(), episodes=options.episodes, looks=options.looks)
    return program.TrainSettings(
        demos=demos,
        processes=options.processes,
        device=options.device,
        threads=options.threads,
        start=options.start,
        vision_minutes=options.vision_minutes,
        policy_minutes=options.policy_minutes,
        corrections=options.corrections,
        together_minutes=options.together_minutes,
        seed=options.seed,
        command=shlex.join(["ecovla", *sys.argv[1:]]),
    )


def _import(options: argparse.Namespace, demos: Any) -> None:
    """Recorded episodes of bags and LeRobot folders become shards of the data set."""
    from ecovla_ros.bags import inputs
    from ecovla_ros.bags.demonstrations import GRIPPER, demonstrations
    from ecovla_ros.models.data.normalise import ends_of
    from ecovla_ros.train import lerobot
    from ecovla_ros.train.dataset import PERIOD_NS, import_demonstrations
    from ecovla_ros.train.demos import meta_of
    from ecovla_ros.types import CAMERAS

    topics, settings = inputs.mapping(options.map, (*CAMERAS, GRIPPER)), settings_of(options)
    sources = [(path, demonstrations(path, topics, settings.node, arm=settings.arm)) for path in options.bags]
    how = lerobot.Reading(
        lerobot.cameras(options.camera), settings.arm.joints, ends_of("gripper", settings.policy.embodiment.gripper),
        PERIOD_NS * 1e-9,
    )  # fmt: skip
    sources += [(path, lerobot.read(path, how)) for path in options.lerobot]
    for number, (path, episodes) in enumerate(sources):
        folder = options.work / "demos" / f"shard-recorded-{number:03d}"
        count = import_demonstrations(folder, episodes, {**meta_of(demos), "source": str(path)})
        print(f"{path}: {count} episodes")


def _export(options: argparse.Namespace, settings: Any) -> int:
    from ecovla_ros.train import demos, lerobot
    from ecovla_ros.train.dataset import Dataset

    if settings.demos.episodes:
        bar = ProgressLine(settings.demos.episodes, "episodes")
        demos.collect(options.work / "demos", settings.demos, settings.processes, lambda done, *_: bar.to(max(done, 1)))
    count = lerobot.write(options.export_lerobot, Dataset(options.work / "demos").demonstrations())
    print(f"{count} episodes: {options.export_lerobot}")
    return 0


def _evaluate(options: argparse.Namespace, out: Path) -> list[Row]:
    """Dense success of the new checkpoint on held-out seeds."""
    from ecovla_ros.bench.success import evaluation as success
    from ecovla_ros.bench.success import trials
    from ecovla_ros.bench.success import workers as spread
    from ecovla_ros.sim.tasks import TASKS

    if not options.evaluate:
        return []
    settings = config.override(settings_of(options), **{"policy.checkpoint": str(out)})
    dense = trials.compared(["dense"], ["probe"], [0.0])
    todo = trials.trials(dense, list(TASKS), ["calm", "looks"], options.evaluate, 1000)
    bar = ProgressLine(len(todo), "episodes")
    rows = success.table(success.run(settings, todo, spread.processes(options.processes), lambda row: bar.step()))
    print_table(rows, ("environment", "task", "episodes", "successes", "low", "high", "seconds_p50"))
    return rows
