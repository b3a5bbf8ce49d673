"""Makes what the policy sees from the messages of a bag, by the rules of the live node and the stamps of the bag."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ecovla_ros import wire
from ecovla_ros.bags.read import Bag
from ecovla_ros.bags.stamps import FrameNames, StampClocks, stamp_of
from ecovla_ros.bags.storage import Raw
from ecovla_ros.config import GEN3_ARM, ArmConfig, NodeConfig
from ecovla_ros.errors import BagError, ObservationError, short, unknown
from ecovla_ros.types import CAMERAS, Observation
from ecovla_ros.wire import causes
from ecovla_ros.wire.pairing import Pairing

IMAGES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
KINDS = {"joint_states": ("sensor_msgs/msg/JointState",), "instruction": ("std_msgs/msg/String",)}
"""Input -> message types it may have. Every other input is a camera: `IMAGES`."""
ENDINGS = (
    "image",
    "image/compressed",
    "image_raw",
    "image_raw/compressed",
    "color/image_raw",
    "color/image_raw/compressed",
)
"""What a camera's topic is called where nothing else is said: the first of these that the bag has."""
REPEAT_NS = 3_000_000_000
"""The same words within this time are the same instruction sent again, ns."""
GRID_NS = 5_000_000
"""A picture this much early still counts as the one that is due, ns."""


@dataclass(frozen=True)
class Held:
    """There is no frame at this time: the live node would have sent no chunk, and the arm would have held."""

    time_ns: int
    stamp_ns: int
    """Of the newest picture; 0 when none came."""
    why: str
    dropped: int
    """Pictures so far that were in no frame."""


@dataclass(frozen=True)
class Frame:
    """What the policy sees."""

    time_ns: int
    """When the message that completed it was recorded, ns of the recorder's clock."""
    observation: Observation
    new_episode: bool
    """The first frame, one after an instruction, or one after the clock jumped back."""
    dropped: int
    """Pictures so far that were in no frame."""


def mapping(texts: Sequence[str], cameras: Sequence[str] = CAMERAS) -> dict[str, str]:
    """ "input=topic" texts as input -> topic. Raises BagError for an unknown input."""
    valid = (*cameras, *KINDS)
    topics = {}
    for text in texts:
        name, equals, topic = text.partition("=")
        if not equals or name not in valid:
            raise BagError(unknown("input", name, valid) + " Write input=topic.")
        topics[name] = topic
    return topics


def choose(
    bag: Bag,
    mapped: Mapping[str, str],
    cameras: Sequence[str] = CAMERAS,
    instruction: str = "",
    default: str = "",
) -> dict[str, str]:
    """Input -> topic of this bag. An `instruction` given here takes the place of the bag's; with a `default` the bag
    needs none.

    Raises BagError for a topic that is not there, or that holds messages of another type.
    """
    chosen: dict[str, str] = {}
    for name in (*cameras, *KINDS):
        if name == "instruction" and instruction:
            continue
        names = (
            [mapped[name]] if name in mapped else [f"/{name}/{e}" for e in ENDINGS] if name in cameras else [f"/{name}"]
        )
        topic = next((t for t in names if t in bag.topics), names[0])
        if name == "instruction" and default and topic not in bag.topics and name not in mapped:
            continue
        try:
            bag.need([topic])
        except BagError as error:
            if not bag.topics:
                raise
            hint = " or --instruction 'the task in words'" if name == "instruction" else ""
            packed = f"{topic}/compressed"
            if name in cameras and packed in bag.topics:
                raise BagError(f"'{bag.path}': {causes.packed(topic, packed)}: --map {name}={packed}") from error
            there = [
                t for t, kind in bag.topics.items() if kind in KINDS.get(name, IMAGES) and t not in chosen.values()
            ]
            which = f" (of that kind: {short(', '.join(there))})" if there else ""
            raise BagError(f"{error} Name the topic of '{name}': --map {name}=TOPIC{hint}{which}") from error
        kinds = KINDS.get(name, IMAGES)
        if bag.topics[topic] not in kinds:
            raise BagError(f"'{bag.path}': {topic} holds {bag.topics[topic]}; valid for {name}: {' or '.join(kinds)}")
        if topic in chosen.values():
            raise BagError(f"'{bag.path}': {topic} is named for two inputs; valid: a topic of its own for each")
        chosen[name] = topic
    return chosen


class Feed:
    """Takes a bag's messages one by one and says when a frame is due. Pictures that are not used are never decoded."""

    def __init__(
        self,
        bag: Bag,
        topics: Mapping[str, str],
        node: NodeConfig,
        instruction: str = "",
        instructions: Collection[str] = (),
        rate_hz: float = 0.0,
        arm: ArmConfig = GEN3_ARM,
        repeats: bool = False,
    ) -> None:
        """`topics` as `choose` gives them. `instruction`: the first one. `instructions`: those the policy knows; none:
        any. `rate_hz`: at most so many frames a second of the stamps; 0: every frame. `arm`: names of the joints."""
        self._bag, self._node, self._known, self._rate_hz = bag, node, instructions, rate_hz
        self._names = {topic: name for name, topic in topics.items()}
        self.cameras = tuple(n for n in topics if n not in KINDS)
        self._by_name = topics
        self._pairing = Pairing(self.cameras, round(node.sync_s * 1e9))
        self._kind = bag.topics.get(topics.get("joint_states", ""), "")
        self._joints = wire.JointStates(self._joint_message, arm.joints, arm.part_age_s)
        self._instruction, self._new = instruction, True
        self._repeats = repeats
        self._said_ns: int | None = None
        self._received: dict[str, int] = {}
        self._began_ns: int | None = None
        self._silent = False
        self._framed_ns: int | None = None
        self._said_apart = False
        self._clocks = StampClocks()
        self._publishers = FrameNames()
        self._crowds: list[str] = []
        self._still = wire.Stillness()
        self._grid: tuple[int, int] | None = None  # stamp of the first frame, index of the last one

    @property
    def topics(self) -> list[str]:
        """The topics it wants."""
        return list(self._names)

    @property
    def dropped(self) -> int:
        """Pictures that were in no frame because newer or other ones came."""
        return self._pairing.dropped

    def take(self, raw: Raw) -> Iterator[Frame | Held]:
        """The next message of the bag, in the order of the recorder's clock."""
        name = self._names[raw.topic]
        self._began_ns = raw.time_ns if self._began_ns is None else self._began_ns
        try:
            if name != "instruction":
                self._clocks.hear(name, raw.time_ns, stamp_of(raw))
            if name == "instruction":
                self._hear(raw)
            elif name == "joint_states":
                self._joints.put(raw.data)
            else:
                self._picture(name, raw)
        except ObservationError as error:
            yield Held(raw.time_ns, 0, str(error), self.dropped)
        yield from self._silence(raw.time_ns)
        yield from self._apart(raw.time_ns)
        if self._pairing.due:
            self._framed_ns = raw.time_ns
            image_messages = self._pairing.take()
            stamp_ns = max(stamp_of(raw) for raw in image_messages.values())
            if self._wanted(stamp_ns):
                yield self._frame(image_messages, raw.time_ns, stamp_ns)

    def _hear(self, raw: Raw) -> None:
        """An instruction begins an episode; the same words again (`ros2 topic pub` repeats them) change nothing, or,
        with `repeats`, begin one if they were silent for `REPEAT_S`."""
        text, said_ns, self._said_ns = self._decode(raw).data, self._said_ns, raw.time_ns
        again = self._repeats and said_ns is not None and not 0 <= raw.time_ns - said_ns < REPEAT_NS
        if text != self._instruction or again:
            self._instruction, self._new = text, True

    def _picture(self, name: str, raw: Raw) -> None:
        stamp_ns = stamp_of(raw)
        if self._pairing.rewound(name, stamp_ns):
            self._new, self._grid = True, None
            self._clocks = StampClocks()
        if crowd := self._publishers.hear(raw):
            self._crowds.append(crowd)
        if self._pairing.put(name, raw, stamp_ns):
            self._received[name] = raw.time_ns

    def _silence(self, time_ns: int) -> Iterator[Held]:
        """Say once when a camera has said nothing for `image_age_s`."""
        age_ns = round(self._node.image_age_s * 1e9)
        assert self._began_ns is not None
        silent = [c for c in self.cameras if time_ns - self._received.get(c, self._began_ns) > age_ns]
        if silent and not self._silent:
            why = causes.silent(age_ns / 1e9, [self._by_name[c] for c in silent])
            yield Held(time_ns, 0, why, self.dropped)
        self._silent = bool(silent)

    def _apart(self, time_ns: int) -> Iterator[Held]:
        """Say once when pictures come and none of them fit together for `image_age_s`, and who else sends some."""
        began_ns = self._framed_ns if self._framed_ns is not None else self._began_ns or 0
        late = bool(self._pairing.apart) and time_ns - began_ns > round(self._node.image_age_s * 1e9)
        if late and not self._said_apart:
            yield Held(time_ns, 0, self._pairing.apart, self.dropped)
        self._said_apart = late
        while self._crowds:
            yield Held(time_ns, 0, self._crowds.pop(), self.dropped)

    def _wanted(self, stamp_ns: int) -> bool:
        if not self._rate_hz:
            return True
        first, last = self._grid or (stamp_ns, -1)
        index = int((stamp_ns - first + GRID_NS) * self._rate_hz / 1e9)
        if index > last:
            self._grid = first, index
        return index > last

    def _frame(self, image_messages: Mapping[str, Raw], time_ns: int, stamp_ns: int) -> Frame | Held:
        try:
            if stamp_ns == 0:
                raise ObservationError(causes.unstamped("the newest image"))
            self._clocks.check(time_ns - stamp_ns, self._node.image_age_s)
            seen = self._observation(image_messages, stamp_ns)
        except ObservationError as error:
            return Held(time_ns, stamp_ns, str(error), self.dropped)
        frame = Frame(time_ns, seen, self._new, self.dropped)
        self._new = False
        return frame

    def _observation(self, image_messages: Mapping[str, Raw], stamp_ns: int) -> Observation:
        state = self._joints.nearest(stamp_ns)
        decoded: dict[str, Any] = {name: self._decode(raw) for name, raw in image_messages.items()}
        if self._new:
            self._still.clear()
        self._still.check(decoded, state.joints)
        seen = wire.observation(decoded, state, self._instruction, self._node.sync_s)
        if self._known and seen.instruction not in self._known:
            raise ObservationError(unknown("instruction", seen.instruction, self._known))
        return seen

    def _joint_message(self, data: bytes) -> Any:
        return self._decode(Raw(self._by_name["joint_states"], self._kind, 0, data))

    def _decode(self, raw: Raw) -> Any:
        try:
            return self._bag.decode(raw)
        except BagError as error:
            raise ObservationError(str(error)) from error
