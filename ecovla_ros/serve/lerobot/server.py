"""The gRPC server for LeRobot's robot clients (`lerobot.async_inference.robot_client`).

A client calls Ready, then SendPolicyInstructions with what its robot has, and then two things at once, over and over:
SendObservations, and GetActions, which waits for a chunk. The newest observation is answered. Where something is wrong
the call ends with a status that says what, which the client logs; lerobot's own server answers with silence.

All of it belongs to one event loop; pickles are read in threads, as they may be large.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn

import grpc

from ecovla_ros.errors import ConfigError, ObservationError, ReplicaError, short
from ecovla_ros.serve.lerobot import messages, pickled
from ecovla_ros.serve.lerobot.setup import Robot, RobotNeeds, robot_of
from ecovla_ros.serve.protocols import LeRobotRequest
from ecovla_ros.serve.replica import Pool
from ecovla_ros.serve.server import Access, is_local

log = logging.getLogger(__name__)

WAIT_S = 2.0
"""GetActions waits so long for an observation, and then answers with nothing, as lerobot's server does, s."""
PIECES_S = 10.0
"""The pieces of one observation come within this time, s."""
CALLS = 16
"""Calls at once, of all clients together; more are turned away."""
TOO_FAST, STEPS = 1.25, 10
"""A client that over so many steps acts this much faster than the policy means is told so."""
ANSWERED = 256
"""Steps that are remembered as answered."""


@dataclass
class LeRobotClient:
    """A client that called Ready."""

    peer: str
    key: str
    spoke_s: float
    robot: Robot | None = None
    refused: str = ""
    """Why it gets no more answers before it calls Ready again."""
    calls: int = 0
    """That are being answered now."""
    request: LeRobotRequest | None = None
    """The newest observation that is not answered yet."""
    came: asyncio.Event = field(default_factory=asyncio.Event)
    answered: deque[int] = field(default_factory=lambda: deque(maxlen=ANSWERED))
    steps: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=64))
    """Step and time, s, of its last observations."""


class LeRobotServer:
    """Serves the sessions of a `Pool` to LeRobot's clients."""

    def __init__(self, pool: Pool, served: RobotNeeds, period_s: float, access: Access | None = None) -> None:
        """`period_s`: time between two actions of a chunk."""
        self._pool, self._served, self.period_s = pool, served, period_s
        self._access = access or Access()
        self._clients: dict[str, LeRobotClient] = {}
        self._lock = asyncio.Lock()

    async def start(self, host: str, port: int) -> tuple[grpc.aio.Server, int]:
        """Listen; the caller stops it. Returns the port too. Raises ConfigError: taken, or one that others reach."""
        check_alone(host, self._access.token)
        server = grpc.aio.server(
            maximum_concurrent_rpcs=CALLS,
            options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", 4 * 2**20)],
        )
        server.add_generic_rpc_handlers((self._handlers(),))
        try:
            bound = server.add_insecure_port(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        except RuntimeError as error:
            raise ConfigError(f"cannot listen at {host}:{port}: is it taken? ({short(error, 80)})") from error
        await server.start()
        return server, bound

    def close(self) -> None:
        """End the sessions' threads, after what they are doing."""
        self._pool.shutdown()

    def _handlers(self) -> grpc.GenericRpcHandler:
        answer = dict(response_serializer=lambda message: message.SerializeToString())
        methods = {
            "Ready": grpc.unary_unary_rpc_method_handler(self._called(self._ready), **answer),
            "SendPolicyInstructions": grpc.unary_unary_rpc_method_handler(self._called(self._instructed), **answer),
            "SendObservations": grpc.stream_unary_rpc_method_handler(self._called(self._observed), **answer),
            "GetActions": grpc.unary_unary_rpc_method_handler(self._called(self._actions), **answer),
        }
        return grpc.method_handlers_generic_handler(messages.SERVICE, methods)

    def _called(self, method: Callable[[Any, Any, str], Any]) -> Callable[[Any, Any], Any]:
        """The call of a client, who is there as long as one of its calls is; what is wrong becomes its status."""

        async def call(request: Any, context: Any) -> Any:
            peer = context.peer()
            try:
                client = self._clients.get(peer)
                if client is not None:
                    client.calls += 1
                return await method(request, context, peer)
            except asyncio.CancelledError:  # the connection is gone
                await self._forget(peer)
                raise
            except (ObservationError, ReplicaError) as error:
                log.warning("%s: %s", peer, error)
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            finally:
                if client is not None:
                    client.calls -= 1
                    client.spoke_s = time.monotonic()

        return call

    async def _ready(self, _request: bytes, context: Any, peer: str) -> Any:
        """A new client, or one that begins anew."""
        async with self._lock:
            await self._forget(peer)
            while len(self._clients) >= self._pool.ready().places:
                silent = min(self._clients.values(), key=lambda c: (c.calls > 0, c.spoke_s))
                idle_s = time.monotonic() - silent.spoke_s
                if not self._access.takeover and (silent.calls or idle_s <= self._access.idle_s):
                    await context.abort(grpc.StatusCode.UNAVAILABLE, "another client is being served")
                await self._forget(silent.peer)
            client = LeRobotClient(peer, uuid.uuid4().hex, time.monotonic())
            await self._pool.open(client.key)
            self._clients[peer] = client
        return messages.Empty()

    async def _instructed(self, request: bytes, context: Any, peer: str) -> Any:
        """What the robot has. Which policy the client would like is logged, and not followed."""
        client = await self._known(peer, context)
        data = await _field(messages.PolicySetup, request)
        config = await asyncio.to_thread(pickled.read, data, "RemotePolicyConfig")
        client.robot = robot_of(config, self._served)
        asked = f"{short(config.values['policy_type'], 40)} {short(config.values['pretrained_name_or_path'], 80)}"
        log.info("%s asked for %s; it gets the policy that is served here", peer, asked)
        return messages.Empty()

    async def _observed(self, pieces: AsyncIterator[bytes], context: Any, peer: str) -> Any:
        """Keeps the newest observation, unless its step was answered already."""
        client = await self._known(peer, context)
        try:
            data = await asyncio.wait_for(messages.joined(pieces), PIECES_S)
        except asyncio.TimeoutError:
            raise ObservationError(f"an observation did not end within {PIECES_S:.0f} s") from None
        seen = await asyncio.to_thread(pickled.read, data, "TimedObservation")
        if client.robot is None:
            await _stop(context, "no policy instructions yet; valid: SendPolicyInstructions first")
        request = await asyncio.to_thread(client.robot.request, seen)
        await self._check_pace(client, request, context)
        if seen.values.get("must_go") is True or request.step not in client.answered:
            client.request = request
            client.came.set()
        return messages.Empty()

    async def _actions(self, _request: bytes, context: Any, peer: str) -> Any:
        """The chunk for the newest observation; nothing where none comes in time."""
        client = await self._known(peer, context)
        try:
            await asyncio.wait_for(client.came.wait(), WAIT_S)
        except asyncio.TimeoutError:
            return messages.Actions()
        request, client.request = client.request, None
        client.came.clear()
        if request is None:
            return messages.Actions()
        try:
            reply = await self._pool.reply(client.key, request)
        except ReplicaError:
            await self._pool.open(client.key)
            raise
        if reply.error or isinstance(reply.data, str):
            log.warning("%s: %s", peer, reply.data)
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(reply.data))
        client.answered.append(request.step)
        return messages.Actions(data=reply.data)

    async def _check_pace(self, client: LeRobotClient, request: LeRobotRequest, context: Any) -> None:
        """A chunk's actions are so many seconds apart, and the protocol does not say how fast a client takes them: at
        thrice the pace an arm would move thrice as fast. Its steps and times show it."""
        if client.steps and request.step < client.steps[-1][0]:  # it counts anew: another episode
            client.steps.clear()
            client.answered.clear()
            await self._pool.open(client.key)
        early = next((s for s in reversed(client.steps) if s[0] <= request.step - STEPS), None)
        client.steps.append((request.step, request.began_s))
        if early is None or request.began_s <= early[1]:
            return
        pace = (request.step - early[0]) / (request.began_s - early[1])
        if pace * self.period_s > TOO_FAST:
            fps = 1.0 / self.period_s
            client.refused = (
                f"the client takes {pace:.1f} actions a second, the policy means {fps:g}; valid: --fps={fps:g}"
            )
            await _stop(context, client.refused)

    async def _known(self, peer: str, context: Any) -> LeRobotClient:
        client = self._clients.get(peer)
        if client is None:
            await _stop(context, "not served: call Ready first, or another client took the place")
        if client.refused:
            await _stop(context, client.refused)
        return client

    async def _forget(self, peer: str) -> None:
        client = self._clients.pop(peer, None)
        if client is not None:
            await self._pool.close(client.key)


def check_alone(host: str, token: str) -> None:
    """Raises ConfigError for an address that others can reach, and for a token: these clients can show none."""
    if token:
        raise ConfigError("LeRobot's clients cannot show a token; valid: no token, and --host 127.0.0.1")
    if not is_local(host):
        raise ConfigError(
            f"--host {host or 'of every interface'} lets everybody on the network drive this policy, and LeRobot's "
            "clients can show no token; valid: --host 127.0.0.1, and on the robot's machine `ssh -N -L "
            "8080:127.0.0.1:8080 THIS_MACHINE`"
        )


async def _field(kind: Any, raw: bytes) -> bytes:
    try:
        return bytes(kind.FromString(raw).data)
    except messages.DecodeError as error:
        raise ObservationError(f"no protobuf message: {short(error)}") from error


async def _stop(context: Any, why: str) -> NoReturn:
    log.warning("%s: %s", context.peer(), why)
    await context.abort(grpc.StatusCode.FAILED_PRECONDITION, why)
    raise AssertionError("abort raises")
