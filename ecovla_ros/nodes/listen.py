"""Records a running graph for a while: `ecovla report --live`."""

from __future__ import annotations

import time
from pathlib import Path

import rclpy
from rclpy.executors import SingleThreadedExecutor

from ecovla_ros.errors import BagError
from ecovla_ros.nodes.process import Signals, start_ros
from ecovla_ros.nodes.record import RecordNode


def record(bag: str | Path, seconds: float) -> None:
    """Record every topic into a new bag. A signal ends it early. Raises BagError when nothing was heard."""
    signals = Signals()
    start_ros([])
    try:
        node = RecordNode(bag)
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        end = time.monotonic() + seconds
        while time.monotonic() < end and not signals.received:
            executor.spin_once(timeout_sec=0.1)
        node.close()
        counts = node.counts
        executor.shutdown()
        node.destroy_node()
    finally:
        rclpy.try_shutdown()
    if not any(count for topic, count in counts.items() if topic not in ("/rosout", "/parameter_events")):
        raise BagError(f"nothing was published for {seconds:.1f} s; valid: running nodes in the same ROS_DOMAIN_ID")
