"""One engine and the sessions that share its weights. A session lives here until it ends: its history, what is left of
its chunk, and its place in the order of turns."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

from ecovla_ros.engine.engine import Engine
from ecovla_ros.engine.situation import Situation
from ecovla_ros.errors import ReplicaError
from ecovla_ros.serve import protocols
from ecovla_ros.serve.protocols import Reply
from ecovla_ros.serve.session import Session


@dataclass(frozen=True)
class Readiness:
    """How many replicas are warm, of how many that are wanted, and how many sessions they may hold together."""

    warm: int
    wanted: int
    places: int


class Turns:
    """Whose turn it is at an engine: what it remembers of the others is laid aside."""

    def __init__(self, engine: Engine, own: bool) -> None:
        """`own`: each session has its own pattern, whose rows are moved into place when its turn comes, and begins with
        the one that the engine has now. Else one pattern stays in place, and the energies of all sessions drive it."""
        self._engine, self._own = engine, own
        self._fresh = engine.leave(own) if own else None
        self._aside: dict[str, Situation] = {}
        self._present = ""
        self.changes = self.moved = 0
        """Turns that went to another session, and rows of weights that moved for it."""

    def take(self, key: str) -> None:
        """The next frame is of this session."""
        if key == self._present:
            return
        if self._present:
            self._aside[self._present] = self._engine.leave(self._own)
        self._present = key
        self.changes += 1
        self.moved += self._engine.enter(self._aside.pop(key, self._fresh))

    def end(self, key: str) -> None:
        """Forget a session."""
        self._aside.pop(key, None)
        if key == self._present:
            self._present = ""


class Replica:
    """Answers the messages of its sessions one after the other. Methods belong to the inference thread."""

    def __init__(
        self, make: Callable[[str], Session], protocol: str, asks: Mapping[str, Any], turns: Turns | None = None
    ) -> None:
        """`make`: a session of a name, over the one engine. `turns`: needed for more than one session at a time."""
        self._make, self._protocol, self._asks, self._turns = make, protocol, dict(asks), turns
        self._sessions: dict[str, Session] = {}

    def open(self, key: str) -> None:
        """Begin a session."""
        session = self._sessions[key] = self._make(key)
        self._take(key)
        session.start()

    def reply(self, key: str, data: Any) -> Reply:
        """Answer a message of a session. Raises ReplicaError for one that is not held here."""
        if key not in self._sessions:
            raise ReplicaError(f"session '{key}' is not held here: it ended, or its replica was replaced")
        self._take(key)
        return protocols.reply(self._sessions[key], self._protocol, self._asks, data)

    def close(self, key: str) -> None:
        """Forget a session; one that is not held here is forgotten already."""
        if self._sessions.pop(key, None) is not None and self._turns is not None:
            self._turns.end(key)

    @property
    def sessions(self) -> int:
        """Sessions that are held now."""
        return len(self._sessions)

    def _take(self, key: str) -> None:
        if self._turns is not None:
            self._turns.take(key)


class Pool(Protocol):
    """Where sessions are held: one replica in this process (`Here`), or several in a cluster (`serve/cluster`)."""

    def ready(self) -> Readiness:
        """What is warm now."""
        ...

    def open(self, key: str) -> Awaitable[None]:
        """Begin a session on the replica that holds fewest. Raises ReplicaError where none is warm."""
        ...

    def reply(self, key: str, data: Any) -> Awaitable[Reply]:
        """Answer a message. Raises ReplicaError where the replica of the session has ended."""
        ...

    def close(self, key: str) -> Awaitable[None]:
        """End a session."""
        ...

    def holder(self, key: str) -> str:
        """Name of the replica that holds a session, for metrics."""
        ...

    def shutdown(self) -> None:
        """End the replicas, after what they are doing."""
        ...


class Here:
    """A replica in this process, with one inference thread: whoever asked first is answered first."""

    def __init__(self, replica: Replica, places: int = 1) -> None:
        self._replica, self._places = replica, places
        self._thread = ThreadPoolExecutor(1, "inference")

    def ready(self) -> Readiness:
        return Readiness(1, 1, self._places)

    async def open(self, key: str) -> None:
        await self._run(lambda: self._replica.open(key))

    async def reply(self, key: str, data: Any) -> Reply:
        answer: Reply = await self._run(lambda: self._replica.reply(key, data))
        return answer

    async def close(self, key: str) -> None:
        await self._run(lambda: self._replica.close(key))

    def holder(self, key: str) -> str:
        return "0"

    def shutdown(self) -> None:
        self._thread.shutdown()

    async def _run(self, work: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)
