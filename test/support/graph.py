"""A small ROS 2 graph inside a test: nodes and a tester on one executor, a domain of its own, loopback only."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image, JointState

from ecovla_ros import wire
from ecovla_ros.types import CAMERAS, ActionChunk, ArmState, FrameReport, Observation

TIMEOUT_S = 10.0
"""DDS discovery is slow once in a while."""


class Graph:
    """What is on the executor. `tester` publishes, listens and calls."""

    def __init__(self) -> None:
        self.executor = SingleThreadedExecutor()
        self.tester = self.add(rclpy.create_node("tester"))
        self.nodes: list[Any] = []

    def add(self, node: Any) -> Any:
        self.executor.add_node(node)
        return node

    def start(self, make: Callable[..., Any], **parameters: Any) -> Any:
        """A node of this package with these parameters; `cli_args`: arguments of ROS."""
        arguments = {"cli_args": parameters.pop("cli_args")} if "cli_args" in parameters else {}
        overrides = [Parameter(name, value=value) for name, value in parameters.items()]
        node = self.add(make(parameter_overrides=overrides, **arguments))
        self.nodes.append(node)
        return node

    def until(
        self, condition: Callable[[], Any], what: str | Callable[[], str] = "", timeout_s: float = TIMEOUT_S
    ) -> Any:
        """Spin until the condition holds; fails, saying what did not happen."""
        end = time.monotonic() + timeout_s
        while not (value := condition()):
            if time.monotonic() > end:
                raise AssertionError(
                    f"within {timeout_s} s not seen: {what() if callable(what) else what or condition}"
                )
            self.executor.spin_once(timeout_sec=0.01)
        return value

    def spin(self, seconds: float) -> None:
        """Let time pass."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.executor.spin_once(timeout_sec=0.01)

    def listen(self, kind: Any, topic: str, profile: Any = 10) -> list[Any]:
        """A list that fills with the messages of a topic."""
        received: list[Any] = []
        self.tester.create_subscription(kind, topic, received.append, profile)
        return received

    def call(self, kind: Any, name: str, request: Any) -> Any:
        client = self.tester.create_client(kind, name)
        self.until(client.service_is_ready, f"service {name}")
        future = client.call_async(request)
        self.until(future.done, f"answer of {name}")
        return future.result()

    def matched(self, publisher: Any, readers: int = 1) -> Any:
        """The publisher, once that many subscriptions have found it."""
        self.until(lambda: publisher.get_subscription_count() >= readers, f"reader of {publisher.topic_name}")
        return publisher


@contextmanager
def graph() -> Iterator[Graph]:
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    os.environ.setdefault("AMENT_PREFIX_PATH", sys.prefix)
    rclpy.init(domain_id=1 + os.getpid() % 100)
    made = Graph()
    try:
        yield made
    finally:
        for node in made.nodes:
            node.close()
        made.executor.shutdown()
        for node in (*made.nodes, made.tester):  # else the next test would find their topics
            node.destroy_node()
        rclpy.try_shutdown()


class FakeEngine:
    """Answers at once with the joints it saw; remembers what it was asked."""

    def __init__(self, instructions: tuple[str, ...] = ()) -> None:
        spec = SimpleNamespace(name="fake", cameras=dict.fromkeys(CAMERAS, (8, 8)), instructions=instructions)
        self.policy = SimpleNamespace(spec=spec)
        self.seen: list[Observation] = []
        self.resets = self.rests = 0
        self.closed = False
        self.failure: Exception | None = None
        self.total_ms = 2.0
        """What its calls are said to take, ms."""
        self.cold_frames = 0

    def step(self, obs: Observation, rest: bool = True) -> Any:
        if self.failure is not None:
            raise self.failure
        self.seen.append(obs)
        chunk = ActionChunk(obs.stamp_ns, 0.1, np.tile(obs.joints, (4, 1)), np.full(4, obs.gripper))
        return SimpleNamespace(
            chunk=chunk, report=FrameReport(obs.stamp_ns, {"act": 1.0}, self.total_ms, method="dense")
        )

    def rest(self) -> None:
        self.rests += 1

    def reset(self, seed: int) -> None:
        self.resets += 1

    def close(self) -> None:
        self.closed = True


def picture(stamp_ns: int, encoding: str = "rgb8") -> Image:
    msg = wire.fill_image(Image(), np.full((8, 8, 3), 128, np.uint8), stamp_ns, "camera")
    msg.encoding = encoding
    return msg


def joints(stamp_ns: int, position: float = 0.1) -> JointState:
    return wire.fill_joint_state(JointState(), ArmState(0, np.full(7, position), np.zeros(7), 0.5), stamp_ns)
