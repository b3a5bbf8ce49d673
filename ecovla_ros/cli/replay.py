"""`ecovla replay` runs the policy over a recorded bag. The same bag always gives the same answers."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ecovla_ros import config
from ecovla_ros.cli.options import add_common, plain, settings_of
from ecovla_ros.cli.terminal import print_table
from ecovla_ros.errors import ConfigError


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_common(parser)
    parser.add_argument("bag", type=Path, help="a rosbag2 folder, or an .mcap or .db3 file")
    parser.add_argument("--method", default="", help="replaces prune.method: " + ", ".join(config.METHODS))
    parser.add_argument("--ratio", type=float, help="replaces prune.ratio")
    parser.add_argument("--refresh", default="", help="replaces prune.refresh: " + ", ".join(config.REFRESHES))
    parser.add_argument(
        "--map",
        action="append",
        default=[],
        metavar="INPUT=TOPIC",
        help="read an input (third_person, wrist, joint_states, instruction) from this topic of the bag",
    )
    parser.add_argument("--instruction", default="", help="the task in words, in place of the one in the bag")
    parser.add_argument(
        "--rate",
        default="0",
        help="answer at most this many frames a second of the bag; policy: at the policy's rate; 0: every frame",
    )
    parser.add_argument(
        "--pace",
        choices=("fast", "real"),
        default="fast",
        help="fast: as fast as the machine can; real: a second of the bag takes a second",
    )
    parser.add_argument(
        "--guard",
        action="store_true",
        help="also send the chunks through the guard; the recorded arm does not follow what it commands",
    )
    parser.add_argument("--out", type=Path, help="write a new bag with the inputs and the answers to this folder")
    parser.add_argument(
        "--golden",
        type=Path,
        help="compare the chunks with those in this file, or in the --json file of an earlier run",
    )
    parser.add_argument(
        "--regenerate", action="store_true", help="write the --golden file anew instead of comparing with it"
    )


def run(options: argparse.Namespace) -> int:
    """`ecovla replay`. Exit code 1: the chunks differ from the golden ones. 2: the bag is damaged."""
    from ecovla_ros.bags import golden, inputs
    from ecovla_ros.bags import replay as program
    from ecovla_ros.bench import document

    if options.regenerate and not options.golden:
        raise ConfigError("--regenerate writes the file of --golden; valid: both, or neither")
    how = program.Options(
        inputs.mapping(options.map),
        options.instruction,
        _rate(options.rate),
        options.guard,
        real_time() if options.pace == "real" else lambda time_ns: None,
    )
    # read first: who named a file that is none need not wait for a replay to hear it
    expected = golden.read(options.golden) if options.golden and not options.regenerate else []
    began = time.perf_counter()
    found = program.run(_settings(options), options.bag, how, options.out)
    _show(found, time.perf_counter() - began)
    if options.json:
        document.write(options.json, found.rows, plain(options))
    code = _golden(options, found.rows, expected) if options.golden else 0
    if found.damage:
        print(f"ecovla: {found.damage}", file=sys.stderr)
        return 2
    return code


def _golden(options: argparse.Namespace, rows: list[dict[str, Any]], expected: list[dict[str, Any]]) -> int:
    """Write the golden actions or compare with them; 1 when they differ."""
    from ecovla_ros.bags import golden

    if options.regenerate:
        golden.write(options.golden, rows)
        print(f"golden actions of {len(rows)} frames written to {options.golden}")
        return 0
    wrong = golden.differences(rows, expected)
    if wrong:
        print(golden.table(wrong))
        return 1
    largest, allowed = golden.largest(rows, expected), golden.tolerance(expected)
    print(f"as golden: largest difference {largest:.3g}, allowed {allowed:g}")
    return 0


def real_time(
    clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
) -> Callable[[int], None]:
    """A pace that waits until as much time has passed as in the bag."""
    first: list[tuple[float, int]] = []

    def pace(time_ns: int) -> None:
        now = clock()
        if not first or time_ns < first[0][1]:
            first[:] = [(now, time_ns)]
        sleep(max(0.0, first[0][0] + (time_ns - first[0][1]) / 1e9 - now))

    return pace


def _settings(options: argparse.Namespace) -> config.Config:
    changes: dict[str, Any] = {}
    if options.method:
        changes["prune.method"] = options.method
    if options.ratio is not None:
        changes["prune.ratio"] = options.ratio
    if options.refresh:
        changes["prune.refresh"] = options.refresh
    return config.override(settings_of(options), **changes)


def _rate(text: str) -> float | str:
    if text == "policy":
        return text
    try:
        rate = float(text)
    except ValueError:
        rate = -1.0
    if not 0.0 <= rate <= 1000.0:
        raise ConfigError(f"--rate {text}; valid: policy, or frames a second from 0 (every frame) to 1000")
    return rate


def _show(found: Any, seconds: float) -> None:
    columns = ("stamp_ns", "kind", "similarity", "triggered", "pattern", "policy_ms", "joint_1", "gripper")
    print_table(found.rows[-10:], columns)
    answered = sum("joints" in row for row in found.rows)
    span = (found.rows[-1]["time_ns"] - found.rows[0]["time_ns"]) / 1e9
    print(
        f"{answered} frames answered in {seconds:.1f} s ({span:.1f} s of the bag), {len(found.rows) - answered} times "
        "held, "
        f"{found.dropped} pictures in no frame"
    )
    for why in dict.fromkeys(row["held"] for row in found.rows if "held" in row):
        print(f"held: {why}")
