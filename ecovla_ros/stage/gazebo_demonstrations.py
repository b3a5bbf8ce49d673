"""`ecovla gazebo --demonstrations FOLDER`: the expert drives in Gazebo over topics and guard; solved episodes are bags.

Every topic is recorded, by the node that a user records with, so that the bags are what a teleoperation leaves and
`ecovla train --bags` reads. Scenes are none that the policy is measured on. An episode that was not solved is no
demonstration: its bag is taken away, and the file `demonstrations.json` says that it was driven.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import rclpy

from ecovla_ros.bench import document
from ecovla_ros.errors import ConfigError
from ecovla_ros.nodes.ros.process import Signals, start_ros
from ecovla_ros.stage import gazebo
from ecovla_ros.stage.gazebo_launch import Hung, Launched, Suspended

FIRST_SEED = 3_000_000
"""Scenes from here on are demonstrated: none that is measured, or that the shipped policy was trained on."""
TURN = 12
"""Episodes of one launch."""
FILE = "demonstrations.json"
UNFINISHED = ".unfinished"
"""Folder for the bag of an episode that has not been solved yet: it and its files have their name from the start."""


def main(
    scenes: int, limit_s: float, minutes: float, folder: Path, arguments: Mapping[str, str], tasks: Sequence[str],
    overrides: Sequence[str] = (),
) -> int:  # fmt: skip
    """Drive every task in so many scenes, those that `folder` has not yet; bags and log are written there.

    Exit code 1 when episodes are left. Raises EcovlaError.
    """
    made = Demonstrations(gazebo.described(tasks, scenes, limit_s, arguments, overrides), folder)
    signals, end_s = Signals(), time.monotonic() + 60.0 * minutes
    start_ros([])
    try:
        while made.work and not signals.received and time.monotonic() < end_s:
            made.turn(signals, end_s)
    except Suspended as error:
        print(f"{error}; its episode does not count", flush=True)
    finally:
        signals.ignore()
        rclpy.try_shutdown()
    print(f"{made.solved} demonstrations in {folder}; train on them: ecovla train --bags {folder}/*-*")
    if made.work:
        print(f"{len(made.work)} episodes are left; the same command goes on with them")
    return int(bool(made.work))


class Demonstrations:
    """Which episodes there are, which are left, and their bags."""

    def __init__(self, told: Mapping[str, Any], folder: Path) -> None:
        """`told`: the settings of `FILE`. Raises ConfigError for a folder of other episodes."""
        folder.mkdir(parents=True, exist_ok=True)
        self._told, self._folder = told, folder
        self._rows, commits, self._hung = gazebo.kept(folder / FILE, told)
        self._commits = list(dict.fromkeys((*commits, document.commit())))
        self._in_a_row = 0
        done = {(row["task"], row["seed"]) for row in self._rows}
        every = [(t, FIRST_SEED + s) for s in range(told["seeds"]) for t in told["tasks"]]
        self.work = [item for item in every if item not in done]
        """Task and seed of those that are left, in their order."""

    @property
    def solved(self) -> int:
        """How many demonstrations there are."""
        return sum(row["success"] for row in self._rows)

    def turn(self, signals: Signals, end_s: float) -> None:
        """One launch: the next episodes, none begun after `end_s` (monotonic). Raises EcovlaError, and Hung where
        several launches in a row hang."""
        words = [f"{name}:={value}" for name, value in self._told["launch"].items()]
        more = ["expert:=true", *([f"overrides:={self._told['set']}"] if "set" in self._told else [])]
        try:
            with Launched([*words, *more], self._folder / "launch.log", signals, policy=False) as launched:
                launched.driver.bring_up()
                for task, seed in self.work[:TURN]:
                    if time.monotonic() > end_s:
                        break
                    self._episode(launched, task, seed)
        except Hung as error:
            self._hung, self._in_a_row = self._hung + 1, self._in_a_row + 1
            self._write()
            if self._in_a_row == gazebo.HANGS:
                raise
            print(f"{error}; its episode does not count, and is driven again by a new launch", flush=True)

    def _episode(self, launched: Launched, task: str, seed: int) -> None:
        bag = self._folder / f"{task}-{seed}"
        unfinished = self._folder / UNFINISHED / bag.name
        if bag.exists():
            raise ConfigError(f"{bag} exists, and {self._folder / FILE} knows nothing of it; valid: another folder")
        _remove(unfinished.parent)
        unfinished.parent.mkdir()
        row = launched.episode(task, seed, self._told["episode_s"], unfinished)
        if row["success"]:
            unfinished.rename(bag)
        _remove(unfinished.parent)
        self.work.remove((task, seed))
        self._rows.append(row)
        self._in_a_row = 0
        gazebo.tell({"method": "expert", **row})
        self._write()

    def _write(self) -> None:
        settings = {**self._told, "hung": self._hung}
        document.write(self._folder / FILE, self._rows, settings, commits=self._commits)


def _remove(folder: Path) -> None:
    """What is left of a bag of ours that was not finished."""
    if folder.is_dir():
        shutil.rmtree(folder)
