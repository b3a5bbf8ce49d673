"""What the executor does not wait for: subscriptions whose owner takes what came when it wants it, and rare events.

The executor needs most of a millisecond of processor each time it waits, a look into a subscription hundredths of one.
A driver that sends joint states at 1 kHz would take a whole core, and the interpreter's lock from who computes beside.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

from rclpy.callback_groups import CallbackGroup
from rclpy.event_handler import EventHandler
from rclpy.qos import QoSProfile
from rclpy.serialization import deserialize_message

from ecovla_ros import wire
from ecovla_ros.wire.pairing import History

EVENTS_S = 1.0
"""Time between two looks at events, s."""


class NeverWakes(CallbackGroup):
    """What is in it never wakes the executor."""

    def can_execute(self, entity: Any) -> bool:
        """Never."""
        return False

    def beginning_execution(self, entity: Any) -> bool:
        """Never."""
        return False

    def ending_execution(self, entity: Any) -> None:
        """Nothing had begun."""


class OncePerSecond(CallbackGroup):
    """Events of a node (a peer asks for another quality of service) are looked at once a second.

    A node has a dozen or two of them, and the executor walks through all whenever it waits: a fifth of its time.
    """

    def __init__(self) -> None:
        super().__init__()
        self._open, self._next_s = False, 0.0

    def turn(self, node: Any, now_s: float) -> None:
        """Call it before each wait: once a second new events of `node` are taken in, and this wait looks at all."""
        self._open = now_s >= self._next_s
        if self._open:
            self._next_s = now_s + EVENTS_S
            for event in node.waitables:
                if isinstance(event, EventHandler) and not isinstance(event.callback_group, OncePerSecond):
                    event.callback_group = self
                    self.add_entity(event)

    def can_execute(self, entity: Any) -> bool:
        """Whether this is the turn to look."""
        return self._open

    def beginning_execution(self, entity: Any) -> bool:
        """Always: one thread spins."""
        return True

    def ending_execution(self, entity: Any) -> None:
        """Nothing was held."""


class PolledTopic:
    """The last messages of a topic, for any thread."""

    def __init__(self, node: Any, kind: Any, topic: str, profile: QoSProfile) -> None:
        """As many messages are kept as the profile's depth."""
        self._node, self._kind, self._depth = node, kind, profile.depth
        self._subscription = node.create_subscription(
            kind, topic, lambda _msg: None, profile, callback_group=NeverWakes()
        )
        self._history = History(profile.depth)
        self._lock = threading.Lock()

    def newest(self) -> bytes | None:
        """The newest message that came since the last call, serialized; None when none did."""
        newest = None
        with self._lock:
            for taken in self._taken():
                newest = taken
        return newest

    def every(self) -> list[Any]:
        """The messages that came since the last call and are kept, oldest first."""
        with self._lock:
            return [deserialize_message(taken, self._kind) for taken in self._taken()]

    def nearest(self, stamp_ns: int) -> Any:
        """The message stamped nearest to `stamp_ns` among those kept; None when none came yet.

        For kinds that start with a header.
        """
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
            for _ in range(self._depth):  # as many as there can be: a look that finds nothing is not free
                taken = self._subscription.handle.take_message(self._kind, True)
                if taken is None:
                    return
                yield taken[0]
