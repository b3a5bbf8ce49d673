"""A seeded campaign: so many spoilt inputs, each given to the command that reads it.

Two ends are right: the input is read (exit code 0), or one line says what is wrong (exit code 2).
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import shutil
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ecovla_ros import config, documents
from ecovla_ros.bags import sample
from ecovla_ros.bags.sample import Sample
from ecovla_ros.bench.inputs import mutations, published
from ecovla_ros.build import SHIPPED
from ecovla_ros.train import lerobot
from ecovla_ros.types import CAMERAS, Demonstration, Observation

Command = Callable[[Sequence[str]], int]
"""Runs a command line in this process; returns its exit code."""
TEXT = "place the apple in the basket"
SHARES = {"bag": 0.45, "data set": 0.25, "settings": 0.2, "checkpoint": 0.06, "published": 0.04}
"""What is spoilt, and how much of the campaign it is."""
SLOTS = ("--set", "policy.embodiment.cameras=[third_person=base,wrist=wrist]")
"""The pictures of the published checkpoint."""


class Inputs:
    """Whole inputs of every kind, made once, and copies of them to be spoilt."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        events = list(Sample(seconds=1.5, size=16, encoding="png", instruction=TEXT).events())
        self.bags = [sample.write(folder / name, events, name) for name in ("mcap", "sqlite3")]
        self.bags.append(sample.write(folder / "packed", events, "sqlite3", compressed=True))
        self.short = sample.write(folder / "short", [e for e in events if e.time_ns < sample.START_NS + 250_000_000])
        self.set = folder / "set"
        lerobot.write(self.set, [_demonstration()])
        self.published = published.write(folder / "published", SHIPPED / "mini" / "tokenizer.json")
        self.settings = sorted(config.shipped("gen3.yaml").parent.glob("*.yaml"))
        self.settings = [p for p in self.settings if "controllers" not in p.name and "limits" not in p.name]

    def case(self, kind: str, rng: random.Random) -> tuple[list[str], str]:
        """A spoilt copy as a command line, and what was done to it."""
        work = self.folder / "work"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        out = ["--episodes", "0", "--work", str(work / "data"), "--export-lerobot", str(work / "out")]
        if kind == "bag":
            spoilt = Path(shutil.copytree(rng.choice(self.bags), work / "bag"))
            return ["train", "--bags", str(spoilt), *out], mutations.any_file(rng, spoilt)
        if kind == "data set":
            spoilt = Path(shutil.copytree(self.set, work / "set"))
            return ["train", "--lerobot", str(spoilt), *out], mutations.any_file(rng, spoilt)
        if kind == "settings":
            file, done = self._settings(rng, work)
            return ["train", "--config", str(file), "--lerobot", str(self.set), *out], done
        if kind == "published":
            spoilt, done = self._published(rng, work)
            return ["inspect", str(spoilt), *SLOTS], done
        spoilt, done = self._checkpoint(rng, work)
        return ["replay", str(self.short), "--set", f"policy.checkpoint={spoilt}", "--method", "dense"], done

    def _settings(self, rng: random.Random, work: Path) -> tuple[Path, str]:
        source = rng.choice(self.settings)
        text = source.read_bytes()
        if rng.random() < 0.4:
            spoilt = rng.choice(mutations.BYTES)(rng, text)
        else:
            value = documents.from_yaml(text) or {}
            for _ in range(rng.randint(1, 3)):
                value = mutations.odd_value(rng, value)
            spoilt = json.dumps(value).encode()  # which is YAML as well
        (work / "settings.yaml").write_bytes(spoilt)
        return work / "settings.yaml", source.name

    def _published(self, rng: random.Random, work: Path) -> tuple[Path, str]:
        """Headers of 3 billion weights, whose numbers are a hole; of one file, something else."""
        spoilt = work / "published"
        spoilt.mkdir()
        for file in self.published.iterdir():
            (spoilt / file.name).symlink_to(file)
        path = spoilt / rng.choice([file.name for file in sorted(self.published.iterdir())])
        data = _head(path)
        size = path.stat().st_size
        path.unlink()
        if path.name.startswith("model"):
            whole = rng.random() < 0.5
            spoilt_head = mutations.tensors(rng, data) if whole else mutations.safetensors_header(rng, data)
            path.write_bytes(spoilt_head)
            os.truncate(path, size + len(spoilt_head) - len(data) if whole else rng.randrange(size))
            return spoilt, "model.safetensors header"
        spoil = mutations.json_file if path.suffix == ".json" else rng.choice(mutations.BYTES)
        path.write_bytes(spoil(rng, data))
        return spoilt, path.name

    def _checkpoint(self, rng: random.Random, work: Path) -> tuple[Path, str]:
        spoilt = Path(shutil.copytree(SHIPPED / "mini", work / "mini"))
        if rng.random() < 0.5:
            path = spoilt / "model.safetensors"
            path.write_bytes(mutations.safetensors_header(rng, path.read_bytes()))
            return spoilt, "model.safetensors header"
        path = spoilt / rng.choice(("config.json", "tokenizer.json"))
        path.write_bytes(mutations.json_file(rng, path.read_bytes()))
        return spoilt, path.name


def _demonstration() -> Demonstration:
    joints = np.array([0.0, 0.26, 3.1, -2.2, 0.0, 0.96, 1.57]) + 0.01 * np.arange(13)[:, None]
    images = {c: np.full((16, 16, 3), 90, np.uint8) for c in CAMERAS}
    seen = tuple(Observation(1 + i * 10**8, images, joints[i], 0.2, TEXT) for i in range(12))
    return Demonstration(seen, joints[1:], np.full(12, 0.2), 0.1)


def _head(path: Path) -> bytes:
    """A file, or the header of a long safetensors file."""
    with path.open("rb") as file:
        if path.stat().st_size < 2**24:
            return file.read()
        head = file.read(8)
        return head + file.read(int.from_bytes(head, "little"))


def run(command: Command, folder: Path, count: int, seed: int) -> Iterator[dict[str, Any]]:
    """One row a case: what it was, its exit code, the line that was said, and in `wrong` what is not as it must be."""
    inputs = Inputs(folder)
    kinds = [kind for kind, share in SHARES.items() for _ in range(round(share * count))]
    for number, kind in enumerate(kinds[:count]):
        rng = random.Random(f"{seed}-{number}")
        arguments, done = inputs.case(kind, rng)
        code, said, trace = _told(command, arguments)
        lines = [line for line in said.splitlines() if line.startswith("ecovla: ")]
        yield {
            "case": number, "kind": kind, "done": done, "code": code, "said": lines[0][8:300] if lines else "",
            "wrong": trace or _wrong(code, lines),
        }  # fmt: skip


def _wrong(code: int, lines: list[str]) -> str:
    if code not in (0, 2):
        return f"exit code {code}"
    return f"{len(lines)} lines" if len(lines) != (code == 2) else ""


def _told(command: Command, arguments: Sequence[str]) -> tuple[int, str, str]:
    """Exit code, standard error, and the traceback of what no command may let through."""
    error, out = io.StringIO(), io.StringIO()
    with contextlib.redirect_stderr(error), contextlib.redirect_stdout(out):
        try:
            code, trace = command(arguments), ""
        except SystemExit as end:
            code, trace = int(end.code or 0) if isinstance(end.code, int) else 1, ""
        except Exception as broken:
            code, trace = 1, "".join(traceback.format_exception(broken)[-3:])
    return code, error.getvalue(), trace


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each kind of input."""
    out = []
    for kind in SHARES:
        mine = [row for row in rows if row["kind"] == kind]
        codes = Counter(row["code"] for row in mine)
        wrong = sum(bool(row["wrong"]) for row in mine)
        out.append({"kind": kind, "inputs": len(mine), "read": codes[0], "refused": codes[2], "wrong": wrong})
    return out
