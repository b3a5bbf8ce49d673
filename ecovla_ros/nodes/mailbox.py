"""Where messages wait for the inference thread, undecoded: the newest wins, what it overwrites is counted.

`put` runs on the executor's thread and never blocks for long; `wait` on the inference thread.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from typing import Any

REWIND_NS = 500_000_000
"""A stamp this far behind the last one means that the clock jumped back; less is a message that came late."""


class Mailbox:
    """One slot for each camera. A frame is due when every slot holds something unread, of about the same stamp: what
    lies further than `sync_ns` behind the newest waits no longer, so that pairs are never mixed."""

    def __init__(self, names: Iterable[str], sync_ns: int = REWIND_NS) -> None:
        self._names, self._sync_ns = tuple(names), sync_ns
        self._changed = threading.Condition()
        self._open = True
        self.dropped = 0
        """Messages overwritten unread, left behind by the other cameras, or refused because a newer one was there."""
        self.clear()

    def clear(self) -> None:
        """Forget every message and every stamp."""
        with self._changed:
            self._unread: dict[str, Any] = {}
            self._newest: dict[str, int] = {}
            self._received: dict[str, int] = {}
            self.apart = ""
            """Why messages of all cameras came and yet no frame is due; empty after a frame."""

    def put(self, name: str, message: Any, stamp_ns: int, now_ns: int) -> bool:
        """Leave a message, received at `now_ns`. False when its stamp says that the clock jumped back: then everything
        older is gone and this message is the first of the new time."""
        with self._changed:
            before = self._newest.get(name, stamp_ns)
            rewound = stamp_ns < before - REWIND_NS
            if rewound:
                self.clear()
            elif stamp_ns < before:
                self.dropped += 1
                return True
            self.dropped += name in self._unread
            self._unread[name], self._newest[name], self._received[name] = message, stamp_ns, now_ns
            self._leave_behind(max(self._newest[n] for n in self._unread))
            self._changed.notify_all()
            return not rewound

    def wait(self, timeout_s: float) -> dict[str, Any] | None:
        """The newest message of every camera, once all are unread; None after `timeout_s` or when closed."""
        with self._changed:
            self._changed.wait_for(lambda: not self._open or len(self._unread) == len(self._names), timeout_s)
            if not self._open or len(self._unread) < len(self._names):
                return None
            taken, self._unread = self._unread, {}
            self.apart = ""
            return taken

    def _leave_behind(self, newest_ns: int) -> None:
        for name in [n for n in self._unread if self._newest[n] < newest_ns - self._sync_ns]:
            behind, valid = (newest_ns - self._newest[name]) / 1e9, self._sync_ns / 1e9
            self.apart = f"{name} is {behind:.3f} s behind the other cameras; valid: stamps up to {valid:.3f} s apart"
            del self._unread[name]
            self.dropped += 1

    def silent(self, now_ns: int, age_ns: int) -> list[str]:
        """Cameras from which nothing came during the last `age_ns`."""
        with self._changed:
            return [n for n in self._names if now_ns - self._received.get(n, now_ns - age_ns - 1) > age_ns]

    def close(self) -> None:
        """Wake whoever waits; nothing is handed out any more."""
        with self._changed:
            self._open = False
            self._changed.notify_all()


class Recent:
    """The last messages of one topic, to find the one that was true when a picture was taken."""

    def __init__(self, length: int = 256) -> None:
        self._lock = threading.Lock()
        self._messages: deque[tuple[int, Any]] = deque(maxlen=length)

    def put(self, message: Any, stamp_ns: int) -> None:
        """Add a message; one from before the clock jumped back clears the rest."""
        with self._lock:
            if self._messages and stamp_ns < self._messages[-1][0] - REWIND_NS:
                self._messages.clear()
            self._messages.append((stamp_ns, message))

    def nearest(self, stamp_ns: int) -> Any:
        """The message stamped nearest to `stamp_ns`; None when there is none."""
        with self._lock:
            return min(self._messages, key=lambda m: abs(m[0] - stamp_ns), default=(0, None))[1]
