"""Decides which messages make one frame, by the same rules for live topics and for a bag. Messages stay undecoded."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

from ecovla_ros.wire import causes

REWIND_NS = 500_000_000
"""A stamp this far behind the last one means that the clock jumped back; less is a message that came late."""


class Pairing:
    """One slot for each camera. A frame is due when every slot holds something unread, of about the same stamp: what
    lies further than `sync_ns` behind the newest waits no longer, so that pairs are never mixed. Not thread-safe."""

    def __init__(self, names: Iterable[str], sync_ns: int = REWIND_NS) -> None:
        self._names, self._sync_ns = tuple(names), sync_ns
        self.dropped = 0
        """Messages overwritten unread, left behind by the other cameras, or refused because a newer one was there."""
        self.clear()

    def clear(self) -> None:
        """Forget every message and every stamp."""
        self._unread: dict[str, Any] = {}
        self._newest: dict[str, int] = {}
        self.apart = ""
        """Why messages of all cameras came and yet no frame is due; empty after a frame."""

    @property
    def due(self) -> bool:
        """True when every camera has something unread."""
        return len(self._unread) == len(self._names)

    def rewound(self, name: str, stamp_ns: int) -> bool:
        """Whether a message of this stamp says that the clock jumped back."""
        return stamp_ns < self._newest.get(name, stamp_ns) - REWIND_NS

    def put(self, name: str, message: Any, stamp_ns: int) -> bool:
        """Leave a message. False when it was refused, because a newer one was there. Clears after a jump back."""
        if self.rewound(name, stamp_ns):
            self.clear()
        elif stamp_ns < self._newest.get(name, stamp_ns):
            self.dropped += 1
            return False
        self.dropped += name in self._unread
        self._unread[name], self._newest[name] = message, stamp_ns
        self._leave_behind(max(self._newest[n] for n in self._unread))
        return True

    def take(self) -> dict[str, Any]:
        """The messages of the frame that is due."""
        taken, self._unread = self._unread, {}
        self.apart = ""
        return taken

    def _leave_behind(self, newest_ns: int) -> None:
        for name in [n for n in self._unread if self._newest[n] < newest_ns - self._sync_ns]:
            behind, valid = (newest_ns - self._newest[name]) / 1e9, self._sync_ns / 1e9
            self.apart = causes.apart(name, behind, valid)
            del self._unread[name]
            self.dropped += 1


class History:
    """The last messages of one topic, to find the one that was true when a picture was taken. Not thread-safe."""

    def __init__(self, length: int = 256) -> None:
        self._messages: deque[tuple[int, Any]] = deque(maxlen=length)

    def put(self, message: Any, stamp_ns: int) -> None:
        """Add a message; one from before the clock jumped back clears the rest."""
        if self._messages and stamp_ns < self._messages[-1][0] - REWIND_NS:
            self._messages.clear()
        self._messages.append((stamp_ns, message))

    def clear(self) -> None:
        """Forget every message."""
        self._messages.clear()

    @property
    def last(self) -> tuple[int, Any] | None:
        """Stamp, ns, and message of the one that came last; None when there is none."""
        return self._messages[-1] if self._messages else None

    def found(self, stamp_ns: int) -> tuple[int, Any] | None:
        """Stamp, ns, and message of the one stamped nearest to `stamp_ns`; None when there is none."""
        return min(self._messages, key=lambda m: abs(m[0] - stamp_ns), default=None)
