"""Stamps of a bag beside the recorder's clock: what the live node tells by its own clock is told by these."""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import dataclass, field

from ecovla_ros.bags.storage import Raw
from ecovla_ros.errors import ObservationError
from ecovla_ros.wire import causes
from ecovla_ros.wire.fields import NS

SAME_NS = 1_000_000_000
"""A stamp no farther from the recorder's clock belongs to the same clock, ns."""
LEAST = 3
"""Pictures of each frame after which two frames on a topic are two publishers."""
MOST_FRAMES = 8


def stamp_of(raw: Raw) -> int:
    """Stamp of an undecoded message whose first field is a std_msgs/Header, ns."""
    try:
        sec, nanosec = struct.unpack_from("<iI" if raw.data[1] & 1 else ">iI", raw.data, 4)
    except (struct.error, IndexError) as error:
        raise ObservationError(
            f"a message of {raw.topic} has {len(raw.data)} bytes; valid: a header and more"
        ) from error
    return int(sec) * 1_000_000_000 + int(nanosec)


def clock_offset(stamp_ns: int, time_ns: int) -> int:
    """Recorder's clock minus that of the stamps, ns, from one message: zero when both follow the wall clock."""
    return 0 if abs(time_ns - stamp_ns) < SAME_NS else time_ns - stamp_ns


@dataclass
class StampClocks:
    """How far the stamps of each input lie behind the recorder's clock."""

    _least: dict[str, int] = field(default_factory=dict)

    def hear(self, name: str, time_ns: int, stamp_ns: int) -> None:
        """A message of an input."""
        self._least[name] = min(time_ns - stamp_ns, self._least.get(name, time_ns - stamp_ns))

    def check(self, behind_ns: int, most_s: float) -> None:
        """Raises ObservationError for a newest picture, stamped `behind_ns` before the recorder's clock, that is too
        old or of the future by the clock of the joint states, which come without delay.

        Where the joint states alone are of another clock than the recorder's they are what is wrong, and are said to be
        away from the picture.
        """
        clock_ns = self._least.get("joint_states", behind_ns)
        cameras = [least for name, least in self._least.items() if name != "joint_states"]
        if abs(clock_ns) > SAME_NS and any(abs(least) <= SAME_NS for least in cameras):
            return
        age_s = (behind_ns - clock_ns) / NS
        if age_s > most_s:
            raise ObservationError(causes.old(age_s, most_s))
        if age_s < -most_s:
            raise ObservationError(causes.future("the newest image", -age_s))


@dataclass
class FrameNames:
    """The frames that the pictures of a topic name: a bag does not say who published, but two drivers name two."""

    _seen: dict[str, Counter[bytes]] = field(default_factory=dict)
    _said: set[str] = field(default_factory=set)

    def hear(self, raw: Raw) -> str:
        """What to say of this picture's topic; once, and empty otherwise."""
        name = _frame(raw.data)
        seen = self._seen.setdefault(raw.topic, Counter())
        if name is None or raw.topic in self._said or (name not in seen and len(seen) >= MOST_FRAMES):
            return ""
        seen[name] += 1
        who = [f"frame {key.decode(errors='replace')}" for key, count in seen.items() if count >= LEAST]
        if len(who) < 2:
            return ""
        self._said.add(raw.topic)
        return causes.crowded(raw.topic, who)


def _frame(data: bytes) -> bytes | None:
    """The frame in a serialized header; None where it cannot be read."""
    try:
        length = struct.unpack_from("<I" if data[1] & 1 else ">I", data, 12)[0]
    except (struct.error, IndexError):
        return None
    return bytes(data[16 : 16 + length]).rstrip(b"\0") if length <= 256 else None
