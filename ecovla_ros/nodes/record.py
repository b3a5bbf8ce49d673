"""Node `record`: every topic into one MCAP bag, as raw bytes, without the C++ recorder.

Topics are discovered while it runs. However it is ended by a signal, the bag is closed and can be read.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from rcl_interfaces.msg import ParameterDescriptor
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

from ecovla_ros.bags.write import BagWriter
from ecovla_ros.errors import BagError, short
from ecovla_ros.nodes.ros import process

DISCOVERY_S = 0.2
DEPTH = 50


class RecordNode(Node):
    """Records until `close`."""

    def __init__(self, output: str | Path = "", **options: Any) -> None:
        """Open the bag. Raises BagError when `output` (or else the parameter) exists or cannot be written."""
        super().__init__("record", **options)
        describe = ParameterDescriptor(description="folder of the bag; must not exist")
        self.declare_parameter("output", str(output) or "bag", describe)
        self._bag = BagWriter(str(self.get_parameter("output").value))
        self._wall = Clock(clock_type=ClockType.SYSTEM_TIME)
        self._known: set[str] = set()
        self._readers: dict[str, Any] = {}
        self.create_timer(DISCOVERY_S, self._discover, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self._discover()

    @property
    def counts(self) -> dict[str, int]:
        """Topic -> messages recorded."""
        return self._bag.counts

    def close(self) -> None:
        """Stop listening and finish the bag. May be called twice."""
        for reader in self._readers.values():
            self.destroy_subscription(reader)
        self._readers = {}
        self._bag.close()
        self.get_logger().info(f"{sum(self.counts.values())} messages of {len(self.counts)} topics in {self._bag.path}")

    def _discover(self) -> None:
        for topic, kinds in self.get_topic_names_and_types():
            offers = self.get_publishers_info_by_topic(topic)
            if topic in self._known or not offers:
                continue
            self._known.add(topic)
            try:
                self._follow(topic, kinds[0], [offer.qos_profile for offer in offers])
            except (BagError, ImportError, AttributeError) as error:
                self.get_logger().warning(f"not recorded: {topic}: {error}")
            except RuntimeError as error:  # rclpy's RCLError: SROS2 does not let this enclave hear the topic
                self.get_logger().warning(f"not recorded: {topic}: the middleware refused it: {short(str(error))}")

    def _follow(self, topic: str, kind: str, offers: list[QoSProfile]) -> None:
        """Subscribe as its publishers allow: reliable and latched only if all of them are."""
        reliable = all(offer.reliability == ReliabilityPolicy.RELIABLE for offer in offers)
        latched = all(offer.durability == DurabilityPolicy.TRANSIENT_LOCAL for offer in offers)
        profile = QoSProfile(
            history=HistoryPolicy.KEEP_LAST,
            depth=DEPTH,
            reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
        )
        package, _, name = kind.partition("/msg/")
        message = getattr(importlib.import_module(f"{package}.msg"), name)

        def receive(raw: bytes) -> None:
            self._bag.write(topic, self._wall.now().nanoseconds, raw)

        reader = self.create_subscription(message, topic, receive, profile, raw=True)
        try:
            self._bag.add(topic, kind, latched, reliable)
        except BagError:
            self.destroy_subscription(reader)
            raise
        self._readers[topic] = reader


def main(arguments: list[str] | None = None) -> int:
    """Entry point of `ros2 run ecovla_ros record --ros-args -p output:=my_bag`."""
    return process.run("record", RecordNode, arguments)
