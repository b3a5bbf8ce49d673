"""Where the controller is on what it was sent, by its own word: whether it took it over, and how its clock moved since.

A controller says with its reference how long after the start of its trajectory that is (`reference.time_from_start`),
and stamps the message by its clock. From the instant at which it took a trajectory over it moves on by a steady clock
(Jazzy, Kilted), so both together tell by how much its clock was set since then, however late the message comes. Humble
follows its clock instead, and always says that it did not move. Time is handed in, nanoseconds.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from ecovla_ros.control.trajectory import NS
from ecovla_ros.types import ControllerState

AGREE_S = 0.001
"""Two messages one after the other must say the same, within this, s: one alone may come from a cycle that was late.
A driver that reads its arm before the controller looks at the clock makes cycles uneven by some tenths of that."""
NEWEST_S = 0.1
"""The newer of them must have been heard within this, s."""
TAKEN_S = 0.1
"""A trajectory is taken over within this, s, or it was lost."""
KNOWN_S = 0.05
"""A start further from that of all that was sent belongs to something else, s."""


@dataclass(frozen=True)
class _Sent:
    begin_ns: int
    """When it begins, by the guard's clock."""
    stamp_ns: int
    """The same by the controller's."""
    sent_ns: int


@dataclass(frozen=True)
class _Said:
    heard_ns: int
    on: _Sent | None
    """What the controller runs; None: nothing that is known."""
    moved_ns: int
    """How much later it began by the controller's clock than it was stamped."""
    sure: bool
    """Whether it cannot be another that was sent a moment before or after: where both have one clock, that may have
    crept away from the guard's by as much as lies between the two."""


@dataclass
class PlaceWatch:
    """The last trajectories, and what the controller said of where it is on them."""

    tells: bool = False
    """Whether the controller says where it is at all."""
    _sent: deque[_Sent] = field(default_factory=lambda: deque(maxlen=3))
    _said: deque[_Said] = field(default_factory=lambda: deque(maxlen=2))

    def sent(self, begin_ns: int, apart_ns: int | None, now_ns: int) -> None:
        """A trajectory is sent; `apart_ns`: what the controller's clock says more; None: it is about the guard's."""
        self._sent.append(_Sent(begin_ns, begin_ns + (apart_ns or 0), now_ns))

    def unsent(self) -> None:
        """The last one was not sent."""
        if self._sent:
            self._sent.pop()

    def forget(self) -> None:
        """A clock jumped, or the arm is at rest: what was sent does not matter any more."""
        self._sent.clear()
        self._said.clear()

    def see(self, state: ControllerState, now_ns: int) -> None:
        """What the controller says."""
        if state.place_s is None:
            return
        self.tells = True
        began_ns = state.stamp_ns - round(state.place_s * NS)
        near = min(self._sent, key=lambda sent: abs(began_ns - sent.stamp_ns), default=None)
        sure = sum(abs(began_ns - sent.stamp_ns) <= KNOWN_S * NS for sent in self._sent) < 2
        if near is not None and abs(began_ns - near.stamp_ns) > KNOWN_S * NS:
            near = None
        self._said.append(_Said(now_ns, near, 0 if near is None else began_ns - near.stamp_ns, sure))

    def lost(self, now_ns: int) -> bool:
        """Whether the controller says that it does not run what was sent last, long after it should."""
        if not self._sent or not self._said:
            return False
        last = self._said[-1]
        return last.sure and last.on != self._sent[-1] and last.heard_ns - self._sent[-1].sent_ns > TAKEN_S * NS

    def taken(self, now_ns: int, within_ns: int) -> bool:
        """Whether the controller runs what was sent last, or that was sent `within_ns` ago, when it may not yet."""
        if not self._sent:
            return True
        under_way = now_ns - self._sent[-1].sent_ns <= within_ns
        return under_way or (bool(self._said) and self._said[-1].on == self._sent[-1])

    def apart_ns(self, now_ns: int) -> int | None:
        """What the controller's clock says more than the guard's, by where it is; None: it cannot be told now."""
        if len(self._said) < 2:
            return None
        before, last = self._said
        fresh = now_ns - last.heard_ns <= NEWEST_S * NS
        if last.on is None or before.on != last.on or not fresh or abs(last.moved_ns - before.moved_ns) > AGREE_S * NS:
            return None
        return last.on.stamp_ns + last.moved_ns - last.on.begin_ns
