"""`ecovla gazebo --demonstrations`: what is kept of which episodes, without Gazebo; and a bag by the real recorder."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("ecovla_ros.msg")

import rclpy
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String

from ecovla_ros import cli
from ecovla_ros.bags.read import Bag
from ecovla_ros.errors import ConfigError, EcovlaError
from ecovla_ros.nodes.ros import qos
from ecovla_ros.nodes.ros.process import Signals, start_ros
from ecovla_ros.sim.tasks import TASKS
from ecovla_ros.stage import gazebo, gazebo_launch
from ecovla_ros.stage import gazebo_demonstrations as demonstrations
from ecovla_ros.types import CAMERAS

ARGUMENTS = {"release": "fortress", "engine": "ogre", "pace": "0.5"}
FIRST = demonstrations.FIRST_SEED


class Stand:
    """Stands in for a launch of Gazebo: an episode leaves a bag, and is solved unless `fails` has it."""

    starts: list[tuple[str, ...]] = []
    driven: list[tuple[str, int]] = []
    fails: set[tuple[str, int]] = set()
    raises: list[Exception] = []

    def __init__(
        self, arguments: list[str], log: Path, signals: Signals, strip: Any = None, policy: bool = True
    ) -> None:
        assert strip is None and not policy
        self.starts.append(tuple(arguments))
        self.driver = self

    def __enter__(self) -> Stand:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def bring_up(self) -> None:
        pass

    def episode(self, task: str, seed: int, limit_s: float, bag: Path) -> dict[str, Any]:
        assert bag.name == f"{task}-{seed}", "files of a bag are named after it"
        bag.mkdir()
        (bag / "pictures").write_text(f"{task} {seed}")
        if self.raises:
            raise self.raises.pop()
        self.driven.append((task, seed))
        row = {"success": (task, seed) not in self.fails, "lifted": True, "seconds": limit_s, "real_time_factor": 0.5}
        return {"task": task, "seed": seed, "guard_states": {"RUNNING": 1.0}, **row}


@pytest.fixture
def stand(monkeypatch: pytest.MonkeyPatch) -> type[Stand]:
    Stand.starts, Stand.driven, Stand.fails, Stand.raises = [], [], set(), []
    monkeypatch.setattr(demonstrations, "Launched", Stand)
    monkeypatch.setattr(demonstrations, "start_ros", lambda arguments: None)
    return Stand


def made(folder: Path, scenes: int = 2, tasks: tuple[str, ...] = tuple(TASKS), **more: Any) -> int:
    return demonstrations.main(scenes, 25.0, more.pop("minutes", 60.0), folder, ARGUMENTS, tasks, **more)


def test_a_solved_episode_is_a_bag_and_one_that_was_not_is_a_row(stand: type[Stand], tmp_path: Path) -> None:
    stand.fails = {("bottle", FIRST)}
    assert made(tmp_path / "bags") == 0
    kept = {path.name for path in (tmp_path / "bags").iterdir() if path.is_dir()}
    assert kept == {f"{t}-{FIRST + s}" for t in TASKS for s in range(2)} - {f"bottle-{FIRST}"}
    written = json.loads((tmp_path / "bags" / demonstrations.FILE).read_text())
    assert [row["success"] for row in written["rows"]].count(False) == 1 and len(written["rows"]) == 6
    assert written["settings"]["seeds"] == 2 and written["settings"]["hung"] == 0
    assert all("expert:=true" in start and "release:=fortress" in start for start in stand.starts)
    driven = list(stand.driven)
    assert made(tmp_path / "bags", 3) == 0 and len(stand.driven) == 9 and stand.driven[:6] == driven, "it goes on"


def test_what_was_cut_short_is_driven_again(
    stand: type[Stand], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stand.raises = [gazebo_launch.Suspended("this program stood still")]
    assert made(tmp_path) == 1 and "does not count" in capsys.readouterr().out
    assert made(tmp_path, minutes=0.0) == 1 and "6 episodes are left" in capsys.readouterr().out
    stand.raises = [gazebo_launch.Hung("Gazebo's clock has said nothing")] * (gazebo.HANGS - 1)
    assert made(tmp_path) == 0
    assert len(stand.driven) == len(set(stand.driven)) == 6
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(demonstrations.UNFINISHED)]
    assert json.loads((tmp_path / demonstrations.FILE).read_text())["settings"]["hung"] == gazebo.HANGS - 1
    stand.raises = [gazebo_launch.Hung("again")] * gazebo.HANGS
    with pytest.raises(gazebo_launch.Hung):
        made(tmp_path, 3)


def test_what_lies_there_is_not_written_over_or_mixed(stand: type[Stand], tmp_path: Path) -> None:
    mine = tmp_path / f"apple-{FIRST}"
    mine.mkdir()
    with pytest.raises(ConfigError, match="another folder"):
        made(tmp_path)
    assert mine.is_dir() and not stand.driven
    other = tmp_path / "other"
    assert made(other, 1, ("apple",)) == 0
    with pytest.raises(ConfigError, match="another set"):
        made(other, 1, ("apple",), overrides=["control.profile=gentle"])
    with pytest.raises(EcovlaError, match="pear"):
        made(other, 1, ("pear",))


def test_tables_and_strips_are_not_made_of_demonstrations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for more in (["--json", str(tmp_path / "g.json")], ["--pictures"]):
        assert cli.main(["gazebo", "--demonstrations", str(tmp_path), *more]) == 2
        assert "--demonstrations" in capsys.readouterr().err


@pytest.fixture
def launched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[gazebo_launch.Launched]:
    """A launch that starts nothing."""
    ros2 = tmp_path / "ros2"
    ros2.write_text("#!/bin/sh\ntrap 'exit' INT\nwhile :; do sleep 0.05; done\n")
    ros2.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    monkeypatch.setattr(gazebo_launch, "STOOD_S", 1e9)
    start_ros([])
    with gazebo_launch.Launched([], tmp_path / "launch.log", Signals(), policy=False) as made:
        yield made
    rclpy.try_shutdown()


def test_the_recorder_listens_before_the_arm_moves_and_leaves_a_bag_that_can_be_read(
    launched: gazebo_launch.Launched, tmp_path: Path
) -> None:
    node, kinds = launched._node, (*[Image] * len(CAMERAS), JointState, String)
    told = {topic: (node.create_publisher(kind, topic, qos.LATCHED), kind)
            for topic, kind in zip(gazebo_launch.RECORDED, kinds)}  # fmt: skip
    told["/instruction"][0].publish(String(data="before it listened"))
    with launched._recording(tmp_path / "bag"):
        for topic, kind in list(told.values())[:-1]:
            topic.publish(kind())
        due = time.monotonic() + 0.5
        launched.driver.spin(1.0, lambda: time.monotonic() < due)
    with Bag(tmp_path / "bag") as bag:
        topics = {raw.topic for raw in bag.raw(gazebo_launch.RECORDED)}
    assert topics == set(gazebo_launch.RECORDED)
    with pytest.raises(EcovlaError, match="record"), launched._recording(tmp_path / "bag"):
        raise AssertionError("a folder that exists is no place for a bag")
