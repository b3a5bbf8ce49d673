"""LeRobot's clients: what its real ones sent (lerobot_messages.json) is read, and nothing in a pickle is run."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import pickle
import struct
import sys
from collections import namedtuple
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

grpc = pytest.importorskip("grpc")
pytest.importorskip("google.protobuf")

from ecovla_ros.cli import main  # noqa: E402
from ecovla_ros.errors import ConfigError, ObservationError  # noqa: E402
from ecovla_ros.serve.lerobot import messages, pickled  # noqa: E402
from ecovla_ros.serve.lerobot.server import LeRobotServer, check_alone  # noqa: E402
from ecovla_ros.serve.lerobot.setup import RobotNeeds, robot_of  # noqa: E402
from ecovla_ros.serve.replica import Here, Replica  # noqa: E402
from ecovla_ros.serve.server import Access  # noqa: E402
from ecovla_ros.serve.session import LEROBOT, Session  # noqa: E402
from ecovla_ros.types import GEN3, ActionChunk, ArmJoints  # noqa: E402

SENT: dict[str, Any] = json.loads((Path(__file__).parent / "lerobot_messages.json").read_text())
CAMERAS = {"third_person": "third_person", "wrist": "wrist"}
NAMES = [*(f"joint_{i}.pos" for i in range(1, 8)), "gripper.pos"]
STATE = 0.1 * np.arange(8)


def sent(name: str) -> bytes:
    return base64.b64decode(SENT[name])


class Engine:
    """Answers with where the arm is."""

    def __init__(self) -> None:
        self.policy = SimpleNamespace(spec=SimpleNamespace(cameras=dict(CAMERAS), period_s=0.1))
        self.seen: list[Any] = []
        self.resets = 0

    def step(self, obs: Any) -> Any:
        self.seen.append(obs)
        chunk = ActionChunk(0, 0.1, np.tile(obs.joints, (8, 1)), np.full(8, obs.gripper))
        return SimpleNamespace(chunk=chunk, report=None)

    def reset(self, seed: int, pattern: bool = True) -> None:
        self.resets += 1


@pytest.fixture
def helpers(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """What a client unpickles answers with: a module that is called as lerobot's, with a class of that name."""
    module = ModuleType("lerobot.async_inference.helpers")
    module.TimedAction = type("TimedAction", (), {})  # type: ignore[attr-defined]
    for name in ("lerobot", "lerobot.async_inference"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


def talk(client: Any, places: int = 1, joints: ArmJoints = GEN3, access: Access | None = None) -> Any:
    """Run `client(channel's calls, engine, new_channel)` against a server."""

    async def run() -> Any:
        engine = Engine()
        replica = Replica(lambda key: Session(engine, LEROBOT, False), "lerobot", {})
        served = LeRobotServer(Here(replica, places), RobotNeeds(CAMERAS, joints, False), 0.1, access)
        listening, port = await served.start("127.0.0.1", 0)
        channels = []

        def connect() -> SimpleNamespace:
            # a connection of its own for each: gRPC would share one
            channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.use_local_subchannel_pool", 1)])
            channels.append(channel)
            unary = {n: channel.unary_unary(f"/transport.AsyncInference/{n}")
                     for n in ("Ready", "SendPolicyInstructions", "GetActions")}  # fmt: skip
            return SimpleNamespace(
                channel=channel, observe=channel.stream_unary("/transport.AsyncInference/SendObservations"), **unary
            )

        try:
            return await client(connect(), engine, connect)
        finally:
            for channel in channels:
                await channel.close()
            await listening.stop(None)
            served.close()

    return asyncio.run(run())


def pieces(data: bytes) -> list[bytes]:
    return [messages.Observation(transfer_state=messages.END, data=data).SerializeToString()]


def at(step: int, stamp_s: float, **changed: Any) -> bytes:
    """The recorded observation, pickled anew with another step, time and values."""
    seen = pickled.read(sent("observation"), "TimedObservation").values
    return written({**seen, "timestep": step, "timestamp": stamp_s, "observation": {**seen["observation"], **changed}})


def written(values: dict[str, Any], kind: str = "TimedObservation") -> bytes:
    """As Python pickles an object of lerobot's class."""
    module = ModuleType("lerobot.async_inference.helpers")
    made = type(kind, (), {"__module__": module.__name__, "__qualname__": kind})
    setattr(module, kind, made)
    before = {name: sys.modules.get(name) for name in ("lerobot", "lerobot.async_inference", module.__name__)}
    sys.modules.update({"lerobot": module, "lerobot.async_inference": module, module.__name__: module})
    try:
        thing = made()
        thing.__dict__.update(values)
        return pickle.dumps(thing)
    finally:
        for name, old in before.items():
            sys.modules.pop(name) if old is None else sys.modules.__setitem__(name, old)


@pytest.mark.parametrize("name", ["observation", "observation, protocol 5", "observation with numpy's numbers"])
def test_what_the_real_client_sends_is_read(name: str) -> None:
    """Recorded from lerobot itself; its pictures were made from this seed."""
    seen = pickled.read(sent(name), "TimedObservation")
    rng = np.random.default_rng(5)
    first, second = (rng.integers(0, 256, (12, 16, 3), dtype=np.uint8) for _ in range(2))
    assert (seen.values["timestamp"], seen.values["timestep"], seen.values["must_go"]) == (1700000000.25, 3, True)
    held = seen.values["observation"]
    assert np.array_equal(held["third_person"], first) and np.array_equal(held["wrist"], second)
    assert [*held] == [*NAMES, "third_person", "wrist", "task"]
    assert held["joint_1.pos"] == (0.5 if "numpy" in name else 0.0)


@pytest.mark.reads("client of ecovla serve", "LeRobot's RobotClient, by gRPC")
def test_a_client_gets_its_chunk_in_its_own_order_and_lerobots_classes(helpers: ModuleType) -> None:
    async def client(calls: Any, engine: Engine, _connect: Any) -> Any:
        await calls.Ready(b"")
        await calls.SendPolicyInstructions(sent("instructions"))
        await calls.observe(iter([base64.b64decode(piece) for piece in SENT["observation in pieces"]]))
        return messages.Actions.FromString(await calls.GetActions(b"")).data, engine

    data, engine = talk(client)
    actions = pickle.loads(data)  # as the client does
    assert all(type(a) is helpers.TimedAction for a in actions) and len(actions) == 6
    assert [a.timestep for a in actions] == [3, 4, 5, 6, 7, 8]
    assert np.allclose([a.timestamp for a in actions], 1700000000.25 + 0.1 * np.arange(6))
    assert all(a.action.dtype == torch.float32 and np.allclose(a.action, STATE) for a in actions)
    assert engine.seen[0].instruction == "put the apple in the basket" and engine.resets == 1


def test_joints_in_another_order_come_back_in_that_order(helpers: ModuleType) -> None:
    config = pickled.read(messages.PolicySetup.FromString(sent("instructions")).data, "RemotePolicyConfig")
    names = config.values["lerobot_features"]["observation.state"]["names"] = NAMES[::-1]
    robot = robot_of(config, RobotNeeds(CAMERAS, GEN3, False))
    assert robot.state == tuple(NAMES) and [NAMES[i] for i in robot.order] == names


@pytest.mark.parametrize(
    ("feature", "change", "told"),
    [
        ("observation.state", {"names": NAMES[1:]}, "lacks joint_1; it holds: joint_2.pos"),
        ("observation.state", {"names": None}, "without names of observation.state"),
        ("observation.images.wrist", None, "no camera for wrist of the policy; it has: third_person"),
    ],
)
def test_a_robot_that_does_not_fit_is_told_when_it_connects(feature: str, change: Any, told: str) -> None:
    config = pickled.read(messages.PolicySetup.FromString(sent("instructions")).data, "RemotePolicyConfig")
    features = config.values["lerobot_features"]
    features.pop(feature) if change is None else features[feature].update(change)
    with pytest.raises(ObservationError, match=told):
        robot_of(config, RobotNeeds(CAMERAS, GEN3, False))


class Runs:
    def __reduce__(self) -> Any:
        return os.system, ("touch /tmp/a-pickle-ran",)


Point = namedtuple("Point", "x")
HOSTILE = {
    "a call of os.system": (pickle.dumps(Runs()), "system' is not read from a client"),
    "a call by protocol 0": (b"cos\nsystem\n(S'true'\ntR.", "a pickle with GLOBAL"),
    "a built-in": (pickle.dumps(getattr), "builtins.getattr' is not read"),
    "another class of lerobot's": (pickle.dumps([ConfigError]), "is not read from a client"),
    "an array of objects": (pickle.dumps(np.array([None])), "an array whose data are list"),
    "numbers alone": (pickle.dumps([1, 2]), "a message of class list; valid: TimedObservation"),
    "no pickle": (b"\xff" * 40, "refused"),
    "nothing": (b"", "refused"),
    "cut": (sent("observation")[:500], "refused"),
    "many values": (pickle.dumps(list(range(70_000))), "more than 20000 values"),
    "a long text": (pickle.dumps("a" * 2**15), "a text of 32768 characters"),
    "too long": (pickle.dumps(b"0" * 2**25), "at most 33554432"),
    "a memo of another place": (b"\x80\x04j\xff\xff\xff\x7f.", "refused"),
    "an extension": (b"\x80\x04\x82\x01.", "a pickle with EXT1"),
    "a persistent name": (b"\x80\x04\x8c\x01aQ.", "a pickle with BINPERSID"),
    "a field that is none": (written({"timestamp": 1.0, "__class__2": 1}), "TimedObservation with __class__2"),
    "fields missing": (written({"timestamp": 1.0}), "without timestep, observation"),
    "a tensor": (sent("observation with a tensor"), "torch._utils._rebuild_tensor_v2' is not read"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_everything_else_is_refused_with_a_reason_and_nothing_runs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data, told = HOSTILE[name]
    monkeypatch.setattr(pickle, "loads", None)
    monkeypatch.setattr(pickle, "Unpickler", None)
    with pytest.raises(ObservationError, match=told):
        pickled.read(data, "TimedObservation")
    assert not Path("/tmp/a-pickle-ran").exists()


def test_no_spoilt_observation_raises_anything_but_an_observation_error() -> None:
    whole, rng = bytearray(sent("observation with numpy's numbers")), np.random.default_rng(0)
    head = len(whole) - 1300  # what follows is mostly the pixels of a picture
    for _ in range(3000):
        spoilt = bytearray(whole)
        for place in rng.integers(0, head if rng.random() < 0.5 else len(whole), rng.integers(1, 4)):
            spoilt[place] = rng.integers(256)
        try:
            seen = pickled.read(bytes(spoilt), "TimedObservation")
        except ObservationError:
            continue
        assert set(seen.values) <= set(pickled.FIELDS["TimedObservation"])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"joint_2.pos": 90.0}, "are these degrees"),
        ({"gripper.pos": 55.0}, "gripper"),
        ({"joint_3.pos": float("nan")}, "finite"),
        ({"joint_3.pos": "much"}, "not numbers"),
        ({"task": 3}, "'task' must be text"),
    ],
)
def test_what_is_wrong_with_an_observation_is_the_status_of_the_call(change: Any, told: str) -> None:
    async def client(calls: Any, _engine: Engine, _connect: Any) -> str:
        await calls.Ready(b"")
        await calls.SendPolicyInstructions(sent("instructions"))
        try:
            await calls.observe(iter(pieces(at(0, 1.7e9, **change))))
            await calls.GetActions(b"")
        except grpc.aio.AioRpcError as error:
            assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
            await calls.observe(iter(pieces(at(0, 1.7e9))))  # the next one is answered
            assert messages.Actions.FromString(await calls.GetActions(b"")).data
            return str(error.details())
        return ""

    assert told in talk(client)


def test_one_client_at_a_time_and_one_that_left_gives_way() -> None:
    async def client(first: Any, engine: Engine, connect: Any) -> None:
        await first.Ready(b"")
        second = connect()
        with pytest.raises(grpc.aio.AioRpcError, match="another client is being served"):
            await second.Ready(b"")
        with pytest.raises(grpc.aio.AioRpcError, match="call Ready first"):
            await second.GetActions(b"")
        waiting = asyncio.ensure_future(first.GetActions(b""))
        await asyncio.sleep(0.1)
        await first.channel.close()
        await asyncio.gather(waiting, return_exceptions=True)
        for _ in range(100):
            try:
                await second.Ready(b"")
                return
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.05)
        raise AssertionError("the seat was never free")

    talk(client)


def test_a_taken_over_client_is_told() -> None:
    async def client(first: Any, _engine: Engine, connect: Any) -> None:
        await first.Ready(b"")
        await connect().Ready(b"")
        with pytest.raises(grpc.aio.AioRpcError, match="another client took the place"):
            await first.GetActions(b"")

    talk(client, access=Access(takeover=True))


def test_a_client_that_acts_at_another_pace_is_stopped_until_it_begins_anew() -> None:
    async def client(calls: Any, engine: Engine, _connect: Any) -> None:
        async def begin() -> None:
            await calls.Ready(b"")
            await calls.SendPolicyInstructions(sent("instructions"))

        await begin()
        for step in range(0, 40, 5):  # ten actions a second
            await calls.observe(iter(pieces(at(step, 1.7e9 + step / 10))))
        await begin()
        with pytest.raises(grpc.aio.AioRpcError, match="takes 30.0 actions a second, the policy means 10") as error:
            for step in range(0, 40, 5):
                await calls.observe(iter(pieces(at(step, 1.7e9 + step / 30))))
        assert error.value.code() == grpc.StatusCode.FAILED_PRECONDITION
        with pytest.raises(grpc.aio.AioRpcError, match="valid: --fps=10"):
            await calls.GetActions(b"")
        await begin()
        assert engine.resets == 3

    talk(client)


def test_steps_that_begin_again_are_another_episode_and_an_answered_step_waits() -> None:
    async def client(calls: Any, engine: Engine, _connect: Any) -> None:
        await calls.Ready(b"")
        await calls.SendPolicyInstructions(sent("instructions"))
        for step, resets in ((7, 1), (8, 1), (0, 2)):
            await calls.observe(iter(pieces(at(step, 1.7e9 + step))))
            assert messages.Actions.FromString(await calls.GetActions(b"")).data
            assert engine.resets == resets
        again = pickled.read(at(0, 1.7e9), "TimedObservation").values
        await calls.observe(iter(pieces(written({**again, "must_go": False}))))
        assert not messages.Actions.FromString(await calls.GetActions(b"")).data

    talk(client)


def test_a_stream_of_another_kind_is_refused() -> None:
    async def client(calls: Any, _engine: Engine, _connect: Any) -> None:
        await calls.Ready(b"")
        await calls.SendPolicyInstructions(sent("instructions"))
        with pytest.raises(grpc.aio.AioRpcError, match="transfer state 0"):
            await calls.observe(iter([b""]))
        with pytest.raises(grpc.aio.AioRpcError, match="broke off"):
            await calls.observe(iter([messages.Observation(transfer_state=1, data=b"a").SerializeToString()]))
        with pytest.raises(grpc.aio.AioRpcError, match="no protobuf message"):
            await calls.observe(iter([b"\xff\xff"]))
        long = messages.Observation(transfer_state=2, data=b"a" * 2**21).SerializeToString()
        # a client that is still sending may hear of the end of the call before its reason
        with pytest.raises(grpc.aio.AioRpcError, match="more than 33554432 bytes|Internal error from Core"):
            await calls.observe(iter([long] * 20))

    talk(client)


def test_lerobots_clients_can_show_no_token_so_nobody_else_may_reach_it() -> None:
    with pytest.raises(ConfigError, match="ssh -N -L"):
        check_alone("0.0.0.0", "")
    with pytest.raises(ConfigError, match="cannot show a token"):
        check_alone("127.0.0.1", "a" * 16)
    check_alone("127.0.0.1", "")


@pytest.mark.parametrize("option", [["--keys", "droid"], ["--execute", "3"], ["--state", "a"], ["--host", "0.0.0.0"]])
def test_options_of_other_protocols_are_refused(option: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--protocol", "lerobot", *option]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_numbers_are_written_as_pickle_reads_them() -> None:
    """The writer's own opcodes, without lerobot: every number as it was."""
    assert struct.unpack(">d", pickled._real(0.1)[1:])[0] == 0.1 and pickle.loads(pickled._whole(-3) + b".") == -3
