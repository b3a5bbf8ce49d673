"""Records the running nodes for a given time, for `ecovla report --live`."""

from __future__ import annotations

import time
from pathlib import Path

import rclpy
from rclpy.executors import SingleThreadedExecutor

from ecovla_ros.errors import BagError
from ecovla_ros.nodes.record import RecordNode
from ecovla_ros.nodes.ros.process import Signals, start_ros

DISCOVERY_LIMIT_S = 10.0
OF_ROS = ("/rosout", "/parameter_events")


def record(bag: str | Path, seconds: float) -> None:
    """Record every topic into a new bag, for `seconds` from the first message heard. A signal ends it early.

    Discovery takes time of its own, which does not count. Raises BagError when nothing was heard within
    `DISCOVERY_LIMIT_S`.
    """
    signals = Signals()
    start_ros([])
    try:
        node = RecordNode(bag)
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        end, heard = time.monotonic() + DISCOVERY_LIMIT_S, False
        while time.monotonic() < end and not signals.received:
            executor.spin_once(timeout_sec=0.1)
            if not heard and _heard(node):
                end, heard = time.monotonic() + seconds, True
        node.close()
        heard = heard or _heard(node)
        executor.shutdown()
        node.destroy_node()
    finally:
        rclpy.try_shutdown()
    if not heard:
        raise BagError(
            f"nothing was published for {DISCOVERY_LIMIT_S:.0f} s; valid: running nodes in the same ROS_DOMAIN_ID"
        )


def _heard(node: RecordNode) -> bool:
    return any(count for topic, count in node.counts.items() if topic not in OF_ROS)
