"""A bag of a simulator that was slower, or faster, than the recorder's clock: its messages, timed by its own clock.

Where a bag has `/clock` and its stamps follow it, what is old, silent or due is told by that clock, as the nodes told
it that were live then. Else a simulation at half of real time would have pictures that grow older and older.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator

from ecovla_ros.bags.inputs import IMAGES, KINDS
from ecovla_ros.bags.read import Bag
from ecovla_ros.bags.stamps import SAME_NS, stamp_of
from ecovla_ros.bags.storage import Raw
from ecovla_ros.errors import ObservationError

TOPIC, KIND = "/clock", "rosgraph_msgs/msg/Clock"
STAMPED = (*IMAGES, *KINDS["joint_states"])
"""Types whose messages begin with a header."""


class BagClock:
    """Time of a bag: the recorder's, which passes as the simulated time does once stamps were seen to follow that.

    It never goes back, also where the simulation began anew.
    """

    def __init__(self) -> None:
        self._simulated_ns: int | None = None
        self._follows: bool | None = None
        self._time_ns = 0

    def hear(self, raw: Raw) -> None:
        """A message of `/clock`; one that is broken is none."""
        try:
            sec, nanosec = struct.unpack_from("<iI" if raw.data[1] & 1 else ">iI", raw.data, 4)
        except (struct.error, IndexError):
            return
        now_ns, before = int(sec) * 1_000_000_000 + int(nanosec), self._simulated_ns
        if self._follows and before is not None:
            self._time_ns += max(now_ns - before, 0)
        self._simulated_ns = now_ns

    def time(self, raw: Raw) -> Raw:
        """The message, with the time of the bag at which it came."""
        if self._follows is None and self._simulated_ns is not None and raw.kind in STAMPED:
            try:
                self._follows = abs(stamp_of(raw) - self._simulated_ns) < SAME_NS
            except ObservationError:
                return raw
            self._time_ns = raw.time_ns
        return raw._replace(time_ns=self._time_ns) if self._follows else raw


def timed(bag: Bag, topics: Collection[str]) -> Iterator[Raw]:
    """As `Bag.raw`, each message with its time by the clock that the bag's stamps follow. Raises BagError."""
    if bag.topics.get(TOPIC) != KIND:
        yield from bag.raw(topics)
        return
    clock = BagClock()
    for raw in bag.raw([*topics, TOPIC]):
        if raw.topic == TOPIC:
            clock.hear(raw)
        if raw.topic in topics:
            yield clock.time(raw)
