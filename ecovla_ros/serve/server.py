"""The websocket. One client at a time, as the engine follows one scene; whatever a client does, the next is served.

Threads: sockets belong to the event loop; the engine and everything that a message can make work to one inference
thread, which the loop waits for: nothing a client sends keeps others from being answered.
"""

from __future__ import annotations

import asyncio
import hmac
import http
import ipaddress
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from ecovla_ros.errors import ConfigError, EcovlaError, short
from ecovla_ros.serve.codec import MAX_BYTES, pack, unpack
from ecovla_ros.serve.session import Session

log = logging.getLogger(__name__)

VERSION = 1
"""Of vla-eval's protocol."""
HEALTH = ("/health", "/healthz")
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
MOST_TEXT = 500
"""Characters of an answer that says what is wrong, at most."""
MOST_PATH = 512
"""Characters of an address that are looked at."""


@dataclass
class ServedClient:
    """The client that is being served."""

    socket: ServerConnection
    spoke_s: float
    """When it last sent or got something, s of a steady clock."""
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
    """Serves one `Session` in one protocol."""

    def __init__(self, session: Session, protocol: str, asks: Mapping[str, Any], access: Access | None = None) -> None:
        """`asks`: what the harness shall put into its observations (vla-eval), or metadata (openpi)."""
        self._session, self._protocol, self._asks = session, protocol, dict(asks)
        self._access = access or Access()
        self._thread = ThreadPoolExecutor(1, "inference")
        self._seat: ServedClient | None = None

    async def start(self, host: str, port: int) -> Server:
        """Listen; the caller closes it. Raises OSError for a port that is taken, ConfigError for an open door."""
        check_exposed(host, self._access.token)
        return await serve(
            self._client, host, port, compression=None, max_size=MAX_BYTES, max_queue=1, process_request=self._admit,
            ping_interval=PING_S, ping_timeout=GONE_S, close_timeout=CLOSE_S, origins=[None],
        )  # fmt: skip

    def close(self) -> None:
        """End the inference thread, after what it is doing."""
        self._thread.shutdown()

    def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        """Before the websocket: health for everybody, the rest for those with the token."""
        if request.path in HEALTH:
            return connection.respond(http.HTTPStatus.OK, "OK\n")
        if self._access.token and not any(_same(shown, self._access.token) for shown in _shown(request)):
            return connection.respond(
                http.HTTPStatus.UNAUTHORIZED,
                "a token is needed: the header 'Authorization: Bearer TOKEN' or '?token=TOKEN' behind the address\n",
            )
        return None

    async def _client(self, socket: ServerConnection) -> None:
        while (seat := self._seat) is not None:
            idle_s = time.monotonic() - seat.spoke_s
            keeps = not self._access.takeover and idle_s <= self._access.idle_s
            if keeps and not await self._vanished(seat):
                await socket.close(BUSY, "another client is being served")
                return
            await seat.socket.close(GIVEN_UP, f"silent for {idle_s:.0f} s; another client was let in")
            await seat.ended.wait()
        seat = self._seat = ServedClient(socket, time.monotonic())
        try:
            await self._serve(seat)
        except ConnectionClosed:
            log.info("client gone")
        finally:
            self._seat = None
            seat.ended.set()

    async def _vanished(self, seat: ServedClient) -> bool:
        """Whether the machine of a client is gone: openpi's client answers pings from a thread of its own, whatever it
        does. vla-eval's does not while its simulator runs, and keeps its seat."""
        if self._protocol != "openpi":
            return False
        try:
            await asyncio.wait_for(await seat.socket.ping(), ALIVE_S)
        except (asyncio.TimeoutError, ConnectionClosed):
            return True
        return False

    async def _serve(self, seat: ServedClient) -> None:
        vla_eval = self._protocol == "vla-eval"
        answer: Callable[[ServerConnection, Any], Awaitable[None]] = self._vla_eval if vla_eval else self._openpi
        await self._run(self._session.start)
        if not vla_eval:
            await seat.socket.send(pack(self._asks, "openpi"))
        async for data in seat.socket:
            seat.spoke_s = time.monotonic()
            await answer(seat.socket, data)
            seat.spoke_s = time.monotonic()

    async def _openpi(self, socket: ServerConnection, data: Any) -> None:
        """An observation in, a chunk out; text tells what was wrong."""
        began = time.monotonic()
        try:
            chunk = await self._run(lambda: self._session.answer(unpack(data)))
        except Exception as error:  # whatever a message raises, its sender is told, and the next is answered
            await socket.send(_told(error))
            return
        if chunk is None:
            await socket.send(pack({"reset": True}, "openpi"))
            return
        timing = {"infer_ms": (time.monotonic() - began) * 1e3}
        await socket.send(pack({"actions": chunk, "server_timing": timing}, "openpi"))

    async def _vla_eval(self, socket: ServerConnection, data: Any) -> None:
        """Typed messages; an observation is answered with one action, whatever is wrong with an error."""
        number = 0
        try:
            message = await self._run(lambda: unpack(data))
            kind, payload, number = _envelope(message)
            if kind == "hello":
                reply = {"harness_version": "", "protocol_version": VERSION, "model_server": "ecovla_ros",
                         "capabilities": {}, "observation_params": self._asks}  # fmt: skip
                await socket.send(_typed("hello", reply, number))
            elif kind == "observation":
                action = await self._run(lambda: self._session.action(payload))
                await socket.send(_typed("action", {"actions": action}, number))
            elif kind in ("episode_start", "episode_end"):
                await self._run(self._session.start)
            else:
                error = f"a message of type '{kind}'; valid: hello, episode_start, observation, episode_end"
                await socket.send(_typed("error", {"error": error}, number))
        except ConnectionClosed:
            raise
        except Exception as error:  # whatever a message raises, its sender is told, and the next is answered
            await socket.send(_typed("error", {"error": _told(error)}, number))

    async def _run(self, work: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


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


def _envelope(message: Any) -> tuple[str, Any, int]:
    """Type, payload and number of a message of vla-eval."""
    if not isinstance(message, Mapping):
        return short(type(message).__name__), None, 0
    number = message.get("seq", 0)
    return short(message.get("type"), 40), message.get("payload"), number if isinstance(number, int) else 0


def _told(error: Exception) -> str:
    """What a client is told. What nobody expected is logged with its place."""
    if not isinstance(error, (EcovlaError, RuntimeError, MemoryError)):  # torch raises RuntimeError
        log.error("a message broke the session", exc_info=error)
    return f"{type(error).__name__}: {short(error, MOST_TEXT)}"


def _typed(kind: str, payload: Mapping[str, Any], number: int) -> bytes:
    message = {"type": kind, "payload": dict(payload), "seq": number, "timestamp": time.time()}
    return pack(message, "vla-eval")
