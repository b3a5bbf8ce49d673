"""Collects demonstrations: the expert drives with noise, and each frame gets the label of the expert without noise.

Noise comes in pushes of a few periods (a joint offset that lasts), so that the data hold states off the expert's
path and the way back from them; while the expert closes or opens the gripper it drives without noise.
"""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ecovla_ros.config import SimConfig
from ecovla_ros.sim.env import KinovaEnv
from ecovla_ros.sim.expert import Expert
from ecovla_ros.sim.tasks import TASKS
from ecovla_ros.train import corrections
from ecovla_ros.train.dataset import ShardWriter
from ecovla_ros.train.frames import DemoSettings, frame_of
from ecovla_ros.types import CAMERAS

CALM_PERIODS = 8
"""Periods without pushes from four before the gripper is told to move until its hold has passed."""


class Pushes:
    """Joint offsets of `push_rad` that begin by chance and last two to five periods."""

    def __init__(self, settings: DemoSettings, rng: np.random.Generator) -> None:
        self._settings, self._rng = settings, rng
        self._deviation = settings.push_rad * rng.random()
        self._left = 0
        self._offset: np.ndarray = np.zeros(7)

    def draw(self) -> np.ndarray | None:
        """Offset of this period, rad (7,), or None."""
        if self._left == 0 and self._rng.random() < self._settings.push_chance:
            self._left = int(self._rng.integers(2, 6))
            self._offset = self._rng.normal(0.0, self._deviation, 7)
        if self._left == 0:
            return None
        self._left -= 1
        return self._offset


def episode(env: KinovaEnv, seed: int, settings: DemoSettings) -> tuple[list[dict[str, Any]], bool]:
    """Drive one episode. Returns its frames (see train.dataset) and whether the task succeeded."""
    rng = np.random.default_rng(seed)
    names = list(TASKS)
    task = names[seed % len(names)]
    env.reset(task, seed, looks=bool(rng.random() < settings.looks))
    expert, pushes = Expert(env.world), Pushes(settings, rng)
    frames: list[dict[str, Any]] = []
    after, calm = -1, 0
    for _ in range(settings.max_steps):
        frame = frame_of(env, expert, settings, names.index(task), seed)
        frames.append(frame)
        calm = CALM_PERIODS if np.ptp(frame["actions"][:4, 7]) > 0 else calm - 1
        joints, gripper = expert.act(None if calm > 0 else pushes.draw())
        if env.step(joints, gripper) and after < 0:
            after = settings.tail
        if after == 0:
            return frames, True
        after -= after > 0
    return frames, after >= 0


def collect(
    folder: Path,
    settings: DemoSettings,
    processes: int,
    progress: Callable[[int, int, float], None],
    driver: Path | None = None,
) -> None:
    """Write `settings.episodes` episodes with several processes. `progress(done, total, seconds left)`.

    `driver`: checkpoint of a policy that drives while the expert labels (train.corrections); None: the expert drives.
    An interrupted run goes on after the last whole episode of each shard.
    """
    name = "shard" if driver is None else "shard-corrected"
    shards = [
        (folder / f"{name}-{i:03d}", settings, range(first, settings.seed + settings.episodes, processes), driver)
        for i, first in enumerate(range(settings.seed, settings.seed + processes))
    ]
    todo = [s for s in shards if _done(s[0]) < len(s[2])]
    start, before = time.monotonic(), sum(_done(s[0]) for s in shards)
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_write_shard, args=s) for s in todo]
    for worker in workers:
        worker.start()
    while any(w.is_alive() for w in workers):
        workers[0].join(2.0)
        done = sum(_done(s[0]) for s in shards)
        rate = (time.monotonic() - start) / max(done - before, 1)
        progress(done, settings.episodes, rate * (settings.episodes - done))
        workers = sorted(workers, key=lambda w: not w.is_alive())
    failed = [w.exitcode for w in workers if w.exitcode]
    if failed:
        raise RuntimeError(f"{len(failed)} of {len(workers)} collecting processes ended with {failed}")


def meta_of(settings: DemoSettings) -> dict[str, Any]:
    """What every shard of a data set has in common (see train.dataset)."""
    return {
        "cameras": list(CAMERAS),
        "size": settings.size,
        "horizon": settings.horizon,
        "renderer": settings.renderer,
        "instructions": [t.instruction for t in TASKS.values()],
        "settings": asdict(settings),
    }


def _done(folder: Path) -> int:
    try:
        return int(json.loads((folder / "meta.json").read_text())["episodes"])
    except (OSError, ValueError, KeyError):
        return 0


def _write_shard(folder: Path, settings: DemoSettings, seeds: range, driver: Path | None) -> None:
    writer = ShardWriter(folder, settings.max_steps * len(seeds), meta_of(settings))
    env = KinovaEnv(SimConfig(renderer=settings.renderer))
    answer = None if driver is None else corrections.answers(driver)
    try:
        for seed in seeds[writer.episodes :]:
            parent = multiprocessing.parent_process()
            if parent is not None and not parent.is_alive():
                return  # the run was killed; what is written stays readable
            if answer is None:
                frames, success = episode(env, seed, settings)
                writer.append(frames if success else [])
            else:
                writer.append(corrections.episode(env, answer, seed, settings)[0])
    finally:
        env.close()
