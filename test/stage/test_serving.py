"""What drives `ecovla serve` from outside notices answers that are swapped, lost, or of another message."""

from __future__ import annotations

import asyncio
import threading
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("websockets")
pytest.importorskip("msgpack")

from ecovla_ros.errors import ConfigError, ReplicaError  # noqa: E402
from ecovla_ros.serve import server, session  # noqa: E402
from ecovla_ros.serve.replica import Readiness, Replica  # noqa: E402
from ecovla_ros.stage import serving  # noqa: E402
from ecovla_ros.types import ActionChunk  # noqa: E402


class Engine:
    """Answers with where the arm is."""

    policy = SimpleNamespace(spec=SimpleNamespace(cameras={"third_person": None, "wrist": None}))

    def step(self, obs):
        return SimpleNamespace(chunk=ActionChunk(0, 0.1, np.tile(obs.joints, (4, 1)), np.full(4, 0.5)), report=None)

    def reset(self, seed, pattern=True):
        pass


class Pool:
    """Sessions in the event loop; `spoil` may change what is asked."""

    def __init__(self, protocol, spoil=lambda key, data, count: (key, data)):
        keys = session.OPENPI if protocol == "openpi" else session.VLA_EVAL
        self._replica = Replica(lambda key: session.Session(Engine(), keys, False, key=key), protocol, {})
        self._spoil, self._count = spoil, 0
        self.keys = []

    def ready(self):
        return Readiness(1, 1, 8)

    def holder(self, key):
        return "0"

    async def open(self, key):
        self.keys.append(key)
        self._replica.open(key)

    async def reply(self, key, data):
        self._count += 1
        return self._replica.reply(*self._spoil(key, data, self._count))

    async def close(self, key):
        self._replica.close(key)

    def shutdown(self):
        pass


@contextmanager
def served(pool, protocol="openpi"):
    """Address of a server of this pool."""
    loop, ready, stop, found = asyncio.new_event_loop(), threading.Event(), asyncio.Event(), []

    async def run():
        listening = await server.PolicyServer(pool, protocol, {}).start("127.0.0.1", 0)
        found.append(f"ws://127.0.0.1:{listening.sockets[0].getsockname()[1]}")
        ready.set()
        await stop.wait()
        listening.close()
        await listening.wait_closed()

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),))
    thread.start()
    assert ready.wait(10)
    try:
        yield found[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)


@pytest.mark.parametrize("protocol", ["openpi", "vla-eval"])
def test_a_good_server_gives_every_client_its_own_answers(protocol):
    with served(Pool(protocol), protocol) as address:
        group = [serving.Client(name, address, protocol) for name in range(3)]
        for client in group:
            client.open()
        serving._together(group, lambda client: client.ask(20))
        for client in group:
            client.close()
    assert [len(c.taken_s) for c in group] == [20, 20, 20] and not any(serving._faults(group).values())
    assert len({c.session for c in group}) == 3


def test_several_at_once_are_measured_against_one_after_the_other():
    with served(Pool("openpi")) as address:
        row = serving.crowd(SimpleNamespace(address=address), 2, serving.BLOCK)
    assert row["answers"] == 2 * serving.BLOCK and row["wrong"] == row["errors"] == 0
    assert row["worst_over_mean_p99"] >= 1.0 and row["throughput_over_alone"] > 0.0


def test_an_answer_of_another_session_is_noticed():
    pool = Pool("openpi", lambda key, data, count: (pool.keys[0], data))
    with served(pool) as address:
        group = [serving.Client(name, address) for name in range(2)]
        for client in group:
            client.open()
        group[0].ask(1)
        group[1].session = pool.keys[1]
        group[1].ask(3)
        for client in group:
            client.close()
    assert (group[0].wrong, group[1].wrong) == (0, 3)


def test_an_answer_to_an_older_message_is_noticed():
    kept = []

    def late(key, data, count):
        kept.append(data)
        return key, kept[-1] if count < 3 else kept[-2]

    with served(Pool("openpi", late)) as address:
        client = serving.Client(0, address)
        client.open()
        client.ask(5)
        client.close()
    assert client.wrong == 3


def test_a_lost_replica_is_one_error_and_the_client_goes_on():
    def lost(key, data, count):
        if count == 2:
            raise ReplicaError("the replica has ended")
        return key, data

    with served(Pool("openpi", lost)) as address:
        client = serving.Client(0, address)
        client.open()
        client.ask(4)
        client.close()
    assert len(client.errors) == 1 and "begins anew with the next message" in client.errors[0][1]
    assert len(client.taken_s) == 3 and client.wrong == 0


@pytest.mark.parametrize("told, valid", [
    ((["crowds"], 8, 20, 1, 50_000), "valid: crowd, kill, soak"),
    ((["kill"], 8, 20, 1, 50_000), "--replicas 2 or more"),
    ((["soak"], 8, 20, 1, 3), "valid: 1, 1, 50"),
])  # fmt: skip
def test_what_cannot_be_asked_is_refused(told, valid, tmp_path):
    with pytest.raises(ConfigError, match=valid):
        serving.measure(*told, [], tmp_path, lambda done: None)
