"""The processes of one trial, and this process's node beside them, in a ROS domain that no earlier trial has used.

What was killed stays known to whoever heard of it until its lease ends, 20 s: a service of it seems to be ready, and a
request to it is never answered. So each trial starts with participants that have never heard of the one before.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import CompressedImage, Image

from ecovla_ros import wire
from ecovla_ros.nodes.ros import qos
from ecovla_ros.nodes.ros.process import keep_loaded, start_ros
from ecovla_ros.stage import children
from ecovla_ros.stage.children import Child
from ecovla_ros.stage.driver import LEASE_S, Driver
from ecovla_ros.stage.recorded_controller import RecordedController
from ecovla_ros.types import CAMERAS

CONFIG = "mini_sim.yaml"
JPEG = 90
"""Quality of compressed pictures, of 100."""
NODES = ("sim", "guard", "policy")


@dataclass(frozen=True)
class Far:
    """Another machine: how a program is started there, and the profile that its Fast DDS uses."""

    prefix: tuple[str, ...]
    profile: str


class Stage:
    """Simulator, guard and policy as processes. A context manager: what was started ends with it."""

    def __init__(
        self, out: Path, overrides: Sequence[str] = (), relayed: bool = False, compressed: bool = False,
        far: Far | None = None,
    ) -> None:  # fmt: skip
        """`relayed`: the policy gets its pictures through this process, which can stop them; `compressed`: as JPEG.
        `far`: where the policy runs, if not here. Logs go to `out`.

        Raises ConfigError when every ROS domain is taken.
        """
        domain = children.fresh_domain()
        surroundings = children.environment(domain, out)
        if far is not None:
            surroundings["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "SUBNET"
        there = surroundings if far is None else {**surroundings, "FASTDDS_DEFAULT_PROFILES_FILE": far.profile}
        keys = ("ROS_", "FASTDDS_", "AMENT_")
        os.environ.update({key: value for key, value in surroundings.items() if key.startswith(keys)})
        self._compressed = compressed
        relays = relayed and not compressed
        pictures = {f"{camera}/image": f"relay/{camera}/image" for camera in CAMERAS} if relays else {}
        parameters = {"config": CONFIG, "overrides": [*overrides, "policy.seed=0"]}
        more: dict[str, dict[str, object]] = {
            "guard": {"enable_lease_s": LEASE_S},
            "policy": {"compressed": compressed},
        }
        self._children = {
            name: Child(
                name,
                {**parameters, **more.get(name, {})},
                there if name == "policy" else surroundings,
                out / f"{name}.log",
                pictures if name == "policy" else {},
                far.prefix if far is not None and name == "policy" else (),
            )
            for name in NODES
        }
        start_ros([])
        self._executor = SingleThreadedExecutor()
        self.node = rclpy.create_node("trial")
        self._executor.add_node(self.node)
        self.values: dict[str, str] = {}
        """What the guard said last: key -> value."""
        self.heard: list[Callable[[], None]] = []
        """Called when the guard has said something."""
        self.node.create_subscription(DiagnosticStatus, "status", self._on_status, qos.LATCHED)
        self.arm = RecordedController(self.node)
        self.driver = Driver(self.node, self._executor, self._check)
        self.passing = relayed
        """Whether pictures are passed on."""
        self.picture_text = ""
        """Size of the pictures that are passed on."""
        self._killed: set[str] = set()
        self._pictures = [self._relay(camera) for camera in CAMERAS] if relayed else []

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        self.arm.end()
        for child in self._children.values():
            child.stop()
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.try_shutdown()

    def begin(self, task: str, seed: int) -> None:
        """Bring the nodes up, lay the scene and enable the guard. Raises EcovlaError."""
        self.driver.bring_up()
        self.driver.lay(task, seed)
        self.driver.enable(True)
        keep_loaded()  # a collection here would be measured as a delay there

    def kill(self, name: str) -> None:
        """SIGKILL a process."""
        self._killed.add(name)
        self._children[name].kill()

    def freeze(self, name: str, on: bool) -> None:
        """SIGSTOP a process; off: SIGCONT."""
        self._children[name].freeze(on)

    def shoot(self, picture: np.ndarray) -> None:
        """Publish the (H, W, 3) picture as both cameras', stamped now. Only where they are relayed."""
        now_ns = self.now_ns()
        for camera, onward in zip(CAMERAS, self._pictures, strict=True):
            onward.publish(wire.fill_image(Image(), picture, now_ns, camera))

    def cpu_s(self, name: str) -> float:
        """Processor time of a process so far, s."""
        fields = Path(f"/proc/{self._children[name].pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def now_ns(self) -> int:
        """Time of the node's clock, ns."""
        return int(self.node.get_clock().now().nanoseconds)

    def _check(self) -> None:
        for name, child in self._children.items():
            if name not in self._killed:
                child.check()

    def _relay(self, camera: str) -> Any:
        kind, topic = (CompressedImage, f"{camera}/image/compressed") if self._compressed else (
            Image, f"relay/{camera}/image")  # fmt: skip
        onward = self.node.create_publisher(kind, topic, qos.COMMAND)

        def forward(msg: Image) -> None:
            if self.passing:
                self.picture_text = f"{msg.width} x {msg.height} px"
                onward.publish(_jpeg(msg) if self._compressed else msg)

        self.node.create_subscription(Image, f"{camera}/image", forward, qos.SENSOR)
        return onward

    def _on_status(self, msg: DiagnosticStatus) -> None:
        self.values = {pair.key: pair.value for pair in msg.values}
        for call in self.heard:
            call()


def _jpeg(msg: Image) -> CompressedImage:
    """A picture as a camera's driver would compress it."""
    data = wire.compressed.encode_jpeg(wire.decode_image(msg), JPEG)
    return CompressedImage(header=msg.header, format="jpeg", data=data)
