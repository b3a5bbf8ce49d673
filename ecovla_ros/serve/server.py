"""The websocket. One client at a time, as the engine follows one scene; whatever a client does, the next is served.

Threads: sockets belong to the event loop; the engine to one inference thread, which the loop waits for.
"""

from __future__ import annotations

import asyncio
import http
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from ecovla_ros.errors import EcovlaError
from ecovla_ros.serve.codec import MAX_BYTES, pack, unpack
from ecovla_ros.serve.session import Session

log = logging.getLogger(__name__)

VERSION = 1
"""Of vla-eval's protocol."""
HEALTH = ("/health", "/healthz")
PING_S, GONE_S = 60.0, 300.0
"""How often a client is pinged, and after what silence it is given up, s; simulators block for tens of seconds."""
BUSY = 1013
"""Websocket's "try again later"."""


class PolicyServer:
    """Serves one `Session` in one protocol."""

    def __init__(self, session: Session, protocol: str, asks: Mapping[str, Any]) -> None:
        """`asks`: what the harness shall put into its observations (vla-eval), or metadata (openpi)."""
        self._session, self._protocol, self._asks = session, protocol, dict(asks)
        self._thread = ThreadPoolExecutor(1, "inference")
        self._taken = False

    async def start(self, host: str, port: int) -> Server:
        """Listen; the caller closes it. Raises OSError for a port that is taken."""
        return await serve(
            self._client, host, port, compression=None, max_size=MAX_BYTES, process_request=_health,
            ping_interval=PING_S, ping_timeout=GONE_S,
        )  # fmt: skip

    def close(self) -> None:
        """End the inference thread, after what it is doing."""
        self._thread.shutdown()

    async def _client(self, socket: ServerConnection) -> None:
        if self._taken:
            await socket.close(BUSY, "another client is being served")
            return
        self._taken = True
        answer: Callable[[ServerConnection, Any], Awaitable[None]] = (
            self._vla_eval if self._protocol == "vla-eval" else self._openpi
        )
        try:
            await self._run(self._session.start)
            if self._protocol == "openpi":
                await socket.send(pack(self._asks, "openpi"))
            async for data in socket:
                await answer(socket, data)
        except ConnectionClosed:
            log.info("client gone")
        finally:
            self._taken = False

    async def _openpi(self, socket: ServerConnection, data: Any) -> None:
        """An observation in, a chunk out; text tells what was wrong."""
        began = time.monotonic()
        try:
            chunk = await self._run(lambda: self._session.chunk(unpack(data)))
        except EcovlaError as error:
            await socket.send(f"{type(error).__name__}: {error}")
            return
        timing = {"infer_ms": (time.monotonic() - began) * 1e3}
        await socket.send(pack({"actions": chunk, "server_timing": timing}, "openpi"))

    async def _vla_eval(self, socket: ServerConnection, data: Any) -> None:
        """Typed messages; an observation is answered with one action, whatever is wrong with an error."""
        number = 0
        try:
            message = unpack(data)
            kind = message.get("type") if isinstance(message, Mapping) else None
            payload = message.get("payload") if isinstance(message, Mapping) else None
            number = message.get("seq", 0) if isinstance(message, Mapping) else 0
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
                error = f"a message of type {kind!r}; valid: hello, episode_start, observation, episode_end"
                await socket.send(_typed("error", {"error": error}, number))
        except EcovlaError as error:
            await socket.send(_typed("error", {"error": f"{type(error).__name__}: {error}"}, number))

    async def _run(self, work: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def _typed(kind: str, payload: Mapping[str, Any], number: Any) -> bytes:
    message = {"type": kind, "payload": dict(payload), "seq": number, "timestamp": time.time()}
    return pack(message, "vla-eval")


def _health(connection: ServerConnection, request: Request) -> Response | None:
    return connection.respond(http.HTTPStatus.OK, "OK\n") if request.path in HEALTH else None
