"""What the executor does not wait for: subscriptions whose owner takes what came when it wants it, and rare events.

The executor needs most of a millisecond of processor each time it waits, a look into a subscription hundredths of one.
A driver that sends joint states at 1 kHz would take a whole core, and the interpreter's lock from who computes beside.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

from rclpy.callback_groups import CallbackGroup
from rclpy.event_handler import EventHandler
from rclpy.qos import QoSProfile
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import JointState

from ecovla_ros.errors import ObservationError
from ecovla_ros.types import ArmJoints, ArmState
from ecovla_ros.wire import JointStates

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
        self._lock = threading.Lock()

    def raw(self) -> list[bytes]:
        """The messages that came since the last call and are kept, oldest first, serialized."""
        with self._lock:
            return list(self._taken())

    def every(self) -> list[Any]:
        """The messages that came since the last call and are kept, oldest first."""
        with self._lock:
            return [deserialize_message(taken, self._kind) for taken in self._taken()]

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


class ArmStates:
    """The arm's state, from `joint_states`, whoever else publishes there; for any thread."""

    def __init__(self, node: Any, joints: ArmJoints, part_age_s: float, profile: QoSProfile, length: int) -> None:
        """`length`: messages of one kind that are kept, to find the state of a time."""
        self._stream = PolledTopic(node, JointState, "joint_states", profile)
        self._states = JointStates(lambda raw: deserialize_message(raw, JointState), joints, part_age_s, length)
        self._lock = threading.Lock()

    def newest(self, finite: bool = True) -> ArmState | None:
        """The state of now; None when no joint of the arm came since the last call.

        Raises ObservationError: joints missing or malformed, and unless `finite` is False not finite.
        """
        return self._read(lambda: self._states.newest(finite))

    def nearest(self, stamp_ns: int) -> ArmState:
        """The state of a time. Raises ObservationError as `newest`, and where nothing came yet."""
        return self._read(lambda: self._states.nearest(stamp_ns))

    @property
    def others(self) -> list[str]:
        """Joints on the topic that are not this arm's."""
        return self._states.others if self._states.passed_over else []

    def close(self) -> None:
        """End the subscription."""
        self._stream.close()

    def _read(self, state: Callable[[], Any]) -> Any:
        """What is malformed is told unless there is a state all the same."""
        wrong: ObservationError | None = None
        with self._lock:
            for raw in self._stream.raw():
                try:
                    self._states.put(raw)
                except ObservationError as error:
                    wrong = error
            try:
                found = state()
            except ObservationError as error:
                raise wrong or error from error
        if found is None and wrong is not None:
            raise wrong
        return found
