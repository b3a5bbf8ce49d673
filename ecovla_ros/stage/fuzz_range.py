"""A node as a process that is shot at, and the process that shoots. Used by the fuzz campaign and by the attacks."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import rclpy
from rclpy.executors import SingleThreadedExecutor

from ecovla_ros.errors import EcovlaError
from ecovla_ros.nodes.ros.process import start_ros
from ecovla_ros.stage import children
from ecovla_ros.stage.children import Child

ANSWER_S = 10.0
"""A good message must be answered within this time; the machine computes other things meanwhile, s."""
MEMORY_MB = 5.0
"""Resident memory may grow by so much."""
START_RAD = 0.1
"""Where every joint of the arm stands, rad."""
Row = dict[str, Any]
Here = TypeVar("Here", bound="Range")


class Range:
    """A node as a process, and this process's node that shoots at it. A context manager."""

    def __init__(self, name: str, out: Path, overrides: Sequence[str], **parameters: Any) -> None:
        out.mkdir(parents=True, exist_ok=True)
        domain = children.free_domain()
        surroundings = children.environment(domain, out)
        os.environ.update({k: v for k, v in surroundings.items() if k.startswith(("ROS_", "FASTDDS_", "AMENT_"))})
        self.child = Child(name, {"overrides": list(overrides), **parameters}, surroundings, out / f"{name}.log")
        start_ros([])
        self.node = rclpy.create_node("range")
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)

    def __enter__(self: Here) -> Here:
        return self

    def __exit__(self, *_: object) -> None:
        self.child.stop()
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.try_shutdown()

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        try:
            self.child.check()
        except EcovlaError:
            return False
        return True

    def memory_mb(self) -> float:
        """Resident memory of the process, MB."""
        text = Path(f"/proc/{self.child.pid}/status").read_text(encoding="ascii")
        return float(text.partition("VmRSS:")[2].split()[0]) / 1000.0

    def now_ns(self) -> int:
        """Time of the node's clock, ns."""
        return int(self.node.get_clock().now().nanoseconds)

    def spin(self, seconds: float = 0.0) -> None:
        """Let messages come."""
        end = time.monotonic() + seconds
        self._executor.spin_once(timeout_sec=0.0)
        while (left_s := end - time.monotonic()) > 0.0:
            self._executor.spin_once(timeout_sec=min(left_s, 0.01))

    def until(self, there: Callable[[], Any], seconds: float = ANSWER_S) -> bool:
        """Spin until it is there. Returns whether it came."""
        end = time.monotonic() + seconds
        while not there():
            if time.monotonic() > end or not self.alive:
                return False
            self._executor.spin_once(timeout_sec=0.005)
        return True

    def call(self, kind: Any, name: str, request: Any, seconds: float = ANSWER_S) -> Any:
        """The answer of a service; None when none came."""
        client: Any = self.node.create_client(kind, name)
        try:
            if not self.until(client.service_is_ready, seconds):
                return None
            future = client.call_async(request)
            return future.result() if self.until(future.done, seconds) else None
        finally:
            self.node.destroy_client(client)


class Target(Range):
    """What a node that is shot at has to have."""

    publishers: dict[str, Any]
    unreadable = 0
    """Messages of which the node has said that it could not read them."""

    def sound(self, topic: str) -> Any:
        """A good message of a topic."""
        raise NotImplementedError

    def services(self) -> dict[str, str]:
        """Full names of the services that the node offers, and their types."""
        name, found = self.child.name, dict[str, list[str]]()

        def told() -> bool:
            if name in self.node.get_node_names():
                found.update(self.node.get_service_names_and_types_by_node(name, "/"))
            return f"/{name}/get_parameters" in found

        self.until(told)
        self.spin(1.0)  # the graph tells a node before all of its services
        told()
        return {service: kinds[0] for service, kinds in found.items()}
