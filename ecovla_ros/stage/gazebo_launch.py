"""One launch of Gazebo with arm, guard and policy, as a user starts it, and an episode driven in it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import rclpy
from geometry_msgs.msg import PoseStamped
from rclpy.executors import SingleThreadedExecutor
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image
from std_srvs.srv import Trigger

from ecovla_ros import config, wire
from ecovla_ros.errors import ConfigError, EcovlaError
from ecovla_ros.nodes.ros import qos
from ecovla_ros.nodes.ros.process import PARENT, Signals
from ecovla_ros.sim import gazebo
from ecovla_ros.sim.props import REST_HEIGHT
from ecovla_ros.sim.tasks import TASKS
from ecovla_ros.stage.children import Child
from ecovla_ros.stage.driver import ANSWER_S, START_S, Driver
from ecovla_ros.stage.strip import EpisodeStrip
from ecovla_ros.stage.summary import Episode
from ecovla_ros.types import CAMERAS

STOOD_S = 2.0
"""This program stood still if it was not called for so long, s."""
SILENT_S = 60.0
"""Gazebo has ended or hangs if its clock says nothing for so long, s."""
LIFTED_M = 0.04
"""An object this much higher than where it rests was lifted, m."""
END_S = 30.0
"""The launch has so long to end at Ctrl-C, and again at SIGTERM, s."""
STOPPED_S = 1.5
"""A guard that is disabled has brought the arm to rest after so long, of simulated time, s."""
REST_S, HOME_S = 0.5, 120.0
"""The arm rests at its start pose for so long, of simulated time, and has so long to come there, of ours, s."""
RECORDED = (*(f"/{camera}/image" for camera in CAMERAS), "/joint_states", "/instruction")
"""What a demonstration is made of: an episode that is recorded begins when these are listened to."""
Row = dict[str, Any]


class Suspended(EcovlaError):
    """This program stood still during an episode."""


class Hung(EcovlaError):
    """Gazebo's clock stands."""


class Launched:
    """Gazebo, bridge, controller, guard and policy, as one launch, and our node beside them. A context manager."""

    def __init__(
        self, arguments: Sequence[str], log: Path, signals: Signals, strip: EpisodeStrip | None = None,
        policy: bool = True,
    ) -> None:  # fmt: skip
        """Start it. `strip` is shown what the cameras see; `policy`: as in `Driver`. Raises ConfigError where there is
        no `ros2`."""
        self._signals, self._log = signals, log
        ros2 = shutil.which("ros2")
        if ros2 is None:
            raise ConfigError("there is no program `ros2` here; valid: a sourced ROS 2 with this package in it")
        command = [*follows(), ros2, "launch", "ecovla_ros", "ecovla_gazebo.launch.py", *arguments]
        with log.open("wb") as output:
            self._launch = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        self._executor = SingleThreadedExecutor()
        self._node = rclpy.create_node("gazebo_campaign")
        self._executor.add_node(self._node)
        self._simulated_s, self._ticked_s = 0.0, time.monotonic()
        self._highest: dict[str, float] = {}
        self._node.create_subscription(Clock, "/clock", self._on_clock, qos.SENSOR)
        for task in TASKS.values():
            topic = gazebo.pose_topic(task.object)
            self._node.create_subscription(PoseStamped, topic, self._listener(task.object), qos.SENSOR)
        self._strip, self._begun_s = strip, 0.0
        if strip is not None:
            for camera in CAMERAS:
                self._node.create_subscription(Image, f"/{camera}/image", self._looker(camera, strip), qos.SENSOR)
        self._go_home: Any = self._node.create_client(Trigger, "gazebo/home")
        self._called_s = time.monotonic()
        self.driver = Driver(self._node, self._executor, self._watch, "gazebo", lambda: self._simulated_s, policy)

    def __enter__(self) -> Launched:
        return self

    def __exit__(self, *_: object) -> None:
        for kind in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            self._launch.send_signal(kind)
            try:
                self._launch.wait(END_S)
                break
            except subprocess.TimeoutExpired:
                continue
        self._executor.shutdown()
        self._node.destroy_node()

    def episode(self, task: str, seed: int, limit_s: float, bag: Path | None = None) -> Row:
        """Drive one task; its row. `bag`: a folder that is made, for every topic. Raises EcovlaError."""
        self._called_s = time.monotonic()
        self._home()
        episode = self.driver.lay(task, seed)
        with nullcontext() if bag is None else self._recording(bag):
            return self._drive(episode, limit_s)

    def _drive(self, episode: Episode, limit_s: float) -> Row:
        self._highest.clear()
        states: Counter[str] = Counter()
        last, began, self._begun_s = [0.0], time.monotonic(), self._simulated_s
        if self._strip is not None:
            self._strip.begin()

        def progress(elapsed: float, state: str) -> None:
            states[state] += round((elapsed - last[0]) * 1000)
            last[0] = elapsed

        self.driver.drive(episode, limit_s, progress)
        seconds = self._simulated_s - self._begun_s
        thing = TASKS[episode.task].object
        total = max(sum(states.values()), 1)
        return {
            **episode.row(),
            "lifted": self._highest.get(thing, 0.0) > REST_HEIGHT[thing] + LIFTED_M,
            "guard_states": {name: round(count / total, 3) for name, count in sorted(states.items()) if count},
            "real_time_factor": round(seconds / (time.monotonic() - began), 3),
        }

    @contextmanager
    def _recording(self, bag: Path) -> Iterator[None]:
        """`ecovla_ros record` in a process of its own, as a user would start it. Raises EcovlaError."""
        profile = str(config.shipped("fastdds.xml"))
        surroundings = {**os.environ, "FASTDDS_DEFAULT_PROFILES_FILE": profile, PARENT: str(os.getpid())}
        recorder = Child("record", {"output": str(bag)}, surroundings, self._log.with_name("record.log"))
        try:
            self.driver.until(lambda: self._recorded(recorder), START_S, "the recorder to listen")
            yield
            recorder.check()
        finally:
            recorder.stop()

    def _recorded(self, recorder: Child) -> bool:
        recorder.check()
        ears = self._node.get_subscriptions_info_by_topic
        return all(any(ear.node_name == recorder.name for ear in ears(topic)) for topic in RECORDED)

    def _home(self) -> None:
        """The arm is disarmed and at its start pose. Raises EcovlaError."""
        self.driver.enable(False)
        due = self._simulated_s + STOPPED_S  # a stop that the guard still sends would replace the way home
        self.driver.until(lambda: self._simulated_s > due, HOME_S, "the arm to come to rest")
        future = self._go_home.call_async(Trigger.Request())
        self.driver.until(future.done, ANSWER_S, "an answer of gazebo/home")
        if not future.result().success:
            raise EcovlaError(f"gazebo/home: {future.result().message}")
        due = self._simulated_s + float(future.result().message.split()[0]) + REST_S
        self.driver.until(lambda: self._simulated_s > due, HOME_S, "the arm to come to its start pose")

    def _on_clock(self, msg: Clock) -> None:
        self._simulated_s, self._ticked_s = wire.stamp_ns(msg.clock) / 1e9, time.monotonic()

    def _listener(self, name: str) -> Any:
        def hear(msg: PoseStamped) -> None:
            self._highest[name] = max(self._highest.get(name, 0.0), float(msg.pose.position.z))

        return hear

    def _looker(self, camera: str, strip: EpisodeStrip) -> Any:
        def look(msg: Image) -> None:
            if strip.wants(camera, self._simulated_s - self._begun_s):
                strip.add(camera, self._simulated_s - self._begun_s, wire.decode_image(msg, camera))

        return look

    def _watch(self) -> None:
        now = time.monotonic()
        stood, self._called_s = now - self._called_s, now
        if self._signals.received:
            raise KeyboardInterrupt
        if self._launch.poll() is not None:
            words = self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-6:]
            raise EcovlaError("the launch ended; its last words:\n" + "\n".join(words))
        if now - self._ticked_s > SILENT_S + stood:
            raise Hung(f"Gazebo's clock has said nothing for {now - self._ticked_s:.0f} s")
        if stood > STOOD_S:
            raise Suspended(f"this program stood still for {stood:.1f} s")


def follows() -> list[str]:
    """What starts a program so that it gets a Ctrl-C when this one has gone, as one that was killed can end nobody.

    `setpriv` of util-linux, which every Debian and Ubuntu has; where there is none: nothing.
    """
    found = shutil.which("setpriv")
    return [found, "--pdeathsig", "INT"] if found else []
