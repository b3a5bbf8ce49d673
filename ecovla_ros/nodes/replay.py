"""Node `replay`: publishes the inputs of a bag with their timing, and `/clock`, so that the live nodes run on it.

`/clock` is the clock of the stamps: nodes that follow it (use_sim_time) find the pictures as fresh as they were. Only
the policy's inputs are published; chunks and commands that were recorded stay in the bag.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import rclpy
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rosgraph_msgs.msg import Clock as ClockMessage
from std_msgs.msg import String

from ecovla_ros import wire
from ecovla_ros.bags.clock import timed
from ecovla_ros.bags.inputs import IMAGES, choose, mapping
from ecovla_ros.bags.read import Bag
from ecovla_ros.bags.stamps import clock_offset, stamp_of
from ecovla_ros.bags.storage import Raw
from ecovla_ros.errors import BagError, ConfigError
from ecovla_ros.nodes.ros import process, qos

TICK_S = 0.002
"""How often it looks whether a message is due, s."""
CLOCK_NS = 10_000_000
"""`/clock` ticks at least this often, ns of the bag."""


class ReplayNode(Node):
    """One bag, from its start, once every topic has a reader."""

    def __init__(
        self, ended: Callable[[], None] = lambda: None, steady_ns: Callable[[], int] = time.monotonic_ns, **options: Any
    ) -> None:
        """Open the bag; `ended` is called at its end. Raises BagError or ConfigError."""
        super().__init__("replay", **options)
        self._ended, self._steady_ns = ended, steady_ns
        rate, wait_s, paused = self._declared()
        self._bag = Bag(str(self.get_parameter("bag").value))
        try:
            texts = [text for text in self.get_parameter("map").value if text]
            topics = choose(self._bag, mapping(texts), instruction=str(self.get_parameter("instruction").value))
        except BagError:
            self._bag.close()
            raise
        self._rate, self._paused = rate, paused
        self._patient_ns = steady_ns() + round(wait_s * 1e9)
        self._clock_topic = self.create_publisher(ClockMessage, "/clock", qos.SENSOR)
        self._outputs = {topic: self._publisher(name, self._bag.topics[topic]) for name, topic in topics.items()}
        self._text = str(self.get_parameter("instruction").value)
        self._instruction = self.create_publisher(String, "instruction", qos.LATCHED) if self._text else None
        self._offset_ns = self._first_offset([t for name, t in topics.items() if name != "instruction"])
        self.played, self.rounds = 0, 0
        self._rewind()
        self.create_timer(TICK_S, self._tick, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self.get_logger().info(f"{self._bag.path}: {', '.join(self._outputs)}; waiting for readers")

    def _declared(self) -> tuple[float, float, bool]:
        def declare(name: str, default: Any, text: str) -> Any:
            return self.declare_parameter(name, default, ParameterDescriptor(description=text)).value

        declare("bag", "bag", "rosbag2 folder, .mcap or .db3 file")
        declare("map", [""], "input=topic, for third_person, wrist, joint_states and instruction")
        declare("instruction", "", "the task in words, published in place of the bag's")
        declare("loop", False, "begin again at the end; the clock jumps back")
        rate = float(declare("rate", 1.0, "seconds of the bag in a second"))
        wait_s = float(declare("wait_s", 20.0, "how long to wait for a reader of every topic, s"))
        if not 0.01 <= rate <= 100.0 or not 0.0 <= wait_s <= 3600.0:
            raise ConfigError(f"rate {rate}, wait_s {wait_s}; valid: rate from 0.01 to 100, wait_s from 0 to 3600 s")
        return rate, wait_s, bool(declare("paused", False, "play nothing but what `step` asks for"))

    def _publisher(self, name: str, kind: str) -> Any:
        package, _, message = kind.partition("/msg/")
        ending = {IMAGES[0]: f"{name}/image", IMAGES[1]: f"{name}/image/compressed"}.get(kind, name)
        profile = qos.LATCHED if name == "instruction" else qos.COMMAND if name == "joint_states" else qos.SENSOR
        return self.create_publisher(getattr(importlib.import_module(f"{package}.msg"), message), ending, profile)

    def _first_offset(self, topics: list[str]) -> int:
        for raw in timed(self._bag, topics):
            return clock_offset(stamp_of(raw), raw.time_ns)
        raise BagError(f"'{self._bag.path}' holds no message on {', '.join(topics)}")

    def _rewind(self) -> None:
        self._messages: Iterator[Raw] = timed(self._bag, list(self._outputs))
        self._next: Raw | None = next(self._messages)
        self._begin_ns = self._next.time_ns
        self._clock_ns = self._begin_ns - CLOCK_NS
        self._started_ns: int | None = None
        if self._instruction is not None:
            self._instruction.publish(String(data=self._text))

    @property
    def ready(self) -> bool:
        """Whether every topic has a reader."""
        return all(p.get_subscription_count() for p in self._outputs.values())

    def step(self) -> Raw | None:
        """Publish the next message, and the clock before it; None at the end. Raises BagError at a damage."""
        raw = self._next
        if raw is None:
            return None
        self._tell_time(raw.time_ns)
        self._outputs[raw.topic].publish(raw.data)
        self.played += 1
        self._next = next(self._messages, None)
        return raw

    def _tick(self) -> None:
        if self._paused or (self._started_ns is None and not self.ready and self._steady_ns() < self._patient_ns):
            return
        if self._started_ns is None:
            self._started_ns = self._steady_ns()
            self.get_logger().info("playing" if self.ready else "playing; nobody reads some of it")
        now_ns = self._begin_ns + round((self._steady_ns() - self._started_ns) * self._rate)
        while self._next is not None and self._next.time_ns <= now_ns:
            self.step()
        if now_ns - self._clock_ns >= CLOCK_NS:
            self._tell_time(now_ns)
        if self._next is None:
            self._end()

    def _tell_time(self, time_ns: int) -> None:
        self._clock_ns = time_ns
        message = ClockMessage()
        wire.set_stamp(message.clock, time_ns - self._offset_ns)
        self._clock_topic.publish(message)

    def _end(self) -> None:
        self.rounds += 1
        self.get_logger().info(f"the end: {self.played} messages played")
        if bool(self.get_parameter("loop").value):
            self._rewind()
        else:
            self._paused = True
            self._ended()

    def close(self) -> None:
        """Close the bag."""
        self._bag.close()


def main(arguments: list[str] | None = None) -> int:
    """Entry point of `ros2 run ecovla_ros replay --ros-args -p bag:=my_bag`."""
    return process.run("replay", lambda: ReplayNode(rclpy.try_shutdown), arguments)
