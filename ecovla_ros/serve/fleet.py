"""Several replicas, each a process somewhere: which session is held where, what becomes of it when its replica dies,
and how replicas come and go. Knows no cluster: `serve/cluster` starts the processes.

A session belongs to one replica until it ends. Whether a replica lives is known by a call that never returns while it
does. When it breaks, what the replica held is lost: each of its sessions gets one error, and begins anew on another.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Protocol

from ecovla_ros.errors import ConfigError, ReplicaError
from ecovla_ros.serve.protocols import Reply
from ecovla_ros.serve.replica import Readiness

log = logging.getLogger(__name__)

WAIT_S = 60.0
"""A session waits so long for a warm replica, s."""
AGAIN_S = 0.5
"""Between two questions whether a replica is up, s."""
MOST = 64
"""Replicas at most."""


class Remote(Protocol):
    """A replica in another process. Every method raises ReplicaError when that has ended."""

    def hello(self) -> Awaitable[dict[str, Any]]:
        """What it asks clients for; once it is warm."""
        ...

    def watch(self) -> Awaitable[None]:
        """Returns never; raises when the process ends."""
        ...

    def open(self, key: str) -> Awaitable[None]: ...

    def reply(self, key: str, data: Any) -> Awaitable[Reply]: ...

    def close(self, key: str) -> Awaitable[None]: ...

    def stop(self) -> Awaitable[None]:
        """End it, and do not start it again."""
        ...


@dataclass(eq=False)
class Berth:
    """The place of one replica: who is held there, and whether it is warm."""

    name: str
    remote: Remote | None = None
    warm: bool = False
    draining: bool = False
    held: set[str] = field(default_factory=set)
    lost: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the replica that is there now has ended."""


class Fleet:
    """A `Pool` of replicas. Belongs to the event loop."""

    def __init__(self, start: Callable[[str], Awaitable[Remote]], places: int, wait_s: float = WAIT_S) -> None:
        """`start`: a replica of a name; it is started again by itself when it ends. `places`: sessions of each."""
        self._start, self._places, self._wait_s = start, places, wait_s
        self._berths: dict[str, Berth] = {}
        self._at: dict[str, Berth | None] = {}
        """Session -> where it is held; None: its replica has ended, and it was not told yet."""
        self._names = itertools.count()
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Condition()
        self.asks: dict[str, Any] = {}
        """What the replicas ask clients for; known once one was warm."""

    def ready(self) -> Readiness:
        berths = [berth for berth in self._berths.values() if not berth.draining]
        return Readiness(sum(b.warm for b in berths), len(berths), self._places * len(berths))

    def holder(self, key: str) -> str:
        berth = self._at.get(key)
        return berth.name if berth is not None else "none"

    def scale(self, change: int) -> None:
        """One replica more or fewer (`change` 1 or -1). One that goes takes no new sessions, and ends with its last.

        Raises ConfigError below one replica and above `MOST`.
        """
        wanted = self.ready().wanted + change
        if not 1 <= wanted <= MOST:
            raise ConfigError(f"{wanted} replicas; valid: 1 to {MOST}")
        if change > 0:
            berth = Berth(str(next(self._names)))
            self._berths[berth.name] = berth
            self._spawn(self._keep(berth))
            return
        going = min((b for b in self._berths.values() if not b.draining), key=lambda b: (len(b.held), not b.warm))
        going.draining = True
        log.info("replica %s goes when its %d sessions have ended", going.name, len(going.held))
        if not going.held:
            self._spawn(self._end(going))

    async def warm(self) -> None:
        """Wait for the first warm replica. Raises ReplicaError where none comes up."""
        await self._until(lambda: bool(self.ready().warm), None)

    async def open(self, key: str) -> None:
        """Begin a session on the warm replica that holds fewest. Raises ReplicaError where none is warm in time."""
        before = self._at.get(key)
        if before is not None:  # it does not hold the session any more, or nobody would open it again
            before.held.discard(key)
        while True:
            await self._until(lambda: bool(self._open_berths()), self._wait_s)
            berth = min(self._open_berths(), key=lambda b: len(b.held))
            self._at[key] = berth
            berth.held.add(key)
            assert berth.remote is not None
            try:
                await self._asked(berth, berth.remote.open(key))
                return
            except ReplicaError:  # it ended under our hands: the next one
                self._at[key] = None
                berth.held.discard(key)

    async def reply(self, key: str, data: Any) -> Reply:
        """Answer a message. Raises ReplicaError where the session's replica has ended."""
        berth = self._at.get(key)
        if berth is None or berth.remote is None:
            raise ReplicaError(f"the replica of session {key} has ended")
        answer: Reply = await self._asked(berth, berth.remote.reply(key, data))
        return answer

    async def close(self, key: str) -> None:
        """End a session; a replica that drains ends with its last one."""
        berth = self._at.pop(key, None)
        if berth is None or key not in berth.held:
            return
        berth.held.discard(key)
        try:
            if berth.warm and berth.remote is not None:
                await self._asked(berth, berth.remote.close(key))
        except ReplicaError:
            log.info("replica %s had ended before session %s", berth.name, key)
        if berth.draining and not berth.held:
            self._spawn(self._end(berth))

    def shutdown(self) -> None:
        """Stop watching. The processes are ended by whoever started them."""
        for task in self._tasks:
            task.cancel()

    def _open_berths(self) -> list[Berth]:
        return [berth for berth in self._berths.values() if berth.warm and not berth.draining]

    async def _keep(self, berth: Berth) -> None:
        """Start a replica and watch it, again and again, until it drains."""
        try:
            berth.remote = await self._start(berth.name)
        except ReplicaError as error:
            log.error("replica %s does not start: %s", berth.name, error)
            self._berths.pop(berth.name, None)
            await self._tell()
            return
        while berth.name in self._berths:
            try:
                self.asks = await berth.remote.hello()
                berth.warm, berth.lost = True, asyncio.Event()
                log.info("replica %s is warm", berth.name)
                await self._tell()
                await berth.remote.watch()
            except ReplicaError as error:
                if berth.warm:
                    log.warning("replica %s has ended with %d sessions: %s", berth.name, len(berth.held), error)
            await self._lose(berth)
            await asyncio.sleep(AGAIN_S)

    async def _lose(self, berth: Berth) -> None:
        """Whoever was held here is told at its next message, or now if it waits for an answer."""
        berth.warm = False
        for key in berth.held:
            self._at[key] = None
        berth.held.clear()
        berth.lost.set()
        await self._tell()
        if berth.draining:
            await self._end(berth)

    async def _end(self, berth: Berth) -> None:
        if self._berths.pop(berth.name, None) is None:
            return
        berth.warm = False
        if berth.remote is not None:
            await berth.remote.stop()
        log.info("replica %s has gone", berth.name)
        await self._tell()

    async def _asked(self, berth: Berth, question: Awaitable[Any]) -> Any:
        """The answer; ReplicaError as soon as the replica is known to have ended: a question may be kept for the next
        one, which knows nothing of the session."""
        asked, ended = asyncio.ensure_future(question), asyncio.ensure_future(berth.lost.wait())
        try:
            await asyncio.wait((asked, ended), return_when=asyncio.FIRST_COMPLETED)
            if asked.done():
                return asked.result()
            raise ReplicaError(f"replica {berth.name} has ended")
        finally:
            asked.cancel()
            ended.cancel()

    async def _until(self, true: Callable[[], bool], limit_s: float | None) -> None:
        """Raises ReplicaError when it is not true in time, or no replica is left that could make it so."""

        async def wait() -> None:
            async with self._changed:
                await self._changed.wait_for(lambda: true() or not self._berths)

        try:
            await asyncio.wait_for(wait(), limit_s)
        except asyncio.TimeoutError as error:
            raise ReplicaError(f"no replica was warm within {limit_s:.0f} s; try again later") from error
        if not true():
            raise ReplicaError("no replica could be started; the log says why")

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
