"""`/diagnostics` (REP-107): once a second, and at once when the state changes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock, ClockType

from ecovla_ros.errors import short
from ecovla_ros.nodes.ros import qos

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR
HARDWARE = "kinova_gen3"
MOST_TEXT = 500
"""Characters of a message or value at most: what comes in must not make a megabyte of status."""
NEWS, NEWS_HZ = 20.0, 10.0
"""So many changes are published at once, and then so many a second; what comes faster is told once a second."""


class Diagnostics:
    """The state of one node. `set` may be called from any thread."""

    def __init__(self, node: Any, values: Callable[[], Mapping[str, object]]) -> None:
        """`values` is asked for the key/value pairs at each publication."""
        self._node, self._values = node, values
        self._level, self._message = OK, "starting"
        self._left, self._counted_s = NEWS, time.monotonic()
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", qos.REPORT)
        self._timer = node.create_timer(1.0, self.publish, clock=Clock(clock_type=ClockType.STEADY_TIME))

    @property
    def message(self) -> str:
        """What is said now."""
        return self._message

    def set(self, level: bytes, message: str) -> bool:
        """Say something; published at once when it is new. Returns whether it was."""
        if (level, message) == (self._level, self._message):
            return False
        self._level, self._message = level, message
        now_s = time.monotonic()
        self._left = min(self._left + NEWS_HZ * (now_s - self._counted_s), NEWS)
        self._counted_s = now_s
        if self._left >= 1.0:
            self._left -= 1.0
            self.publish()
        return True

    def publish(self) -> None:
        """Publish what is true now."""
        array = DiagnosticArray()
        array.header.stamp = self._node.get_clock().now().to_msg()
        array.status = [status(self._node.get_fully_qualified_name(), self._level, self._message, self._values())]
        self._publisher.publish(array)


def status(name: str, level: bytes, message: str, values: Mapping[str, object]) -> DiagnosticStatus:
    """One DiagnosticStatus with its values as text."""
    pairs = [KeyValue(key=key, value=_text(value)) for key, value in values.items()]
    return DiagnosticStatus(
        level=level, name=name, message=short(message, MOST_TEXT), hardware_id=HARDWARE, values=pairs
    )


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else short(value, MOST_TEXT)
