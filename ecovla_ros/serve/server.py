"""The websocket. A client has a session of its own on one replica; whatever a client does, the others are served.

Threads: sockets belong to the event loop; the engine and everything that a message can make work to the inference
thread of a replica, which the loop waits for: nothing a client sends keeps others from being answered.
"""

from __future__ import annotations

import asyncio
import hmac
import http
import ipaddress
import logging
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from ecovla_ros.errors import ConfigError, ReplicaError, short
from ecovla_ros.metrics import ServeMetrics
from ecovla_ros.serve import protocols
from ecovla_ros.serve.codec import MAX_BYTES
from ecovla_ros.serve.protocols import Reply
from ecovla_ros.serve.replica import Pool

log = logging.getLogger(__name__)

HEALTH = ("/health", "/healthz")
METRICS, PLAIN = "/metrics", "text/plain; version=0.0.4; charset=utf-8"
"""Prometheus asks here, and takes this."""
DEADLINE_MS = 100.0
"""As `node.deadline_ms` has it."""
PING_S, GONE_S = 30.0, 300.0
"""How often a client is pinged, and after what silence its connection ends, s; simulators block for tens of seconds."""
IDLE_S = 60.0
"""A client that has said nothing for so long gives its seat to the next one, s."""
ALIVE_S = 5.0
"""An openpi client that does not answer a ping within this time has vanished, s; asked when another one comes."""
CLOSE_S = 2.0
"""A client has so long to answer a close, s."""
BUSY = 1013
"""Websocket's "try again later"."""
GIVEN_UP = 4001
"""The seat went to another client."""
LEAST_TOKEN = 16
"""Characters of a token at least."""
MOST_REASON = 100
"""Characters of the reason of a close, at most: a frame of a close holds 123 bytes."""
MOST_PATH = 512
"""Characters of an address that are looked at."""


@dataclass
class ServedClient:
    """A client that is being served."""

    socket: ServerConnection
    spoke_s: float
    """When it last sent or got something, s of a steady clock."""
    key: str
    """Of its session."""
    ended: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True)
class Access:
    """Who may connect, and how long a silent client keeps its seat."""

    token: str = ""
    """What a client must show; empty: nothing, which only an address of this machine allows."""
    takeover: bool = False
    """A new client is let in at once, and the one before is told so."""
    idle_s: float = IDLE_S


class PolicyServer:
    """Serves the sessions of a `Pool` in one protocol."""

    def __init__(
        self, pool: Pool, protocol: str, asks: Mapping[str, Any], access: Access | None = None,
        deadline_ms: float = DEADLINE_MS,
    ) -> None:  # fmt: skip
        """`asks`: what the harness shall put into its observations (vla-eval), or metadata (openpi). `deadline_ms`: a
        policy call that takes longer counts as a miss."""
        self._pool, self._protocol, self._asks = pool, protocol, dict(asks)
        self._access = access or Access()
        self._metrics = ServeMetrics(deadline_ms)
        self._seats: dict[str, ServedClient] = {}

    async def start(self, host: str, port: int) -> Server:
        """Listen; the caller closes it. Raises OSError for a port that is taken, ConfigError for an open door."""
        check_exposed(host, self._access.token)
        return await serve(
            self._client, host, port, compression=None, max_size=MAX_BYTES, max_queue=1, process_request=self._admit,
            ping_interval=PING_S, ping_timeout=GONE_S, close_timeout=CLOSE_S, origins=[None],
        )  # fmt: skip

    def close(self) -> None:
        """End the replicas, after what they are doing."""
        self._pool.shutdown()

    def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        """Before the websocket: health for everybody, metrics and the rest for those with the token."""
        if request.path in HEALTH:
            return self._health(connection)
        if self._access.token and not any(_same(shown, self._access.token) for shown in _shown(request)):
            return connection.respond(
                http.HTTPStatus.UNAUTHORIZED,
                "a token is needed: the header 'Authorization: Bearer TOKEN' or '?token=TOKEN' behind the address\n",
            )
        if urlsplit(request.path[:MOST_PATH]).path == METRICS:
            ready = self._pool.ready()
            self._metrics.warm.set(ready.warm)
            self._metrics.wanted.set(ready.wanted)
            response = connection.respond(http.HTTPStatus.OK, self._metrics.page().decode())
            response.headers["Content-Type"] = PLAIN
            return response
        return None

    def _health(self, connection: ServerConnection) -> Response:
        """OK once a replica is warm. What is asked before is told how many are."""
        ready = self._pool.ready()
        if ready.warm:
            return connection.respond(http.HTTPStatus.OK, "OK\n")
        return connection.respond(http.HTTPStatus.SERVICE_UNAVAILABLE, f"0 of {ready.wanted} replicas are warm\n")

    async def _client(self, socket: ServerConnection) -> None:
        if not await self._place(socket):
            return
        seat = ServedClient(socket, time.monotonic(), f"{uuid.uuid4().hex[:12]}")
        self._seats[seat.key] = seat
        self._count()
        try:
            await self._pool.open(seat.key)
            self._metrics.opened.inc()
            await self._serve(seat)
        except ConnectionClosed:
            log.info("client gone")
        except ReplicaError as error:
            await socket.close(BUSY, short(error, MOST_REASON))
        finally:
            await self._leave(seat)

    async def _leave(self, seat: ServedClient) -> None:
        """Give the seat back, whatever became of its client. A session is ended before another takes its place."""
        try:
            await asyncio.shield(self._pool.close(seat.key))
        finally:
            self._seats.pop(seat.key, None)
            self._count()
            seat.ended.set()

    async def _place(self, socket: ServerConnection) -> bool:
        """Wait for a place; False for a client that was turned away."""
        while len(self._seats) >= max(1, self._pool.ready().places):
            seat = await self._gives_way()
            if seat is None:
                self._metrics.turned_away.inc()
                busy = "another client is" if len(self._seats) == 1 else f"{len(self._seats)} other clients are"
                await socket.close(BUSY, f"{busy} being served")
                return False
            idle_s = time.monotonic() - seat.spoke_s
            await seat.socket.close(GIVEN_UP, f"silent for {idle_s:.0f} s; another client was let in")
            await seat.ended.wait()
        return True

    async def _gives_way(self) -> ServedClient | None:
        """The client that has been silent longest, if it has to give its seat up; or one whose machine is gone."""
        seats = sorted(self._seats.values(), key=lambda seat: seat.spoke_s)
        longest = seats[0]
        if self._access.takeover or time.monotonic() - longest.spoke_s > self._access.idle_s:
            return longest
        if self._protocol != "openpi":
            return None
        answers = await asyncio.gather(*(_vanished(seat) for seat in seats))
        return next((seat for seat, gone in zip(seats, answers) if gone), None)

    async def _serve(self, seat: ServedClient) -> None:
        hello = protocols.greeting(self._protocol, self._asks)
        if hello is not None:
            await seat.socket.send(hello)
        async for data in seat.socket:
            seat.spoke_s = time.monotonic()
            reply = await self._reply(seat, data)
            if reply.data:
                await seat.socket.send(reply.data)
            seat.spoke_s = time.monotonic()

    async def _reply(self, seat: ServedClient, data: Any) -> Reply:
        """The answer of the seat's replica; where that has ended, an error, and the session begins anew on another."""
        holder = self._pool.holder(seat.key)
        try:
            reply = await self._pool.reply(seat.key, data)
        except ReplicaError as error:
            await self._pool.open(seat.key)
            self._metrics.moved.inc()
            told = ReplicaError(f"{error}; the session begins anew with the next message")
            reply = await asyncio.to_thread(protocols.refusal, self._protocol, data, told)
        self._metrics.answered(holder, reply.report, reply.error, time.monotonic() - seat.spoke_s)
        return reply

    def _count(self) -> None:
        self._metrics.sessions.set(len(self._seats))


async def _vanished(seat: ServedClient) -> bool:
    """Whether the machine of a client is gone: openpi's client answers pings from a thread of its own, whatever it
    does. vla-eval's does not while its simulator runs, and keeps its seat."""
    try:
        await asyncio.wait_for(await seat.socket.ping(), ALIVE_S)
    except (asyncio.TimeoutError, ConnectionClosed):
        return True
    return False


def check_exposed(host: str, token: str) -> None:
    """Raises ConfigError for an address that others can reach without a token, and for a token that can be guessed."""
    if token and len(token) < LEAST_TOKEN:
        raise ConfigError(
            f"a token of {len(token)} characters; valid: {LEAST_TOKEN} or more, e.g. `openssl rand -hex 16`"
        )
    if not token and not is_local(host):
        raise ConfigError(
            f"--host {host or 'of every interface'} lets everybody on the network drive this policy; valid: a token "
            "that clients must show (--token, or ECOVLA_TOKEN), or --host 127.0.0.1"
        )


def is_local(host: str) -> bool:
    """Whether only this machine can connect to this address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _shown(request: Request) -> list[str]:
    """Tokens that a request shows: `Bearer` and openpi's `Api-Key` in a header, or in the address."""
    header = request.headers.get_all("Authorization")[:1]
    shown = [value for text in header for kind, _, value in [text.partition(" ")] if kind in ("Bearer", "Api-Key")]
    return shown + parse_qs(urlsplit(request.path[:MOST_PATH]).query, max_num_fields=4).get("token", [])


def _same(shown: str, token: str) -> bool:
    """Compared in constant time."""
    return hmac.compare_digest(shown.encode(errors="replace"), token.encode())
