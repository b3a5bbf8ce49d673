"""Subscriptions that wake nobody: the middleware keeps what comes, and its owner takes it when it wants it.

The executor needs about a millisecond of processor for a message that it is woken for. A driver that sends joint states
at 1 kHz would take a whole core, and the interpreter's lock from whoever computes beside the executor.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

from rclpy.callback_groups import CallbackGroup
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message

from ecovla_ros import wire
from ecovla_ros.wire.pairing import History


class Unwatched(CallbackGroup):
    """What is in it never wakes the executor."""

    def can_execute(self, entity: Any) -> bool:
        """Never."""
        return False

    def beginning_execution(self, entity: Any) -> bool:
        """Never."""
        return False

    def ending_execution(self, entity: Any) -> None:
        """Nothing had begun."""


class Stream:
    """The last messages of a topic, best effort, for any thread. Any message that starts with a header."""

    def __init__(self, node: Any, kind: Any, topic: str, depth: int) -> None:
        profile = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=depth, reliability=ReliabilityPolicy.BEST_EFFORT)
        self._node, self._kind = node, kind
        self._subscription = node.create_subscription(
            kind, topic, lambda _msg: None, profile, callback_group=Unwatched()
        )
        self._history = History(depth)
        self._lock = threading.Lock()

    def newest(self) -> Any:
        """The newest message that came since the last call; None when none did."""
        raw = None
        with self._lock:
            for taken in self._taken():
                raw = taken
        return None if raw is None else deserialize_message(raw, self._kind)

    def nearest(self, stamp_ns: int) -> Any:
        """The message stamped nearest to `stamp_ns` among the last `depth`; None when none came yet."""
        with self._lock:
            for taken in self._taken():
                self._history.put(taken, wire.raw_stamp_ns(taken))
            raw = self._history.nearest(stamp_ns)
        return None if raw is None else deserialize_message(raw, self._kind)

    def close(self) -> None:
        """End the subscription."""
        self._node.destroy_subscription(self._subscription)

    def _taken(self) -> Iterator[bytes]:
        with self._subscription.handle:
            while (taken := self._subscription.handle.take_message(self._kind, True)) is not None:
                yield taken[0]
