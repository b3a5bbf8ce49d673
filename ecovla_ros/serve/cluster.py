"""Replicas as deployments of Ray Serve: it finds a machine, starts the process, asks whether it is well, and starts it
anew when it has ended.

Each replica is a deployment of its own, as Serve sends every request of a deployment wherever it likes, and a session
must not move. Serve's HTTP proxy and Ray's dashboard are not started: clients talk to our own websocket.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import time
import uuid
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from ecovla_ros import config
from ecovla_ros.errors import ConfigError, EcovlaError, ReplicaError, short
from ecovla_ros.serve.offer import Offer
from ecovla_ros.serve.protocols import Reply

LOCAL = "local"
"""Address of a new cluster on this machine alone."""
SURROUNDINGS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
"""Of a cluster that is started here, unless they are set: Ray tells nobody of its use, and its workers are as important
as other programs; by itself it starts them at nice 15, and whatever else a machine does goes before the policy."""
STORE_BYTES = 256 * 2**20
"""Ray's shared memory on this machine alone: messages pass through it."""
ONGOING = 1024
"""Calls that a replica holds at once; our front sends one for each session, and one that watches."""
HEALTH_S, WELL_S, GOODBYE_S = 5.0, 30.0, 10.0
"""How often Serve asks whether a replica is well, how long it may take to answer, and how long an end may take, s."""
STUCK_S = 120.0
"""A message that takes longer to answer means that the replica is not well, s."""


class RemoteReplica:
    """What runs in the process of a replica: one inference thread, and a loop that takes calls."""

    def __init__(self, offer: Offer) -> None:
        """Loads the policy and warms it up. Raises as `Offer.open`."""
        self._thread = ThreadPoolExecutor(1, "inference")
        self._engine, self._replica = self._thread.submit(lambda: offer.open(take_turns=True)).result()
        self._asks = offer.asks(self._engine.policy.spec.cameras)
        self._began_s: float | None = None

    async def hello(self) -> dict[str, Any]:
        """What clients are asked for."""
        return self._asks

    async def watch(self) -> None:
        """Returns never: who waits for it learns when the process ends."""
        await asyncio.Event().wait()

    async def open(self, key: str) -> None:
        """As `Replica.open`."""
        await self._run(lambda: self._replica.open(key))

    async def reply(self, key: str, data: Any) -> Reply:
        """As `Replica.reply`."""
        answer: Reply = await self._run(lambda: self._replica.reply(key, data))
        return answer

    async def close(self, key: str) -> None:
        """As `Replica.close`."""
        await self._run(lambda: self._replica.close(key))

    def check_health(self) -> None:
        """Asked by Serve, which replaces a replica that raises here: one whose message is never answered."""
        began_s = self._began_s
        if began_s is not None and time.monotonic() - began_s > STUCK_S:
            raise ReplicaError(f"a message has not been answered for {STUCK_S:.0f} s")

    async def _run(self, work: Callable[[], Any]) -> Any:
        def timed() -> Any:
            self._began_s = time.monotonic()
            try:
                return work()
            finally:
                self._began_s = None

        return await asyncio.get_running_loop().run_in_executor(self._thread, timed)


@dataclass(frozen=True)
class Handle:
    """A `Remote`: Serve's handle of one deployment. Foreign errors become ours here."""

    handle: Any
    name: str
    lost: tuple[type[BaseException], ...]
    """Ray's errors."""
    delete: Callable[[str], Any]

    async def hello(self) -> dict[str, Any]:
        asks: dict[str, Any] = await self._call(self.handle.hello.remote())
        return asks

    async def watch(self) -> None:
        await self._call(self.handle.watch.remote())

    async def open(self, key: str) -> None:
        await self._call(self.handle.open.remote(key))

    async def reply(self, key: str, data: Any) -> Reply:
        answer: Reply = await self._call(self.handle.reply.remote(key, data))
        return answer

    async def close(self, key: str) -> None:
        await self._call(self.handle.close.remote(key))

    async def stop(self) -> None:
        await asyncio.to_thread(self.delete, self.name)

    async def _call(self, response: Awaitable[Any]) -> Any:
        try:
            return await response
        except self.lost as error:
            cause = getattr(error, "cause", None)  # what was raised there; Ray's own text is a trace
            if isinstance(cause, EcovlaError):
                raise cause from error
            raise ReplicaError(short(cause or error)) from error


class Cluster:
    """Starts replicas on a Ray cluster. A context manager: what was started ends with it."""

    def __init__(self, offer: Offer, replicas: int, address: str) -> None:
        """`address`: "local" for a new cluster on this machine, "auto" for the one that it belongs to, or HOST:PORT.

        Raises ConfigError where ray is not installed or no cluster answers.
        """
        for name, value in SURROUNDINGS.items():
            os.environ.setdefault(name, value)
        try:
            self._ray, self._serve = importlib.import_module("ray"), importlib.import_module("ray.serve")
        except ImportError as error:
            needed = "pip install 'ecovla_ros[cluster]'"
            raise ConfigError(f"--replicas needs Ray Serve, which does not import ({error}); run: {needed}") from error
        own = {"object_store_memory": STORE_BYTES, "include_dashboard": False} if address == LOCAL else {}
        try:
            self._ray.init(address=address, ignore_reinit_error=True, log_to_driver=False, **own)
            self._serve.start(proxy_location="Disabled")
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ConfigError(f"no Ray cluster at '{address}': {error}") from error
        self._own, self._offer, self._run = address == LOCAL, offer, uuid.uuid4().hex[:6]
        self._resources, self._offer = _share(offer, replicas, self._ray.cluster_resources())
        self._names: list[str] = []

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        if self._own:
            self._serve.shutdown()
        else:
            for name in self._names:
                self._serve.delete(name)
        self._ray.shutdown()

    async def start(self, name: str) -> Handle:
        """A replica. Raises ReplicaError where it cannot be started, e.g. for a checkpoint that is not there."""
        full = f"ecovla-{self._run}-{name}"
        self._names.append(full)
        options = {
            "num_replicas": 1, "max_ongoing_requests": ONGOING, "health_check_period_s": HEALTH_S,
            "health_check_timeout_s": WELL_S, "graceful_shutdown_timeout_s": GOODBYE_S,
            "graceful_shutdown_wait_loop_s": 0.1, "ray_actor_options": self._resources,
        }  # fmt: skip
        made = self._serve.deployment(RemoteReplica).options(**options).bind(self._offer)
        try:
            handle = await asyncio.to_thread(lambda: self._serve.run(made, name=full, route_prefix=None))
        except (RuntimeError, self._ray.exceptions.RayError) as error:
            raise ReplicaError(short(error, 500)) from error
        return Handle(handle, full, (self._ray.exceptions.RayError, RuntimeError), self._serve.delete)


def _share(offer: Offer, replicas: int, resources: dict[str, float]) -> tuple[dict[str, float], Offer]:
    """What Ray keeps free for one replica, and the offer with as many threads as it gets.

    A GPU each, or a part of one where there are fewer; else the cores, evenly.
    """
    policy, gpus, cores = offer.settings.policy, resources.get("GPU", 0.0), resources.get("CPU", 1.0)
    if policy.device != "cpu" and gpus:
        return {"num_gpus": min(1.0, gpus / replicas), "num_cpus": 0.0}, offer
    threads = policy.threads or max(1, int(cores // replicas))
    settings = config.override(offer.settings, **{"policy.threads": threads})
    return {"num_cpus": min(float(threads), cores / replicas)}, offer.with_settings(settings)
