"""Subscriptions and events that do not wake the executor: their owner looks at them when it wants to.

Each time the executor waits and wakes costs it most of a millisecond of a core; a look into a subscription costs some
hundredths of one. If every message of a driver that sends joint states at 1 kHz woke the executor, that would take a
whole core, and it would hold the interpreter's lock while other threads want to compute.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

from rclpy.callback_groups import CallbackGroup
from rclpy.qos import QoSProfile

from ecovla_ros.nodes.ros.events import EventHandler
from ecovla_ros.nodes.ros.intake import Intake, sender

PARAMETER_SERVICES = ("_parameters", "_parameter_types", "_parameters_atomically", "get_type_description")
"""Endings of the names of the services that every node has, and nobody calls in a hurry."""
EVENTS_S = 1.0
"""Time between two looks at events, s."""


class NeverWakes(CallbackGroup):
    """A callback group whose members never wake the executor."""

    def can_execute(self, entity: Any) -> bool:
        """Never."""
        return False

    def beginning_execution(self, entity: Any) -> bool:
        """Never."""
        return False

    def ending_execution(self, entity: Any) -> None:
        """Nothing had begun."""


class OncePerSecond(CallbackGroup):
    """Events of a node and its parameter services are looked at once a second.

    An event: a peer asks for another quality of service. A node has a dozen or two of them, and the executor walks
    through all whenever it waits: a fifth of its time.
    """

    def __init__(self) -> None:
        super().__init__()
        self._open, self._next_s = False, 0.0

    def turn(self, node: Any, now_s: float) -> None:
        """Call it before each wait: once a second new events of `node` are taken in, and this wait looks at all."""
        self._open = now_s >= self._next_s
        if self._open:
            self._next_s = now_s + EVENTS_S
            events = [event for event in node.waitables if isinstance(event, EventHandler)]
            services = [service for service in node.services if service.srv_name.endswith(PARAMETER_SERVICES)]
            for entity in (*events, *services):
                if not isinstance(entity.callback_group, OncePerSecond):
                    entity.callback_group = self
                    self.add_entity(entity)

    def can_execute(self, entity: Any) -> bool:
        """Whether this is the turn to look."""
        return self._open

    def beginning_execution(self, entity: Any) -> bool:
        """Always: one thread spins."""
        return True

    def ending_execution(self, entity: Any) -> None:
        """Nothing was held."""


class PolledTopic:
    """The last messages of a topic, for any thread. They stay bytes until somebody asks for one."""

    def __init__(self, node: Any, kind: Any, topic: str, profile: QoSProfile, most_bytes: int) -> None:
        """The middleware keeps as many messages as the profile's depth between two looks. Longer ones than `most_bytes`
        are dropped unread.
        """
        self._node, self._kind, self._depth, self._most = node, kind, profile.depth, most_bytes
        self._subscription = node.create_subscription(
            kind, topic, lambda _raw: None, profile, callback_group=NeverWakes(), raw=True
        )
        self.intake = Intake(node, kind, topic, most_bytes)
        self._lock = threading.Lock()

    def newest(self) -> list[tuple[bytes, bytes]]:
        """The messages that came since the last call and are kept, serialized, each with its publisher, newest first:
        whoever cannot read the first may take the one before.
        """
        with self._lock:
            return list(self._taken())[::-1]

    def close(self) -> None:
        """End the subscription."""
        self._node.destroy_subscription(self._subscription)

    def _taken(self) -> Iterator[tuple[bytes, bytes]]:
        with self._subscription.handle:
            for _ in range(self._depth):  # as many as there can be: a look that finds nothing is not free
                taken = self._subscription.handle.take_message(self._kind, True)
                if taken is None:
                    return
                raw, gid = taken[0], sender(taken[1])
                if len(raw) > self._most:
                    self.intake.read(raw, gid)
                else:
                    yield raw, gid
