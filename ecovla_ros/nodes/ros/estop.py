"""The e-stop topic: every message of every publisher counts, and whatever cannot be understood counts as pressed.

It is heard several times over, since one subscription cannot: a reliable one does not match a publisher that sends with
best effort, one that asks for what was said before does not match a publisher that keeps nothing (and is made only
where another one does: whoever keeps nothing is warned of it by its own middleware). What comes twice is known by its
number. Nothing is overwritten before it is read (KEEP_ALL), so one press among a thousand other messages is heard.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from std_msgs.msg import Bool

from ecovla_ros.nodes.ros.events import SubscriptionEventCallbacks
from ecovla_ros.nodes.ros.intake import PublisherNames, peers, sender
from ecovla_ros.nodes.ros.polling import NeverWakes

KIND = "std_msgs/msg/Bool"
FLOOD = 1000
"""So many messages between two looks are a flood, in which a press could be lost: that counts as pressed."""
VOICES = 256
"""Publishers that are told apart."""
PLAIN = (b"\x00\x00", b"\x00\x01", b"\x00\x06", b"\x00\x07")
"""How a serialized message may begin: plain CDR of either version, big or little endian."""
BEAT = 2
"""A publisher counts as a heartbeat from so many messages on: one that speaks once is a command line."""


def _heard_by(reliability: ReliabilityPolicy, durability: DurabilityPolicy) -> QoSProfile:
    return QoSProfile(history=HistoryPolicy.KEEP_ALL, reliability=reliability, durability=durability)


PROFILES = (
    _heard_by(ReliabilityPolicy.RELIABLE, DurabilityPolicy.VOLATILE),
    _heard_by(ReliabilityPolicy.BEST_EFFORT, DurabilityPolicy.VOLATILE),
)
LATCHED = _heard_by(ReliabilityPolicy.RELIABLE, DurabilityPolicy.TRANSIENT_LOCAL)
"""Hears what was said before it was there."""
LISTEN_S = 0.5
"""What was said before has this long to come, s."""


@dataclass
class Voice:
    """What one publisher said last."""

    name: str
    pressed: bool = False
    heard_s: float = 0.0
    beats: int = 0
    number: int = 0
    """Of its last message."""


class EStop:
    """Belongs to one thread. Times are seconds of a steady clock."""

    def __init__(self, node: Any, topic: str, timeout_s: float) -> None:
        """`timeout_s`: a publisher that speaks more than once must speak this often, and one must; 0: none need."""
        self._node, self._topic, self._timeout_s = node, topic, timeout_s
        self._names = PublisherNames(node, topic)
        self._voices: dict[bytes, Voice] = {}
        self._subscriptions = [self._subscription(profile) for profile in PROFILES]
        self._latched_s: float | None = None
        self.broken = 0
        """Messages that could not be understood."""
        self.fault = ""
        """Why a publisher cannot be heard; empty when all can."""
        self.publishers: tuple[str, ...] = ()
        """Nodes that publish to the topic, as of the last `look_around`."""

    @property
    def held(self) -> bool:
        """Whether anybody's last word is that it is pressed, or a heartbeat has stopped."""
        return any(voice.pressed for voice in self._voices.values())

    def look(self, now_s: float) -> str:
        """Take what came. Returns why the e-stop was pressed since the last look; empty when it was not."""
        why = ""
        for subscription in self._subscriptions:
            count = 0
            for raw, info in _taken(subscription):
                count += 1
                why = self._hear(raw, info, now_s) or why
            if count >= FLOOD:
                why = f"{self._topic} is flooded: {count} messages at once, in which a press could be lost"
        return why or self._silence(now_s)

    def look_around(self, now_s: float) -> None:
        """Ask the graph who publishes, and whether all of them can be heard. Once a second is enough."""
        found = peers(self._node, self._topic)
        latched = any(peer.profile.durability == DurabilityPolicy.TRANSIENT_LOCAL for peer in found)
        if latched and self._latched_s is None:
            self._latched_s = now_s
            self._subscriptions.insert(0, self._subscription(LATCHED))
        wrong = sorted({f"{peer.name or 'somebody'} sends {peer.kind}" for peer in found if peer.kind != KIND})
        self.fault = f"{self._topic}: {', '.join(wrong)}, which cannot be heard; valid: {KIND}" if wrong else ""
        self.publishers = tuple(sorted({peer.name or "not known by name yet" for peer in found}))

    def forget_gone(self) -> None:
        """Publishers that are no more hold nothing. For a reset, which is somebody's word."""
        alive = {peer.gid for peer in peers(self._node, self._topic)}
        self._voices = {gid: voice for gid, voice in self._voices.items() if gid in alive or (not gid and alive)}

    def unready(self, now_s: float) -> str:
        """Why motion must not be enabled; empty when it may."""
        if self._latched_s is not None and now_s - self._latched_s < LISTEN_S:
            return f"what was said on {self._topic} before this guard came is being heard; call again"
        if self.fault or not self._timeout_s:
            return self.fault
        beating = any(v.beats >= BEAT and now_s - v.heard_s <= self._timeout_s for v in self._voices.values())
        return "" if beating else (
            f"nobody says on {self._topic}, every {self._timeout_s} s, that the e-stop is released "
            "(control.estop_timeout_s)"
        )  # fmt: skip

    def text(self) -> str:
        """What status says of it."""
        if not self.publishers:
            return f"nobody publishes {self._topic}"
        return f"{'pressed' if self.held else 'released'}; {', '.join(self.publishers)}"

    def _subscription(self, profile: QoSProfile) -> Any:
        events = SubscriptionEventCallbacks(use_default_callbacks=False)  # each misses what another one hears
        return self._node.create_subscription(
            Bool, self._topic, lambda _raw: None, profile, callback_group=NeverWakes(), raw=True, event_callbacks=events
        )

    def _hear(self, raw: bytes, info: Any, now_s: float) -> str:
        gid = sender(info)
        voice = self._voices.get(gid)
        if voice is None:
            if len(self._voices) >= VOICES:
                self.forget_gone()
            if len(self._voices) >= VOICES:
                return f"{self._topic} has more than {VOICES} publishers"
            voice = self._voices[gid] = Voice(self._names.of(gid))
        number = info.get("publication_sequence_number") or 0
        if number and number <= voice.number:  # heard already, by another of the subscriptions
            return ""
        voice.number, voice.heard_s, voice.beats = number, now_s, voice.beats + 1
        released, sound = meaning(raw)
        voice.pressed = not released
        self.broken += not sound
        if released:
            return ""
        return f"e-stop is pressed by {voice.name}" + ("" if sound else f", with {len(raw)} bytes that are no Bool")

    def _silence(self, now_s: float) -> str:
        why = ""
        for voice in self._voices.values() if self._timeout_s else ():
            silent_s = now_s - voice.heard_s
            if voice.beats >= BEAT and silent_s > self._timeout_s:
                voice.pressed = True
                why = f"e-stop: {voice.name} has said nothing for {silent_s:.2f} s; valid: {self._timeout_s} s"
        return why


def meaning(raw: bytes) -> tuple[bool, bool]:
    """Whether a serialized Bool says released, and whether it could be understood. Only a sound False releases."""
    sound = 5 <= len(raw) <= 8 and raw[:2] in PLAIN and raw[4] in (0, 1)
    return sound and not raw[4], sound


def _taken(subscription: Any) -> Iterator[tuple[bytes, Any]]:
    with subscription.handle:
        for _ in range(FLOOD):
            taken = subscription.handle.take_message(Bool, True)
            if taken is None:
                return
            yield taken
