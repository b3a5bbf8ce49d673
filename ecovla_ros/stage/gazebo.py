"""`ecovla gazebo`: the policy drives the tasks in Gazebo, by the launch file that a user starts, and is measured.

Each way to prune has a launch of its own; between two episodes the node `gazebo` lays the next scene. Episodes last by
Gazebo's clock. An episode during which this program stood still, as on a machine that was suspended, or in which
Gazebo hung, does not count and is driven again; how often Gazebo hung is in the result. Exit code 0: all were driven;
1: some are left.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import rclpy

from ecovla_ros import documents
from ecovla_ros.bench import document
from ecovla_ros.errors import ConfigError
from ecovla_ros.nodes.ros import settings
from ecovla_ros.nodes.ros.process import Signals, start_ros
from ecovla_ros.sim import gazebo
from ecovla_ros.sim.tasks import TASKS, find
from ecovla_ros.stage.gazebo_launch import Hung, Launched, Row, Suspended
from ecovla_ros.stage.strip import EpisodeStrip
from ecovla_ros.types import CAMERAS

VARIANTS = (("dense", 0.0), ("ecovla", 0.25))
"""Methods and ratios that are measured: dense, and a quarter of the channels left out."""
TURN_SEEDS = 2
"""Seeds that one launch drives before the other variant has its turn."""
CONFIG = "gazebo.yaml"
"""What the launch file reads."""
CHOSEN = ("seeds", "tasks", "hung")
"""What a file's settings say of which episodes were driven and how often Gazebo hung, not of how they are driven."""
HANGS = 3
"""So many launches in a row that hang without an episode between them end the campaign."""


def main(
    seeds: int, limit_s: float, minutes: float, out: Path, file: Path | None, arguments: Mapping[str, str],
    pictures: bool = False, tasks: Sequence[str] = tuple(TASKS), overrides: Sequence[str] = (),
) -> int:  # fmt: skip
    """Drive every task, variant and seed that `file` has not yet. `arguments`: of the launch; `pictures`: a strip of
    each episode under `out`/pictures; `overrides`: keys over the launch's configuration. Raises EcovlaError.
    """
    told = described(tasks, seeds, limit_s, arguments, overrides)
    campaign = Campaign(told, out, file, EpisodeStrip(CAMERAS) if pictures else None)
    out.mkdir(parents=True, exist_ok=True)
    signals, end_s = Signals(), time.monotonic() + 60.0 * minutes
    start_ros([])
    try:
        while campaign.work and not signals.received and time.monotonic() < end_s:
            campaign.turn(signals, end_s)
    except Suspended as error:
        print(f"{error}; its episode does not count", flush=True)
    finally:
        signals.ignore()
        rclpy.try_shutdown()
    if campaign.work:
        print(f"{len(campaign.work)} episodes are left; the same command goes on with them")
    return int(bool(campaign.work))


def described(
    tasks: Sequence[str], seeds: int, limit_s: float, arguments: Mapping[str, str], overrides: Sequence[str]
) -> dict[str, Any]:
    """What episodes are driven, and how: the settings of a result file. Raises EcovlaError for an unknown task, and as
    `check` does."""
    check(overrides)
    return {"tasks": [find(name).name for name in tasks], "seeds": seeds, "episode_s": limit_s,
            "launch": dict(arguments), "gazebo": version(arguments["release"]), "world": fingerprint(arguments),
            **({"set": list(overrides)} if overrides else {})}  # fmt: skip


class Campaign:
    """Which episodes there are, which are left, and where they are written."""

    def __init__(self, told: Mapping[str, Any], out: Path, file: Path | None, strip: EpisodeStrip | None) -> None:
        """`told`: the settings of the result file. Raises ConfigError for a file of other episodes."""
        self._told, self._out, self._file, self._strip = told, out, file, strip
        self._rows, commits, self._hung = kept(file, told)
        self._commits = list(dict.fromkeys((*commits, document.commit())))
        self._in_a_row = 0
        done = {(row["method"], row["task"], row["seed"]) for row in self._rows}
        every = [(m, r, t, s) for s in range(told["seeds"]) for m, r in VARIANTS for t in told["tasks"]]
        self.work = [item for item in every if (item[0], *item[2:]) not in done]
        """Method, ratio, task and seed of those that are left, in their order."""

    def turn(self, signals: Signals, end_s: float) -> None:
        """One launch: the next episodes of one variant, none begun after `end_s` (monotonic). A launch that hangs ends
        its turn. Raises EcovlaError, and Hung where several launches do."""
        method, ratio = self.work[0][:2]
        over = [*self._told.get("set", ()), f"prune.method={method}", f"prune.ratio={ratio}"]
        words = [f"{name}:={value}" for name, value in self._told["launch"].items()]
        log = self._out / "launch.log"
        try:
            with Launched([*words, f"overrides:={over}", "autostart:=false"], log, signals, self._strip) as launched:
                launched.driver.bring_up()
                mine = [item for item in self.work if item[:2] == (method, ratio)]
                for item in mine[: len(self._told["tasks"]) * TURN_SEEDS]:
                    if time.monotonic() > end_s:
                        break
                    row = launched.episode(item[2], item[3], self._told["episode_s"])
                    self.work.remove(item)
                    self._keep({"method": method, "ratio": ratio, **row})
        except Hung as error:
            self._hung, self._in_a_row = self._hung + 1, self._in_a_row + 1
            self._write()
            if self._in_a_row == HANGS:
                raise
            print(f"{error}; its episode does not count, and is driven again by a new launch", flush=True)

    def _keep(self, row: Row) -> None:
        self._rows.append(row)
        self._in_a_row = 0
        tell(row)
        if self._strip is not None:
            self._strip.write(self._out / "pictures" / f"{row['method']}-{row['task']}-{row['seed']}.png")
        self._write()

    def _write(self) -> None:
        if self._file is not None:
            document.write(self._file, self._rows, {**self._told, "hung": self._hung}, commits=self._commits)


def kept(file: Path | None, told: Mapping[str, Any]) -> tuple[list[Row], list[str], int]:
    """The rows of a file that was begun before, the commits that drove them, and how often Gazebo hung.

    Raises ConfigError for a file that is none of ours, or of other episodes than these, whatever the number of seeds
    and the tasks: of another world, launch, length, configuration or Gazebo.
    """
    if file is None or not file.is_file():
        return [], [], 0
    try:
        found = documents.read_json(file)
        rows, before = list(found["rows"]), dict(found["settings"])
        commits, hung = list(found.get("commits", [found["commit"]])), int(before.get("hung", 0))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{file} is no result of this command: {error}; valid: another file") from error
    names = [name for name in {**told, **before} if name not in CHOSEN]
    if other := [name for name in names if before.get(name) != told.get(name)]:
        raise ConfigError(f"{file} has episodes of another {', '.join(other)}; valid: another file")
    return rows, commits, hung


def check(overrides: Sequence[str]) -> None:
    """Raises ConfigError for what the launch's configuration would refuse, or what each variant sets itself."""
    for text in overrides:
        if text.partition("=")[0].strip() in ("prune.method", "prune.ratio"):
            raise ConfigError(f"--set {text}: methods and ratios are those that are compared; valid: other keys")
    settings.load(CONFIG, list(overrides))


def fingerprint(arguments: Mapping[str, str]) -> str:
    """Of the world that a launch with these arguments loads, as hexadecimal digits."""
    text = gazebo.world(arguments["release"], engine=arguments["engine"], pace=float(arguments["pace"]))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def version(release: str) -> str:
    """What the installed Gazebo says of itself; empty when it says nothing."""
    command = [*gazebo.release(release).program, "--versions"]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=30, env=dict(os.environ))
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return " ".join(run.stdout.split())


def tell(row: Row) -> None:
    """Print how an episode went."""
    verdict = "solved" if row["success"] else "lifted" if row["lifted"] else "not solved"
    told = f"{row['method']} {row['task']} {row['seed']}: {verdict} after {row['seconds']:.1f} s of simulated time"
    print(f"{told}, {row['real_time_factor']} of real time, {row['guard_states']}", flush=True)
