"""The figures about bags in docs/results/safety.md: `python -m ecovla_ros.bench.speed.bags --json results/bags.json`.

The bags are made first, from a seed, in --folder, and kept there for the next time. What the pretended engine reports
is load for the report, no measurement of a policy.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from ecovla_ros import config
from ecovla_ros.bags import read, replay, sample
from ecovla_ros.bags.answers import AnswerBag
from ecovla_ros.bags.guarded import Guarded
from ecovla_ros.bags.inputs import Feed, choose
from ecovla_ros.bags.sample import Sample
from ecovla_ros.bench import document
from ecovla_ros.errors import BagError, ConfigError, unknown
from ecovla_ros.types import CAMERAS, ActionChunk, FrameReport, Observation

MINUTE = Sample(seconds=60.0, size=224, image_hz=10.0, state_hz=100.0)
FAST = Sample(seconds=60.0, size=224, image_hz=30.0, state_hz=100.0, encoding="rgb8")
TEN_MINUTES = Sample(seconds=600.0, size=128, image_hz=10.0, state_hz=100.0, encoding="rgb8", still=True)
LARGE = Sample(seconds=167.0, size=448, image_hz=10.0, state_hz=100.0, encoding="rgb8")
"""2 GB."""
STREAM = """
import sys
from ecovla_ros import wire
from ecovla_ros.bags.read import Bag
with Bag(sys.argv[1]) as bag:
    images = [t for t, k in bag.topics.items() if k.endswith("Image")]
    peak = lambda: next(l.split()[1] for l in open("/proc/self/status") if l.startswith("VmHWM"))
    total, early = sum(bag.counts().values()), 0
    for i, raw in enumerate(bag.raw(list(bag.topics))):
        value = bag.decode(raw)
        if raw.topic in images:
            wire.decode_image(value)
        if i == total // 10:
            early = peak()
    print(early, peak())
"""
Row = dict[str, Any]


class Pretended:
    """An engine that answers at once, stays where the arm is, and reports times from a seed."""

    def __init__(self) -> None:
        self._rng, self._count = np.random.default_rng(0), 0
        self.policy = SimpleNamespace(
            spec=SimpleNamespace(cameras=dict.fromkeys(CAMERAS), instructions=(), period_s=0.1)
        )
        self.sparse_plan = SimpleNamespace(kept={})

    def step(self, obs: Observation) -> Any:
        """A chunk of 16 rows."""
        self._count += 1
        names = ("encode", "trigger", "join", "prefill", "act", "post")
        stages = dict(zip(names, self._rng.gamma(9.0, (1.0, 0.02, 0.01, 1.1, 2.8, 0.02))))
        fired = self._count % 17 == 0
        similarity, age = 0.99 + 0.01 * self._rng.random(), self._count % 17
        report = FrameReport(
            obs.stamp_ns, stages, sum(stages.values()), stages["join"], 3.0, "ecovla", "refresh" if fired else "sparse",
            similarity, 0.991, fired, 0.25, age, self._count // 17, 20,
        )  # fmt: skip
        return SimpleNamespace(
            report=report, chunk=ActionChunk(obs.stamp_ns, 0.1, np.tile(obs.joints, (16, 1)), np.zeros(16))
        )

    def reset(self, seed: int) -> None:
        """Nothing to forget."""

    def patterns(self) -> dict[str, list[int]]:
        """None."""
        return {}


def answered(source: Path, out: Path) -> Path:
    """A bag with the answers of the pretended engine and of the guard, written whole or not at all."""
    part = out.with_name(out.name + "-part")
    shutil.rmtree(part, ignore_errors=True)
    settings = config.Config()
    with read.Bag(source) as bag:
        topics = choose(bag, {})
        writer, guard = AnswerBag(part, bag, topics, settings.node.deadline_ms), Guarded(settings.control)
        heard = replay.listener(bag, topics["joint_states"], writer, guard)
        feed = Feed(bag, topics, settings.node)
        for answer in replay.answers(bag, Pretended(), feed, 0, heard=heard):
            writer.answer(answer)
            if answer.chunk is not None:
                guard.chunk(answer.chunk, answer.time_ns)
        writer.close()
    part.rename(out)
    return out


def prepare(folder: Path) -> dict[str, Path]:
    """The bags, made where they are not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    made = {
        "minute": _once(folder / "minute", lambda p: sample.write(p, MINUTE.events())),
        "fast": _once(folder / "fast", lambda p: sample.write(p, FAST.events())),
        "mcap": _once(folder / "large-mcap", lambda p: sample.write(p, LARGE.events())),
        "sqlite3": _once(folder / "large-sqlite3", lambda p: sample.write(p, LARGE.events(), "sqlite3")),
    }
    plain = _once(folder / "ten-minutes-inputs", lambda p: sample.write(p, TEN_MINUTES.events()))
    made["ten minutes"] = (
        folder / "ten-minutes" if (folder / "ten-minutes").exists() else answered(plain, folder / "ten-minutes")
    )
    return made


def _once(path: Path, make: Callable[[Path], Path]) -> Path:
    if not path.exists():
        part = path.with_name(path.name + "-part")
        shutil.rmtree(part, ignore_errors=True)
        make(part)
        part.rename(path)
    return path


def _row(case: str, what: str, value: float, unit: str, wanted: str) -> Row:
    row = {"case": case, "what": what, "value": round(value, 3), "unit": unit, "wanted": wanted}
    print(f"{case}: {what}: {value:.4g} {unit} (wanted: {wanted})", flush=True)
    return row


def replays(bags: dict[str, Path]) -> list[Row]:
    """Seconds of a bag in a second, loading of the policy included."""
    rows = []
    for name, sort, rate in (
        ("minute", "10 Hz jpeg, every frame", 0.0),
        ("fast", "30 Hz raw, --rate policy", "policy"),
    ):
        for method in ("dense", "ecovla"):
            settings = config.override(config.load(config.shipped("mini_sim.yaml")), **{"prune.method": method})
            began = time.perf_counter()
            found = replay.run(settings, bags[name], replay.Options(rate=rate))
            speed = 60.0 / (time.perf_counter() - began)
            answered_ = sum("joints" in row for row in found.rows)
            rows.append(
                _row(
                    "replay",
                    f"60 s, two 224 px cameras at {sort}, mini, {method}: {answered_} frames",
                    speed,
                    "x real time",
                    "2 or more",
                )
            )
    return rows


def reports(bags: dict[str, Path]) -> list[Row]:
    """Seconds and size of the report of a ten-minute bag, as `ecovla report --json` tells them."""
    bag, told = bags["ten minutes"], bags["ten minutes"].with_suffix(".json")
    command = [sys.executable, "-c", "import sys; from ecovla_ros.cli import main; sys.exit(main())", "report"]
    subprocess.run([*command, str(bag), "--json", str(told)], capture_output=True, check=True)
    (row,) = json.loads(told.read_text(encoding="utf-8"))["rows"]
    seconds, size, frames = row["seconds"], row["bytes"], row["frames"]
    what = f"10 min, {_gigabytes(bag):.2g} GB, {frames} frames"
    return [_row("report", what, seconds, "s", "less than 60"), _row("report", what, size / 1e6, "MB", "less than 20")]


def memory(bags: dict[str, Path]) -> list[Row]:
    """Peak memory of a stream through 2 GB, pictures decoded, against that after its first tenth."""
    rows = []
    for storage in ("mcap", "sqlite3"):
        run = subprocess.run(
            [sys.executable, "-c", STREAM, str(bags[storage])], capture_output=True, text=True, check=True
        )
        early, peak = (1024 * int(n) / 1e6 for n in run.stdout.split())
        what = f"{_gigabytes(bags[storage]):.2g} GB {storage}"
        rows.append(_row("memory", f"{what}: growth after the first tenth", peak - early, "MB", "flat"))
        rows.append(_row("memory", f"{what}: peak of the process", peak, "MB", "-"))
    return rows


def _minute(storage: str, path: Path) -> Path:
    return sample.write(path, MINUTE.events(), storage)


def damage(bags: dict[str, Path]) -> list[Row]:
    """Share of the messages of a bag of which the second half is cut off that are read."""
    rows = []
    folder = bags["minute"].parent
    for storage, ending in (("mcap", "mcap"), ("sqlite3", "db3")):
        whole = _once(folder / f"half-{storage}", partial(_minute, storage))
        data = next(whole.glob(f"*.{ending}")).read_bytes()
        cut = folder / f"cut.{ending}"
        cut.write_bytes(data[: len(data) // 2])
        with read.Bag(whole) as bag:
            total = sum(bag.counts().values())
        count = 0
        try:
            with read.Bag(cut) as bag:
                for _ in bag.raw(list(bag.topics)):
                    count += 1
        except BagError as error:
            print(error)
        rows.append(
            _row(
                "damage",
                f"{storage}, second half cut off: messages read",
                100.0 * count / total,
                "%",
                "what lies before",
            )
        )
    return rows


CASES: dict[str, Callable[[dict[str, Path]], list[Row]]] = {
    "replay": replays,
    "report": reports,
    "memory": memory,
    "damage": damage,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure. Raises ConfigError for an unknown case, or a disk that is too small."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--folder", type=Path, default=Path("out/bags"), help="of the bags that are measured: 8 GB")
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--prepare", action="store_true", help="make the bags and measure nothing")
    options = parser.parse_args(argv)
    cases = options.cases.split(",")
    for case in cases:
        if case not in CASES:
            raise ConfigError(unknown("case", case, CASES))
    options.folder.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(options.folder).free < 10e9:
        raise ConfigError(f"'{options.folder}' has less than 10 GB left; valid: --folder with more")
    bags = prepare(options.folder)
    if options.prepare:
        return 0
    rows = [row for case in cases for row in CASES[case](bags)]
    if options.json:
        document.write(options.json, rows, {"cases": options.cases})
    return 0


def _gigabytes(path: Path) -> float:
    return sum(p.stat().st_size for p in path.iterdir()) / 1e9


if __name__ == "__main__":
    sys.exit(main())
