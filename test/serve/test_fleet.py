"""Laws of several replicas: a session is held by one, one that dies takes nobody with it, one that goes drains."""

from __future__ import annotations

import asyncio

import pytest

from ecovla_ros.errors import ConfigError, ReplicaError
from ecovla_ros.serve.fleet import Fleet
from ecovla_ros.serve.protocols import Reply


class Process:
    """A replica that answers with who holds what. `die` is kill -9: what is asked then is kept for the next life."""

    def __init__(self, name):
        self.name, self.life, self.held, self.stopped = name, 0, set(), False
        self.up, self.dead = asyncio.Event(), asyncio.Event()
        self.up.set()
        self.slow = 0.0

    def die(self):
        self.held, self.dead_before, self.dead = set(), self.dead, asyncio.Event()
        self.life += 1
        self.up.clear()
        self.dead_before.set()

    async def hello(self):
        await self.up.wait()
        return {"send_state": True}

    async def watch(self):
        await self.dead.wait()
        raise ReplicaError("killed")

    async def open(self, key):
        await self.up.wait()
        self.held.add(key)

    async def reply(self, key, data):
        await self.up.wait()
        await asyncio.sleep(self.slow)
        await self.up.wait()
        if key not in self.held:
            raise ReplicaError(f"{key} is not held here")
        return Reply(f"{self.name}.{self.life} {key} {data}")

    async def close(self, key):
        self.held.discard(key)

    async def stop(self):
        self.stopped = True


def run(law, replicas=2, **options):
    """`law` (fleet, processes by name), with so many warm replicas."""

    async def main():
        processes = {}

        async def start(name):
            processes[name] = Process(name)
            return processes[name]

        fleet = Fleet(start, 2, **options)
        for _ in range(replicas):
            fleet.scale(1)
        while fleet.ready().warm < replicas:
            await asyncio.sleep(0)
        await asyncio.wait_for(law(fleet, processes), 20)
        fleet.shutdown()

    asyncio.run(main())


def test_sessions_are_spread_and_stay_where_they_are():
    async def law(fleet, processes):
        for key in "abcd":
            await fleet.open(key)
        assert sorted(len(p.held) for p in processes.values()) == [2, 2]
        for _ in range(3):
            for key in "abcd":
                reply = await fleet.reply(key, "x")
                assert reply.data == f"{fleet.holder(key)}.0 {key} x"

    run(law)


@pytest.mark.parametrize("asking", [False, True], ids=["between messages", "while it is asked"])
def test_a_dead_replicas_sessions_are_told_once_and_begin_anew_and_others_are_not_disturbed(asking):
    async def law(fleet, processes):
        for key in "abcd":
            await fleet.open(key)
        dead = processes[fleet.holder("a")]
        held, others = set(dead.held), set("abcd") - dead.held
        dead.slow = 60.0
        pending = [asyncio.ensure_future(fleet.reply(key, "x")) for key in held] if asking else []
        await asyncio.sleep(0.01)
        dead.die()
        await asyncio.sleep(0.01)
        for reply in pending:
            with pytest.raises(ReplicaError, match="has ended"):
                await reply
        for key in held:
            if not asking:
                with pytest.raises(ReplicaError, match="has ended"):
                    await fleet.reply(key, "x")
            await fleet.open(key)
            answer = await fleet.reply(key, "y")
            assert answer.data == f"{fleet.holder(key)}.0 {key} y" and fleet.holder(key) != dead.name
        for key in others:
            assert (await fleet.reply(key, "z")).data == f"{fleet.holder(key)}.0 {key} z"
        assert (fleet.ready().warm, fleet.ready().wanted) == (1, 2)
        dead.up.set()
        while fleet.ready().warm < 2:
            await asyncio.sleep(0.01)
        await fleet.open("e")
        assert fleet.holder("e") == dead.name, "the replaced replica is taken again"

    run(law)


def test_alone_a_replica_that_died_is_waited_for_and_then_given_up():
    async def law(fleet, processes):
        await fleet.open("a")
        processes["0"].die()
        await asyncio.sleep(0.01)
        with pytest.raises(ReplicaError, match="no replica was warm within"):
            await fleet.open("a")
        asyncio.get_running_loop().call_later(0.05, processes["0"].up.set)
        while not fleet.ready().warm:
            await asyncio.sleep(0.01)
        await fleet.open("a")
        assert (await fleet.reply("a", "x")).data == "0.1 a x"

    run(law, replicas=1, wait_s=0.1)


def test_one_that_goes_takes_no_new_sessions_and_ends_with_its_last():
    async def law(fleet, processes):
        for key in "abc":
            await fleet.open(key)
        fleet.scale(-1)
        going = min(processes.values(), key=lambda p: len(p.held))
        (last,) = going.held
        assert fleet.ready().wanted == 1 and not going.stopped
        await fleet.open("d")
        assert "d" not in going.held
        assert (await fleet.reply(last, "x")).data == f"{going.name}.0 {last} x", "it answers until then"
        await fleet.close(last)
        while not going.stopped:
            await asyncio.sleep(0)
        with pytest.raises(ConfigError, match="valid: 1 to"):
            fleet.scale(-1)
        fleet.scale(1)
        while fleet.ready().warm < 2:
            await asyncio.sleep(0)

    run(law)


def test_where_no_replica_starts_it_is_said():
    async def main():
        async def start(name):
            raise ReplicaError("no checkpoint")

        fleet = Fleet(start, 1)
        fleet.scale(1)
        with pytest.raises(ReplicaError, match="no replica could be started"):
            await fleet.warm()

    asyncio.run(main())
