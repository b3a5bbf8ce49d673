"""`ecovla gazebo`: which episodes are driven, what is kept, and what does not count. Without Gazebo."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

pytest.importorskip("rclpy")
pytest.importorskip("ecovla_ros.msg")

from ecovla_ros.errors import ConfigError, EcovlaError
from ecovla_ros.nodes.ros.process import Signals
from ecovla_ros.sim.tasks import TASKS
from ecovla_ros.stage import gazebo
from ecovla_ros.stage.strip import KEEP_S, MOMENTS, MOST, EpisodeStrip
from ecovla_ros.types import CAMERAS

ARGUMENTS = {"release": "fortress", "engine": "ogre", "pace": "0.5"}


class Stand:
    """Stands in for a launch of Gazebo: every episode ends as `fails` says."""

    starts: list[tuple[str, ...]] = []
    driven: list[tuple[str, int]] = []
    fails: set[tuple[str, int]] = set()
    hangs: list[int] = []

    def __init__(self, arguments: list[str], log: Path, signals: Signals, strip: EpisodeStrip | None = None) -> None:
        del log, signals
        self.strip = strip
        self.starts.append(tuple(arguments))
        self.driver = self

    def __enter__(self) -> Stand:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def bring_up(self) -> None:
        pass

    def episode(self, task: str, seed: int, limit_s: float) -> dict[str, Any]:
        if (task, seed) in self.fails:
            self.fails.clear()
            raise gazebo.Suspended("this program stood still")
        if self.hangs:
            self.hangs.pop()
            raise gazebo.Hung("Gazebo's clock has said nothing")
        self.driven.append((task, seed))
        if self.strip is not None:
            self.strip.begin()
            for camera in CAMERAS:
                self.strip.add(camera, 0.0, np.full((4, 4, 3), seed, np.uint8))
        row = {"success": seed == 0, "lifted": True, "seconds": limit_s, "real_time_factor": 0.5}
        return {"task": task, "seed": seed, "guard_states": {"RUNNING": 1.0}, **row}


@pytest.fixture
def stand(monkeypatch: pytest.MonkeyPatch) -> type[Stand]:
    Stand.starts, Stand.driven, Stand.fails, Stand.hangs = [], [], set(), []
    monkeypatch.setattr(gazebo, "Launched", Stand)
    monkeypatch.setattr(gazebo, "start_ros", lambda arguments: None)
    return Stand


def test_every_task_variant_and_seed_is_driven_once_and_written(stand: type[Stand], tmp_path: Path) -> None:
    file = tmp_path / "gazebo.json"
    assert gazebo.main(3, 20.0, 60.0, tmp_path / "out", file, ARGUMENTS) == 0
    written = json.loads(file.read_text(encoding="utf-8"))
    found = [(row["method"], row["task"], row["seed"]) for row in written["rows"]]
    assert sorted(found) == sorted((m, t, s) for m, _ in gazebo.VARIANTS for t in TASKS for s in range(3))
    assert {row["ratio"] for row in written["rows"] if row["method"] == "ecovla"} == {0.25}
    assert written["settings"]["episode_s"] == 20.0 and "gazebo" in written["settings"]
    assert [next(w for w in start if "method" in w).split("=")[2].split("'")[0] for start in stand.starts] == [
        "dense", "ecovla", "dense", "ecovla"
    ], "in turn, so that a campaign that is cut short has both"  # fmt: skip
    assert all({"release:=fortress", "pace:=0.5", "autostart:=false"} <= set(start) for start in stand.starts)

    assert gazebo.main(3, 20.0, 60.0, tmp_path / "out", file, ARGUMENTS) == 0 and len(stand.driven) == len(found)


def test_chosen_tasks_are_driven_with_the_configuration_that_was_told(stand: type[Stand], tmp_path: Path) -> None:
    """More tasks may be added to a file, never episodes of another configuration; a key each method sets is refused."""
    file, set_ = tmp_path / "gazebo.json", ["policy.rtc=8", "control.profile=gentle"]
    assert gazebo.main(1, 20.0, 60.0, tmp_path, file, ARGUMENTS, tasks=["banana"], overrides=set_) == 0
    assert {t for t, _ in stand.driven} == {"banana"}
    over = [next(w for w in start if w.startswith("overrides:=")) for start in stand.starts]
    assert [yaml.safe_load(w.partition(":=")[2]) for w in over] == [
        [*set_, "prune.method=dense", "prune.ratio=0.0"],
        [*set_, "prune.method=ecovla", "prune.ratio=0.25"],
    ]
    assert json.loads(file.read_text())["settings"]["set"] == set_
    assert gazebo.main(1, 20.0, 60.0, tmp_path, file, ARGUMENTS, overrides=set_) == 0 and len(stand.driven) == 6
    with pytest.raises(ConfigError, match="another set"):
        gazebo.main(1, 20.0, 60.0, tmp_path, file, ARGUMENTS)
    for bad in ("prune.ratio=0.5", "policy.rct=8", "policy.rtc"):
        with pytest.raises(ConfigError):
            gazebo.main(1, 20.0, 60.0, tmp_path, None, ARGUMENTS, overrides=[bad])
    with pytest.raises(EcovlaError, match="pear"):
        gazebo.main(1, 20.0, 60.0, tmp_path, None, ARGUMENTS, tasks=["pear"])
    assert len(stand.driven) == 6


def test_what_was_suspended_is_driven_again_and_what_is_left_is_said(
    stand: type[Stand], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "gazebo.json"
    stand.fails = {("bottle", 0)}
    assert gazebo.main(1, 20.0, 60.0, tmp_path / "out", file, ARGUMENTS) == 1
    assert "does not count" in (said := capsys.readouterr().out) and "5 episodes are left" in said
    assert gazebo.main(1, 20.0, 0.0, tmp_path / "out", file, ARGUMENTS) == 1, "no time, no episode"
    assert gazebo.main(1, 20.0, 60.0, tmp_path / "out", file, ARGUMENTS) == 0
    assert len(stand.driven) == len(set(stand.driven)) * len(gazebo.VARIANTS) == 6


def test_a_gazebo_that_hangs_is_started_again_and_counted_and_given_up_when_it_does_nothing_else(
    stand: type[Stand], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "gazebo.json"
    stand.hangs = [1] * (gazebo.HANGS - 1)
    assert gazebo.main(1, 20.0, 60.0, tmp_path, file, ARGUMENTS) == 0
    assert "driven again" in capsys.readouterr().out
    assert len(stand.driven) == 6 and len(stand.starts) == 2 + gazebo.HANGS - 1
    assert json.loads(file.read_text())["settings"]["hung"] == gazebo.HANGS - 1
    stand.hangs = [1]
    assert gazebo.main(2, 20.0, 60.0, tmp_path, file, ARGUMENTS) == 0 and len(stand.driven) == 12
    assert json.loads(file.read_text())["settings"]["hung"] == gazebo.HANGS, "with those of before"
    stand.hangs = [1] * gazebo.HANGS
    with pytest.raises(gazebo.Hung):
        gazebo.main(3, 20.0, 60.0, tmp_path, file, ARGUMENTS)
    assert json.loads(file.read_text())["settings"]["hung"] == 2 * gazebo.HANGS, "also with no episode behind them"


def test_each_episode_leaves_a_strip_of_its_own_pictures_when_asked(stand: type[Stand], tmp_path: Path) -> None:
    assert gazebo.main(2, 20.0, 60.0, tmp_path, tmp_path / "g.json", ARGUMENTS, pictures=True) == 0
    strips = {path.name: cv2.imread(str(path)) for path in (tmp_path / "pictures").iterdir()}
    assert set(strips) == {f"{m}-{t}-{s}.png" for m, _ in gazebo.VARIANTS for t in TASKS for s in range(2)}
    for name, made in strips.items():
        assert made is not None and made.shape == (8, 4 * MOMENTS, 3)
        assert (made == int(name.split("-")[2][0])).all(), "of this episode and not of the one before"


def test_a_strip_spans_an_episode_however_long(tmp_path: Path) -> None:
    """First moment left, last one right, time growing between; what is kept does not grow with the episode."""
    for seconds in (3.0, 100.0, 1000.0):
        strip = EpisodeStrip(CAMERAS)
        assert strip.picture() is None and not strip.write(tmp_path / "none.png")
        strip.begin()
        for step in range(int(seconds * 10) + 1):
            for camera, side in zip(CAMERAS, (2, 4)):
                strip.add(camera, step / 10, np.full((side, side, 3), step / 10 * 250 / seconds, np.uint8))
        assert all(len(kept) <= MOST for kept in strip._kept.values())
        made = strip.picture()
        assert made is not None and made.shape == (4, 2 * MOMENTS, 3), "the second camera is scaled to the first"
        shown = made[0, ::2, 0].astype(float)
        slack = 250 * max(2 * KEEP_S, seconds / MOST * 4) / seconds
        assert np.allclose(shown, np.linspace(0, 250, MOMENTS), atol=slack + 1)
        assert np.abs(made[2, ::2, 0] - shown).max() <= slack + 1, "both cameras at the same moments"


def test_a_file_of_another_kind_is_not_written_over(tmp_path: Path) -> None:
    file = tmp_path / "other.json"
    for text in ("[]", "{", '{"rows": 3}', '{"rows": [], "settings": []}'):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError, match=r"other\.json"):
            gazebo.kept(file, {})


def test_episodes_of_another_world_or_launch_are_not_gone_on_with(
    stand: type[Stand], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "gazebo.json"
    assert gazebo.main(1, 20.0, 60.0, tmp_path, file, ARGUMENTS) == 0
    driven, before = len(stand.driven), file.read_bytes()
    for limit_s, arguments, what in (
        (20.0, {**ARGUMENTS, "pace": "1.0"}, "launch, world"),
        (9.0, ARGUMENTS, "episode_s"),
    ):
        with pytest.raises(ConfigError, match=f"another {what}"):
            gazebo.main(1, limit_s, 60.0, tmp_path, file, arguments)
    monkeypatch.setattr(gazebo, "fingerprint", lambda arguments: "of a world that was changed")
    with pytest.raises(ConfigError, match="another world"):
        gazebo.main(1, 20.0, 60.0, tmp_path, file, ARGUMENTS)
    assert len(stand.driven) == driven and file.read_bytes() == before
    monkeypatch.undo()


def test_without_ros2_it_is_said_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gazebo.version("harmonic") == ""
    with pytest.raises(ConfigError, match="ros2"):
        gazebo.Launched([], tmp_path / "log", Signals())


@pytest.mark.skipif(not shutil.which("setpriv"), reason="util-linux is not here")
def test_a_launch_ends_with_the_program_that_started_it_also_when_that_is_killed(tmp_path: Path) -> None:
    end = tmp_path / "ended"
    ros2 = tmp_path / "ros2"
    ros2.write_text(
        f"#!/bin/sh\ntrap 'echo interrupted > {end}; exit' INT\necho started\nwhile :; do sleep 0.05; done\n"
    )
    ros2.chmod(0o755)
    program = f"""
from pathlib import Path
import time
import rclpy
from ecovla_ros.nodes.ros.process import Signals
from ecovla_ros.stage import gazebo
rclpy.init()
gazebo.Launched([], Path({str(tmp_path / "log")!r}), Signals())
time.sleep(60)
"""
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    process = subprocess.Popen([sys.executable, "-c", program], env=environment)
    try:
        wait_for(lambda: (tmp_path / "log").is_file() and (tmp_path / "log").read_text() == "started\n")
        process.send_signal(signal.SIGKILL)
        wait_for(end.is_file)
    finally:
        process.kill()
        process.wait()


def wait_for(done: Any, limit_s: float = 30.0) -> None:
    due = time.monotonic() + limit_s
    while not done():
        assert time.monotonic() < due
        time.sleep(0.02)
