"""From bytes on a topic to a message: what is too long or broken is counted by publisher, said once, and dropped."""

from __future__ import annotations

import struct
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rclpy.qos import QoSCompatibility, QoSProfile, qos_check_compatible
from rclpy.serialization import deserialize_message
from rclpy.subscription import Subscription

from ecovla_ros.errors import ObservationError, short
from ecovla_ros.wire import cdr

UNREADABLE = (RuntimeError, ValueError, TypeError, OverflowError, MemoryError, SystemError, struct.error)
"""What rclpy raises for bytes that are no message: RMWError is a RuntimeError."""
TRAJECTORY_BYTES = 2**20
"""Longest trajectory that is read, bytes."""
KNOWN = 64
"""Publishers that are told apart; what others send is counted together."""
LOOK_S = 0.1
"""The graph is asked at most this often who is behind an unknown publisher, s."""
NOBODY = b""
"""Stands for the publisher where rclpy does not say which it was: Humble's never does, others since 2025."""


@dataclass(frozen=True)
class Peer:
    """Somebody who publishes to a topic."""

    gid: bytes
    name: str
    """Of its node, with the namespace."""
    kind: str
    """Type of its messages, package/msg/Name."""
    profile: Any
    """Offered quality of service."""


def peers(node: Any, topic: str) -> list[Peer]:
    """Everybody who publishes to `topic`, as the graph knows them now."""
    return [
        Peer(bytes(end.endpoint_gid), _full(end.node_namespace, end.node_name), end.topic_type, end.qos_profile)
        for end in node.get_publishers_info_by_topic(topic)
    ]


@dataclass(frozen=True)
class Reach:
    """A topic that we listen to, and how."""

    kind: Any
    topic: str
    profile: QoSProfile

    def deaf(self, node: Any) -> str:
        """Which publisher cannot be heard, and why; empty when all can."""
        valid = f"{str(self.kind.__module__).split('.')[0]}/msg/{self.kind.__name__}"
        for peer in peers(node, self.topic):
            who = f"{self.topic}: {peer.name or 'somebody'} cannot be heard"
            if peer.kind != valid:
                return f"{who}: it sends {peer.kind}; valid: {valid}"
            level, reason = qos_check_compatible(_told(peer.profile, self.profile), self.profile)
            if level == QoSCompatibility.ERROR:
                return f"{who}, its quality of service does not match: {short(reason)}"
        return ""


def _told(theirs: QoSProfile, ours: QoSProfile) -> QoSProfile:
    """`theirs` as far as it is known: what the graph does not tell cannot be compared."""
    return QoSProfile(
        history=ours.history, depth=ours.depth, reliability=theirs.reliability, durability=theirs.durability
    )


def sender(info: Mapping[str, Any] | None) -> bytes:
    """Which publisher sent a message, from what the middleware tells beside it."""
    gid = (info or {}).get("publisher_gid")
    return bytes(gid["data"]) if gid else NOBODY


def informed(callback: Callable[[bytes, Any], None]) -> Callable[..., None]:
    """A callback of bytes and what is told beside them, as rclpy calls it: Humble's has nothing to tell."""
    return callback if hasattr(Subscription, "CallbackType") else (lambda raw: callback(raw, None))


class PublisherNames:
    """The node behind each publisher of a topic."""

    def __init__(self, node: Any, topic: str) -> None:
        self._node, self._topic = node, topic
        self._known: dict[bytes, str] = {}
        self._looked_s = -LOOK_S

    def of(self, gid: bytes) -> str:
        """Name of its node; asks the graph where it is not known yet."""
        name = self._known.get(gid, "")
        if not name and time.monotonic() - self._looked_s >= LOOK_S:
            self._looked_s = time.monotonic()
            self._known = {peer.gid: peer.name for peer in peers(self._node, self._topic) if peer.name}
            name = self._known.get(gid, "")
        return name or (f"a publisher {gid.hex()}" if gid else "a publisher")


def deserialized(raw: bytes, kind: Any) -> Any:
    """The message in these bytes. Raises ObservationError; what would end the process is not handed to the reader."""
    name = str(kind.__name__)
    cdr.check(raw, name)
    try:
        return deserialize_message(raw, kind)
    except UNREADABLE as error:
        raise ObservationError(f"{len(raw)} bytes that are no {name} ({type(error).__name__})") from error


def subscribe(
    node: Any, kind: Any, topic: str, callback: Callable[[Any], None], profile: QoSProfile, most: int
) -> None:
    """As `create_subscription`, for messages of others: of at most `most` bytes, and those that can be read."""
    intake = Intake(node, kind, topic, most)

    def receive(raw: bytes, info: Any) -> None:
        message = intake.read(raw, sender(info))
        if message is not None:
            callback(message)

    node.create_subscription(kind, topic, informed(receive), profile, raw=True)


class Intake:
    """One topic. `read` may be called from any one thread."""

    def __init__(self, node: Any, kind: Any, topic: str, most_bytes: int) -> None:
        """`most_bytes`: longer messages are dropped unread."""
        self._node, self._kind, self._topic, self._most = node, kind, topic, most_bytes
        self.names = PublisherNames(node, topic)
        self.dropped = 0
        """Messages that could not be read."""
        self.complaint = ""
        """What is wrong with the last message; empty when it could be read."""
        self._counts: Counter[bytes] = Counter()

    def read(self, raw: bytes, gid: bytes) -> Any:
        """The message in `raw`; None, with `complaint` set, when it cannot be read."""
        if len(raw) > self._most:
            return self.drop(gid, f"{len(raw)} bytes; valid: up to {self._most}")
        try:
            message = deserialized(raw, self._kind)
        except ObservationError as error:
            return self.drop(gid, str(error))
        self.complaint = ""
        return message

    def drop(self, gid: bytes, why: str) -> None:
        """Count a message that is not taken, and say so once for each publisher."""
        known = gid if gid in self._counts or len(self._counts) < KNOWN else NOBODY
        self.dropped += 1
        self._counts[known] += 1
        who = self.names.of(gid)
        self.complaint = f"{self._topic}: {who} sent {why}"
        if self._counts[known] == 1:
            self._node.get_logger().warning(f"{self.complaint}; dropped, and not said again of this publisher")


def _full(namespace: str, name: str) -> str:
    """The graph knows publishers before it knows their nodes: then the name is empty."""
    return "" if not name or name.startswith("_NODE_NAME_UNKNOWN") else f"{namespace.rstrip('/')}/{name}"
