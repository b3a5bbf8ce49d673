"""Where messages wait for the inference thread, undecoded: the newest wins, what it overwrites is counted.

`put` runs on the executor's thread and never blocks for long; `wait` on the inference thread. The rules are those of
`wire/pairing`; here they get a lock.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

from ecovla_ros.wire.pairing import REWIND_NS, Pairing


class Mailbox:
    """A `Pairing` between two threads."""

    def __init__(self, names: Iterable[str], sync_ns: int = REWIND_NS) -> None:
        self._names = tuple(names)
        self._pairing = Pairing(self._names, sync_ns)
        self._received: dict[str, int] = {}
        self._changed = threading.Condition()
        self._open = True

    @property
    def dropped(self) -> int:
        """Messages overwritten unread, left behind by the other cameras, or refused because a newer one was there."""
        return self._pairing.dropped

    @property
    def apart(self) -> str:
        """Why messages of all cameras came and yet no frame is due; empty after a frame."""
        return self._pairing.apart

    def clear(self) -> None:
        """Forget every message and every stamp."""
        with self._changed:
            self._pairing.clear()
            self._received = {}

    def put(self, name: str, message: Any, stamp_ns: int, now_ns: int) -> bool:
        """Leave a message, received at `now_ns`. False when its stamp says that the clock jumped back: then everything
        older is gone and this message is the first of the new time."""
        with self._changed:
            rewound = self._pairing.rewound(name, stamp_ns)
            if rewound:
                self._received = {}
            if self._pairing.put(name, message, stamp_ns):
                self._received[name] = now_ns
                self._changed.notify_all()
            return not rewound

    def wait(self, timeout_s: float) -> dict[str, Any] | None:
        """The newest message of every camera, once all are unread; None after `timeout_s` or when closed."""
        with self._changed:
            self._changed.wait_for(lambda: not self._open or self._pairing.due, timeout_s)
            if not self._open or not self._pairing.due:
                return None
            return self._pairing.take()

    def silent(self, now_ns: int, age_ns: int) -> list[str]:
        """Cameras from which nothing came during the last `age_ns`."""
        with self._changed:
            return [n for n in self._names if now_ns - self._received.get(n, now_ns - age_ns - 1) > age_ns]

    def close(self) -> None:
        """Wake whoever waits; nothing is handed out any more."""
        with self._changed:
            self._open = False
            self._changed.notify_all()
