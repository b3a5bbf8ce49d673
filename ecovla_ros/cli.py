"""`ecovla`: the programs that need no ROS, and the demo that does. Every figure in the README comes from here."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ecovla_ros import config
from ecovla_ros.errors import ConfigError, EcovlaError

Row = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; an `EcovlaError` becomes one line on standard error and exit code 2."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        if arguments[:1] == ["demo"]:
            return demo(arguments[1:])
        options = _parser().parse_args(arguments)
        return int(options.run(options))
    except EcovlaError as error:
        print(f"ecovla: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("ecovla: stopped", file=sys.stderr)
        return 130


def demo(arguments: list[str]) -> int:
    """Hand over to the only command that needs ROS 2."""
    try:
        import rclpy
    except ImportError as error:
        raise ConfigError(f"the demo needs ROS 2, and rclpy does not import ({error}); run: make demo") from error
    from ecovla_ros.nodes import demo as program

    del rclpy
    return int(program.main(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ecovla", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("demo", help="simulator, policy and guard over ROS 2 (see: ecovla demo --help)")
    _eval_parser(commands.add_parser("eval", help="closed-loop success, paired across methods"))
    _bench_parser(commands.add_parser("bench", help="latency, dense and pruned, interleaved"))
    _train_parser(commands.add_parser("train", help="demonstrations and the built-in policy, from scratch"))
    _replay_parser(commands.add_parser("replay", help="the policy over a recorded bag, deterministic"))
    return parser


def _common(parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace], int]) -> None:
    parser.add_argument("--config", default="mini_sim.yaml", help="YAML file, or the name of a shipped one")
    parser.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="override a configuration value"
    )
    parser.add_argument("--json", type=Path, help="write rows, settings, machine, versions and commit to this file")
    parser.set_defaults(run=run)


def _eval_parser(parser: argparse.ArgumentParser) -> None:
    _common(parser, evaluate)
    parser.add_argument("--method", default="dense,ecovla", help="comma-separated: " + ", ".join(config.METHODS))
    parser.add_argument("--ratio", default="0.25", help="comma-separated pruning ratios")
    parser.add_argument("--tasks", default="apple,bottle,banana", help="comma-separated task names")
    parser.add_argument("--environments", default="calm", help="comma-separated: calm, looks, shift")
    parser.add_argument("--episodes", type=int, default=20, help="per task and environment")
    parser.add_argument("--seed", type=int, default=1000, help="seed of the first episode")
    parser.add_argument("--processes", type=int, default=1, help="episodes run in so many processes")


def _bench_parser(parser: argparse.ArgumentParser) -> None:
    _common(parser, bench)
    parser.add_argument("--model", default="mini", help="name of the model")
    parser.add_argument("--method", default="dense,ecovla,static", help="comma-separated methods")
    parser.add_argument("--ratios", default="0,0.25,0.4", help="comma-separated pruning ratios")
    parser.add_argument("--frames", type=int, default=300, help="measured frames per variant")
    parser.add_argument("--warm-up", type=int, default=20, help="frames before measuring")
    parser.add_argument("--seed", type=int, default=0, help="seed of the scripted observations")


def _train_parser(parser: argparse.ArgumentParser) -> None:
    _common(parser, train)
    parser.add_argument("--work", type=Path, default=Path("data/mini"), help="folder of demonstrations and stages")
    parser.add_argument("--out", type=Path, default=Path("out/mini"), help="folder of the checkpoint")
    parser.add_argument("--episodes", type=int, default=900, help="demonstrations")
    parser.add_argument("--vision-minutes", type=float, default=12.0)
    parser.add_argument("--policy-minutes", type=float, default=45.0)
    parser.add_argument("--processes", type=int, default=2, help="collecting processes")
    parser.add_argument("--threads", type=int, default=2, help="training threads")
    parser.add_argument("--seed", type=int, default=0)


def _replay_parser(parser: argparse.ArgumentParser) -> None:
    _common(parser, replay)
    parser.add_argument("bag", type=Path, help="rosbag2 folder or MCAP file")
    parser.add_argument("--method", default="", help="override prune.method")
    parser.add_argument("--ratio", type=float, help="override prune.ratio")
    parser.add_argument("--map", action="append", default=[], metavar="INPUT=TOPIC", help="topic of an input")
    parser.add_argument("--golden", type=Path, help="compare the chunks with those of an earlier --json file")


def settings_of(options: argparse.Namespace) -> config.Config:
    """Configuration file plus overrides. Raises ConfigError."""
    path = Path(options.config)
    loaded = config.load(path if path.is_file() else config.shipped(options.config))
    return config.override_texts(loaded, options.set)


def numbers(text: str) -> list[float]:
    """Comma-separated numbers. Raises ConfigError."""
    try:
        return [float(part) for part in text.split(",") if part]
    except ValueError as error:
        raise ConfigError(f"'{text}' is not a list of numbers such as 0.25,0.4") from error


def evaluate(options: argparse.Namespace) -> int:
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
        document.write(options.json, rows, {**vars_of(options), "config": asdict(settings), "per_episode": episodes})
    return 0


def bench(options: argparse.Namespace) -> int:
    """`ecovla bench`."""
    from ecovla_ros.bench import document, latency

    settings = config.override(settings_of(options), **{"policy.model": options.model})
    progress = Progress(options.frames + options.warm_up, "frames")
    rows = latency.measure(
        settings, options.method.split(","), numbers(options.ratios), options.frames, options.warm_up, options.seed,
        lambda done, total: progress.to(done),
    )
    print_table(rows, ("scope", "method", "ratio", "frames", "n", "mean_ms", "p50_ms", "p95_ms", "p99_ms", "speedup",
                       "mac_ratio", "exposed_ms", "trigger_rate"))
    if options.json:
        document.write(options.json, rows, {**vars_of(options), "config": asdict(settings)})
    return 0


def train(options: argparse.Namespace) -> int:
    """`ecovla train`."""
    from ecovla_ros.bench import document
    from ecovla_ros.train import demos, run

    settings = run.TrainSettings(
        demos=replace(demos.DemoSettings(), episodes=options.episodes), processes=options.processes,
        threads=options.threads, vision_minutes=options.vision_minutes, policy_minutes=options.policy_minutes,
        seed=options.seed,
    )
    rows: list[Row] = []

    def report(row: Row) -> None:
        rows.append(row)
        print("  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()), flush=True)

    out = run.run(options.work, options.out, settings, report)
    print(f"checkpoint: {out}")
    if options.json:
        document.write(options.json, rows, {**vars_of(options), "train": asdict(settings)})
    return 0


def replay(options: argparse.Namespace) -> int:
    """`ecovla replay`."""
    from ecovla_ros.bags import replay as program
    from ecovla_ros.bench import document

    settings = settings_of(options)
    changes: Row = {}
    if options.method:
        changes["prune.method"] = options.method
    if options.ratio is not None:
        changes["prune.ratio"] = options.ratio
    rows = program.run(config.override(settings, **changes), options.bag, program.mapping(options.map))
    print_table(rows[-10:], ("stamp_ns", "kind", "similarity", "triggered", "total_ms", "joint_1", "gripper"))
    print(f"{len(rows)} frames")
    if options.json:
        document.write(options.json, rows, vars_of(options))
    return program.compare(rows, options.golden) if options.golden else 0


def vars_of(options: argparse.Namespace) -> Row:
    """The command line as plain values."""
    return {k: str(v) if isinstance(v, Path) else v for k, v in vars(options).items() if k != "run"}


def _outcome(row: Row) -> str:
    return f"{row['method']} {row['task']} seed {row['seed']}: {'solved' if row['success'] else 'not solved'}"


class Progress:
    """One line on standard error that tells how far a command is and how long it will take."""

    def __init__(self, total: int, what: str) -> None:
        self._total, self._what, self._done, self._start = total, what, 0, time.monotonic()

    def step(self, note: str = "") -> None:
        """One more is done."""
        self.to(self._done + 1, note)

    def to(self, done: int, note: str = "") -> None:
        """So many are done."""
        self._done = done
        left = (time.monotonic() - self._start) / done * (self._total - done)
        end = "\n" if done == self._total else ""
        print(f"\r{done}/{self._total} {self._what}, {left:.0f} s left  {note:<50.50}", end=end, file=sys.stderr, flush=True)


def print_table(rows: Sequence[Row], columns: Sequence[str]) -> None:
    """Rows as aligned text; figures to four digits, missing ones as '-'."""
    cells = [[_cell(row.get(c)) for c in columns] for row in rows]
    widths = [max(len(c), *(len(r[i]) for r in cells)) if cells else len(c) for i, c in enumerate(columns)]
    for line in (list(columns), *cells):
        print("  ".join(text.rjust(width) for text, width in zip(line, widths)))


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
