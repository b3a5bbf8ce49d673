"""A thread of its own makes the items of an iterator a few ahead. Their order and values stay the same."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import Any, TypeVar

Item = TypeVar("Item")
WAIT_S = 0.1
"""How often the thread looks whether it is still wanted while the queue is full, s."""


def ahead(items: Iterator[Item], depth: int = 4) -> Iterator[Item]:
    """Yield `items`. What the iterator raises is raised here, at the same place. Closing this one ends the thread."""
    ready: queue.Queue[tuple[str, Any]] = queue.Queue(depth)
    wanted = threading.Event()
    wanted.set()

    def put(what: str, value: Any) -> None:
        while wanted.is_set():
            try:
                ready.put((what, value), timeout=WAIT_S)
                return
            except queue.Full:
                continue

    def make() -> None:
        try:
            for item in items:
                put("item", item)
                if not wanted.is_set():
                    return
            put("end", None)
        except BaseException as error:  # handed to the thread that takes: it is raised there
            put("error", error)

    thread = threading.Thread(target=make, name="bag", daemon=True)
    thread.start()
    try:
        while True:
            what, value = ready.get()
            if what == "error":
                raise value
            if what == "end":
                return
            yield value
    finally:
        wanted.clear()
        thread.join()
