"""A bag of a simulator that was slower, or faster, than the recorder's clock: its messages, timed by its own clock.

Where a bag has `/clock` and its stamps follow it, what is old, silent or due is told by that clock, as the nodes told
it that were live then. Else a simulation at half of real time would have pictures that grow older and older.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator
from contextlib import suppress

from ecovla_ros.bags.inputs import IMAGES, KINDS
from ecovla_ros.bags.read import Bag
from ecovla_ros.bags.stamps import SAME_NS, stamp_of
from ecovla_ros.bags.storage import Raw
from ecovla_ros.errors import BagError, ObservationError

TOPIC, KIND = "/clock", "rosgraph_msgs/msg/Clock"
STAMPED = (*IMAGES, *KINDS["joint_states"])
"""Types whose messages begin with a header."""


class BagClock:
    """Time of a bag: the recorder's, which passes as the simulated time does once stamps were seen to follow that.

    It never goes back, also where the simulation began anew. A recorder may hear `/clock` later than the rest: until
    then the stamps themselves tell how far the simulation is.
    """

    def __init__(self, follows: bool | None = None) -> None:
        """`follows`: whether the stamps follow `/clock`; None: to be seen."""
        self._simulated_ns: int | None = None
        self.follows = follows
        self._ticks = False
        self._time_ns: int | None = None

    def hear(self, raw: Raw) -> None:
        """A message of `/clock`; one that is broken is none."""
        try:
            sec, nanosec = struct.unpack_from("<iI" if raw.data[1] & 1 else ">iI", raw.data, 4)
        except (struct.error, IndexError):
            return
        self._ticks = True
        self._pass(int(sec) * 1_000_000_000 + int(nanosec))

    def time(self, raw: Raw) -> Raw:
        """The message, with the time of the bag at which it came."""
        if raw.kind in STAMPED and (self.follows is None or not self._ticks):
            with suppress(ObservationError):
                self._stamped(stamp_of(raw))
        if not self.follows:
            return raw
        if self._time_ns is None:
            self._time_ns = raw.time_ns
        return raw._replace(time_ns=self._time_ns)

    def _stamped(self, stamp_ns: int) -> None:
        if self.follows is None and self._ticks and self._simulated_ns is not None:
            self.follows = abs(stamp_ns - self._simulated_ns) < SAME_NS
        elif self.follows and (self._simulated_ns is None or 0 <= stamp_ns - self._simulated_ns < SAME_NS):
            self._pass(stamp_ns)  # one that is far from the others is of another clock

    def _pass(self, now_ns: int) -> None:
        """The simulation is at `now_ns`."""
        if self._time_ns is not None and self._simulated_ns is not None:
            self._time_ns += max(now_ns - self._simulated_ns, 0)
        self._simulated_ns = now_ns


def timed(bag: Bag, topics: Collection[str]) -> Iterator[Raw]:
    """As `Bag.raw`, each message with its time by the clock that the bag's stamps follow. Raises BagError."""
    if bag.topics.get(TOPIC) != KIND:
        yield from bag.raw(topics)
        return
    clock = BagClock(_follows(bag, topics))
    for raw in bag.raw([*topics, TOPIC]):
        if raw.topic == TOPIC:
            clock.hear(raw)
        if raw.topic in topics:
            yield clock.time(raw)


def _follows(bag: Bag, topics: Collection[str]) -> bool | None:
    """Whether stamps follow `/clock`, by its first tick and the first stamp behind it; None: nobody can tell."""
    clock = BagClock()
    try:
        for raw in bag.raw([*topics, TOPIC]):
            if raw.topic == TOPIC:
                clock.hear(raw)
            clock.time(raw)
            if clock.follows is not None:
                break
    except BagError:  # what is damaged is told by whoever reads the messages
        return clock.follows
    return clock.follows
