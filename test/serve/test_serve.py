"""`ecovla serve`: real clients get what the engine gives, and whatever a bad one does, the next is served."""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import Request, urlopen

import cv2
import numpy as np
import pytest
import torch
from support import prismatic_models as small

sys.path.append(str(Path(sys.prefix) / "clients"))  # where tools/setup.sh puts vla-eval and openpi-client

pytest.importorskip("websockets")
msgpack = pytest.importorskip("msgpack")

from websockets.exceptions import ConnectionClosed, InvalidStatus  # noqa: E402
from websockets.sync.client import connect  # noqa: E402

from ecovla_ros import build, cli, config  # noqa: E402
from ecovla_ros.config import EmbodimentConfig, PolicyConfig, PruneConfig  # noqa: E402
from ecovla_ros.engine.engine import Engine  # noqa: E402
from ecovla_ros.engine.streams import Inline  # noqa: E402
from ecovla_ros.errors import ConfigError, ObservationError  # noqa: E402
from ecovla_ros.models.data import statistics  # noqa: E402
from ecovla_ros.models.openvla_oft.policy import OftPolicy  # noqa: E402
from ecovla_ros.serve import codec, ensemble, offer, protocols, server, session  # noqa: E402
from ecovla_ros.serve.replica import Here, Readiness, Replica, Turns  # noqa: E402

WIDTH = 5
"""Numbers of an action of the other arm here; its state has 4."""


def calibrated():
    """An engine that knows energies before its first frame: the frames of a cold start are of all arms together."""
    made = engine()
    made.calibrate({site.key: torch.ones(site.rows) for site in made.policy.sites})
    return made


def engine(other=True):
    policy = small.policy("oft")
    if other:
        stats = statistics.Statistics(
            statistics.Affine(np.zeros(4), np.ones(4)), statistics.Affine(np.full(WIDTH, 3.0), np.full(WIDTH, 2.0)),
            "quantiles", "here",
        )  # fmt: skip
        norm = statistics.normaliser(stats, policy.config.horizon, EmbodimentConfig(other=True))
        policy = OftPolicy(policy.model, policy.spec, norm, policy.prompt)
    return Engine(policy, PruneConfig(method="every", ratio=0.25, refresh="dense", sites=("lm.mlp",)), Inline())


@contextmanager
def serving(protocol, access=None, pool=lambda here: here, **options):
    """A server on a free port in a thread of its own; yields its address and session."""
    keys = session.VLA_EVAL if protocol == "vla-eval" else session.OPENPI
    made = session.Session(engine(options.pop("other", True)), keys, options.pop("is_other", True), **options)
    loop, ready, address = asyncio.new_event_loop(), threading.Event(), []

    async def run():
        asks = {"send_state": True}
        policy = server.PolicyServer(pool(Here(Replica(lambda key: made, protocol, asks))), protocol, asks, access)
        listening = await policy.start("127.0.0.1", 0)
        address.append(f"ws://127.0.0.1:{listening.sockets[0].getsockname()[1]}")
        stop.append(asyncio.Event())
        ready.set()
        await stop[0].wait()
        listening.close()
        await listening.wait_closed()
        policy.close()

    stop = []
    thread = threading.Thread(target=loop.run_until_complete, args=(run(),))
    thread.start()
    assert ready.wait(30)
    try:
        yield address[0], made
    finally:
        loop.call_soon_threadsafe(stop[0].set)
        thread.join(30)
        made.engine.close()


def images(seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (28, 28, 3), dtype=np.uint8) for _ in range(2)]


def libero(seed=0, state=(0.1, 0.2, 0.3, 0.4)):
    """As openpi's LIBERO example sends it."""
    outside, wrist = images(seed)
    return {"observation/image": outside, "observation/wrist_image": wrist, "observation/state": np.array(state),
            "prompt": small.TEXTS[0]}  # fmt: skip


def benchmark(seed=0):
    """As vla-eval's LIBERO benchmark sends it."""
    outside, wrist = images(seed)
    return {"images": {"agentview": outside, "wrist": wrist}, "states": np.array([0.1, 0.2, 0.3, 0.4], np.float32),
            "task_description": small.TEXTS[0]}  # fmt: skip


def expected(seeds=(0,), make=engine):
    """Chunks of an engine of its own on the same observations."""
    mine = session.Session(make(), session.OPENPI, True)
    mine.start()
    out = [mine.chunk(libero(seed)) for seed in seeds]
    mine.engine.close()
    return out


def test_openpis_own_client_gets_the_chunks_of_the_engine():
    client_module = pytest.importorskip("openpi_client.websocket_client_policy")
    with serving("openpi") as (address, _):
        client = client_module.WebsocketClientPolicy(address)
        assert client.get_server_metadata() == {"send_state": True}
        for seed, chunk in zip((0, 1, 0), expected((0, 1, 0))):
            answer = client.infer(libero(seed))
            assert np.array_equal(answer["actions"], chunk) and answer["actions"].shape == (3, WIDTH)
            assert answer["server_timing"]["infer_ms"] > 0.0
        with pytest.raises(
            RuntimeError, match="no 'observation/wrist_image' in the observation; it has observation/image"
        ):
            client.infer({k: v for k, v in libero().items() if "wrist" not in k})
        assert client.infer(libero())["actions"].shape == (3, WIDTH), "an error does not end the connection"


@pytest.mark.parametrize("form", ["raw", "png", "jpeg"])
def test_vla_evals_own_client_gets_actions_one_by_one(form):
    connection = pytest.importorskip("vla_eval.connection")
    numpy_codec = pytest.importorskip("vla_eval.protocol.numpy_codec")
    if form != "raw":
        pytest.importorskip("PIL")
    numpy_codec.set_image_format(form)

    async def episode(address):
        async with connection.Connection(address, timeout=60.0, max_retries=1) as client:
            assert client.server_info["observation_params"] == {"send_state": True}
            await client.start_episode({"task": {"name": "x"}})
            taken = [await client.act(benchmark(seed)) for seed in (0, 0, 1)]
            with pytest.raises(RuntimeError, match="no 'task_description' in the observation"):
                for _ in range(2):
                    await client.act({k: v for k, v in benchmark().items() if k != "task_description"})
            await client.end_episode({"success": False})
            return [np.asarray(a["actions"]) for a in taken]

    with serving("vla-eval", execute=2) as (address, _):
        taken = asyncio.run(episode(address))
    first, second = expected((0, 1))
    assert all(a.shape == (WIDTH,) and np.isfinite(a).all() for a in taken)
    if form != "jpeg":  # which is lossy
        assert np.allclose(taken[0], first[0], atol=1e-5) and np.allclose(taken[1], first[1], atol=1e-5)
        assert np.allclose(taken[2], second[0], atol=1e-5), "two of three actions, then a new inference"


def ask(address, message):
    with connect(address, max_size=None) as client:
        client.recv()
        client.send(codec.pack(message, "openpi"))
        return client.recv()


BIG_JPEG = (
    b"\xff\xd8" + b"\xff" + b"\xff\xc0\x00\x11\x08" + b"\x3e\x80\x3e\x80" + b"\x03\x01\x22\x00\x02\x11\x01\x03\x11\x01"
    + b"\xff\xda" + bytes(20) + b"\xff\xd9"
)  # fmt: skip
"""16000 x 16000 px by its header, with a fill byte before that."""
WIDE = cv2.imencode(".png", np.zeros((1000, 1000), np.uint8))[1].tobytes()
BAD = {
    "text": "hello",
    "nothing": b"",
    "noise": bytes(range(256)),
    "a number": msgpack.packb(7),
    "an object array": msgpack.packb({b"__ndarray__": True, b"data": b"x" * 8, b"dtype": "|O", b"shape": [1]}),
    "an array of complex numbers": msgpack.packb(
        {b"__ndarray__": True, b"data": b"x" * 16, b"dtype": "<c16", b"shape": [1]}
    ),
    "a short array": msgpack.packb({b"__ndarray__": True, b"data": b"x", b"dtype": "<f8", b"shape": [4]}),
    "a huge shape": msgpack.packb({b"__ndarray__": True, b"data": b"", b"dtype": "<f8", b"shape": [2**40, 2**40]}),
    "a bomb": msgpack.packb(
        {"__image__": True, "format": "png", "data": b"\x89PNG\r\n\x1a\n" + b"\0" * 8 + b"\xff" * 40}
    ),
    "no image": msgpack.packb({"__image__": True, "format": "png", "data": b"GIF89a"}),
    "an image without data": msgpack.packb({"__image__": True, "format": "png"}),
    "deep": b"\x91" * 3000,
    "deep maps": b"\x81\xa1a" * 900 + b"\xc0",
    "nested deeper than an observation": b"\x91" * 40 + b"\xc0",
    "a hundred thousand empty maps": b"\xdd\x00\x01\x86\xa0" + b"\x80" * 100_000,
    "empty maps in lists": (b"\xdc\x03\xe8" + b"\x80" * 1000) * 30 + b"\xc0",
    "a long text": msgpack.packb({"prompt": "x" * 5_600_000}),
    "a long instruction": codec.pack({"prompt": "x" * 9000, "type": "observation"}, "openpi"),
    "an extension": msgpack.packb(msgpack.ExtType(5, b"abc")),
    "a time": msgpack.packb(msgpack.Timestamp(1, 2)),
    "a structured array": msgpack.packb({b"__ndarray__": True, b"data": b"x" * 8, b"dtype": "f4,f4", b"shape": [1]}),
    "a type that is no type": msgpack.packb({b"__ndarray__": True, b"data": b"", b"dtype": "f8,(", b"shape": [0]}),
    "a negative side": msgpack.packb({b"__ndarray__": True, b"data": bytes(8), b"dtype": "<f8", b"shape": [-1]}),
    "a fill byte before a jpeg's size": msgpack.packb({"__image__": True, "format": "jpeg", "data": BIG_JPEG}),
    "many small pictures that claim much": msgpack.packb([{"__image__": True, "format": "png", "data": WIDE}] * 50),
    "a map as a key": b"\x81\x80\x01",
    "half a message": codec.pack({"prompt": "take the apple"}, "openpi")[:-4],
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("protocol", ["openpi", "vla-eval"])
def test_a_bad_message_is_answered_and_the_next_good_one_too(protocol, name):
    with serving(protocol) as (address, _), connect(address) as client:
        if protocol == "openpi":
            client.recv()
        client.send(BAD[name])
        answer = client.recv()
        if protocol == "openpi":
            assert isinstance(answer, str) and "ObservationError" in answer
            client.send(codec.pack(libero(), "openpi"))
            assert codec.unpack(client.recv())["actions"].shape == (3, WIDTH)
        else:
            assert codec.unpack(answer)["type"] == "error"
            client.send(codec.pack({"type": "observation", "payload": benchmark(), "seq": 9}, "vla-eval"))
            good = codec.unpack(client.recv())
            assert (good["type"], good["seq"], good["payload"]["actions"].shape) == ("action", 9, (WIDTH,))


def test_clients_that_leave_flood_or_crowd_do_not_stop_the_server():
    with serving("openpi") as (address, _):
        with connect(address, max_size=None) as flood:
            flood.recv()
            flood.send(b"x" * (codec.MAX_BYTES + 1))
            with pytest.raises(ConnectionClosed) as closed:
                flood.recv()
            assert closed.value.rcvd.code == 1009
        leaver = connect_patiently(address)
        leaver.send(codec.pack(libero(), "openpi"))
        leaver.socket.close()  # without a word, while the engine is at it
        with connect_patiently(address) as first:
            with connect(address) as second, pytest.raises(ConnectionClosed) as closed:
                second.recv()
            assert closed.value.rcvd.code == server.BUSY
            first.send(codec.pack(libero(), "openpi"))
            assert codec.unpack(first.recv())["actions"].shape == (3, WIDTH)


TOKEN = "correct horse battery staple"


@pytest.mark.parametrize("host", ["0.0.0.0", "", "::", "192.168.1.2", "lab.example"])
def test_what_others_can_reach_needs_a_token(host):
    with pytest.raises(ConfigError, match="valid: a token"):
        server.check_exposed(host, "")
    with pytest.raises(ConfigError, match="16 or more"):
        server.check_exposed(host, "secret")
    server.check_exposed(host, TOKEN)
    for mine in ("127.0.0.1", "::1", "localhost"):
        server.check_exposed(mine, "")


def test_only_who_shows_the_token_is_served_and_health_is_for_everybody():
    with serving("openpi", server.Access(TOKEN)) as (address, _):
        for wrong in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"}):
            with pytest.raises(InvalidStatus) as refused:
                connect(address, additional_headers=wrong)
            assert refused.value.response.status_code == 401
        for right in ({"Authorization": f"Bearer {TOKEN}"}, {"Authorization": f"Api-Key {TOKEN}"}):
            with connect(address, additional_headers=right) as client:
                assert codec.unpack(client.recv()) == {"send_state": True}
        with connect(f"{address}/?token={quote(TOKEN)}") as client:
            client.recv()
        with urlopen(address.replace("ws:", "http:") + "/healthz") as healthy:
            assert healthy.read() == b"OK\n"


def page(address, path, token=""):
    """Status and text of a page of the server."""
    request = Request(address.replace("ws:", "http:") + path, headers={"Authorization": f"Bearer {token}"})
    try:
        with urlopen(request) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        return error.code, error.read().decode()


def test_metrics_count_frames_errors_and_sessions_and_need_the_token():
    with serving("openpi", server.Access(TOKEN)) as (address, _):
        assert page(address, "/metrics")[0] == 401
        with connect(f"{address}/?token={quote(TOKEN)}") as client:
            client.recv()
            for message in (libero(0), libero(1), {"prompt": 3}):
                client.send(codec.pack(message, "openpi"))
                client.recv()
            status, text = page(address, "/metrics", TOKEN)
        found = {
            line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in text.splitlines() if line[0] != "#"
        }
    assert status == 200
    assert found['ecovla_requests_total{replica="0"}'] == 3 and found["ecovla_sessions"] == 1
    assert found['ecovla_frames_total{kind="refresh",replica="0"}'] == 2, "method every: each frame records"
    assert found['ecovla_request_errors_total{kind="ObservationError"}'] == 1
    for stage in ("encode", "prefill", "act", "policy"):
        assert found[f'ecovla_stage_seconds_count{{replica="0",stage="{stage}"}}'] == 2


def test_it_says_healthy_only_while_a_replica_is_warm():
    ready = [Readiness(0, 2, 2)]
    with serving("openpi", pool=lambda here: SimpleNamespace(ready=lambda: ready[0], shutdown=here.shutdown)) as served:
        for path in server.HEALTH:
            assert page(served[0], path) == (503, "0 of 2 replicas are warm\n")
        ready[0] = Readiness(1, 2, 2)
        assert page(served[0], "/healthz") == (200, "OK\n")


@pytest.mark.parametrize("protocol", ["openpi", "vla-eval"])
def test_an_answer_says_its_session_and_the_stamp_of_its_observation(protocol):
    made = session.Session(engine(), session.OPENPI, True, key="mine", clock=lambda: 7)
    answers = []
    for stamp in (None, 41, 2**63, True):
        message = {**libero(), **({} if stamp is None else {"stamp_ns": stamp})}
        if protocol == "vla-eval":
            message = {"type": "observation", "payload": message, "seq": 3}
        answers.append(protocols.reply(made, protocol, {}, codec.pack(message, protocol)))
    told = [codec.unpack(a.data) for a in answers[:2]]
    told = [a["payload"] for a in told] if protocol == "vla-eval" else told
    assert [(a["session"], a["stamp_ns"]) for a in told] == [("mine", 7), ("mine", 41)]
    assert [a.error for a in answers] == ["", "", "ObservationError", "ObservationError"]


@pytest.mark.parametrize("patterns", offer.PATTERNS)
def test_several_clients_take_turns_and_each_gets_the_answers_to_what_it_sent(patterns):
    """The engine refreshes at every frame; with a pattern of its own an arm gets bit by bit what it would get alone."""
    shared = calibrated()
    turns = Turns(shared, patterns == "own")
    held = Here(Replica(lambda key: session.Session(shared, session.OPENPI, True, key=key), "openpi", {}, turns), 2)
    seeds = [range(0, 5), range(5, 10)]
    with serving("openpi", pool=lambda here: held) as (address, _), connect(address) as one, connect(address) as other:
        got = [[], []]
        for client in (one, other):
            client.recv()
        with connect(address) as third, pytest.raises(ConnectionClosed, match="2 other clients are being served"):
            third.recv()
        for pair in zip(*seeds):
            for client, seed in zip((one, other), pair):
                client.send(codec.pack({**libero(seed), "stamp_ns": seed}, "openpi"))
            for answers, client in zip(got, (one, other)):
                answers.append(codec.unpack(client.recv()))
    assert [[a["stamp_ns"] for a in answers] for answers in got] == [list(s) for s in seeds]
    assert all(len({a["session"] for a in answers}) == 1 for answers in got)
    assert got[0][0]["session"] != got[1][0]["session"]
    if patterns == "own":
        for answers, mine in zip(got, seeds):
            assert all(
                np.array_equal(a["actions"], e) for a, e in zip(answers, expected(mine, calibrated), strict=True)
            )
        assert turns.moved > 0
    shared.close()


def test_no_page_in_a_browser_reaches_it():
    with serving("openpi") as (address, _), pytest.raises(InvalidStatus) as refused:
        connect(address, origin="http://evil.example")
    assert refused.value.response.status_code == 403


@pytest.mark.parametrize("access", [server.Access(takeover=True), server.Access(idle_s=0.0)], ids=["takeover", "idle"])
def test_a_seat_that_is_not_used_goes_to_the_next(access):
    with serving("openpi", access) as (address, _), connect(address) as first:
        first.recv()
        with connect(address) as second:
            second.recv()
            second.send(codec.pack(libero(), "openpi"))
            assert codec.unpack(second.recv())["actions"].shape == (3, WIDTH)
            with pytest.raises(ConnectionClosed) as closed:
                first.recv()
            assert closed.value.rcvd.code == server.GIVEN_UP and "another client" in closed.value.rcvd.reason


@pytest.mark.parametrize("protocol", ["openpi", "vla-eval"])
def test_a_defect_is_told_to_the_client_and_the_next_message_is_answered(protocol, monkeypatch):
    with serving(protocol) as (address, made), connect(address) as client:
        if protocol == "openpi":
            client.recv()
        message = libero() if protocol == "openpi" else {"type": "observation", "payload": benchmark(), "seq": 1}
        with monkeypatch.context() as broken:
            broken.setattr(made.engine, "step", lambda _seen: {}["a defect"])
            client.send(codec.pack(message, protocol))
            assert "KeyError" in str(client.recv())
        client.send(codec.pack(message, protocol))
        assert "actions" in str(codec.unpack(client.recv()))


@pytest.mark.parametrize("port", ["80000", "-1", "http"])
def test_a_port_that_is_none_is_a_usage_error(port, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["serve", "--port", port])
    assert ended.value.code == 2 and "is no port; valid: 0 to 65535" in capsys.readouterr().err


def connect_patiently(address):
    """The one before may still be leaving."""
    for _ in range(200):
        client = connect(address)
        try:
            client.recv()
            return client
        except ConnectionClosed:
            threading.Event().wait(0.05)
    raise AssertionError("the server stayed busy")


WRONG = [
    ({"observation/state": [1.0, 2.0]}, "has 2 numbers; needed: 4"),
    ({"observation/state": ["a"]}, "is not numbers"),
    ({"observation/state": [np.nan] * 4}, "finite"),
    ({"prompt": 3}, "must be text"),
    ({"prompt": "fetch"}, "unknown words"),
    ({"observation/image": np.full((28, 28, 3), 200.0, np.float32)}, "uint8"),
    ({"observation/image": np.zeros((28, 28), np.uint8)}, "RGB"),
]


@pytest.mark.parametrize("change, told", WRONG)
def test_what_is_wrong_with_an_observation_is_told(change, told):
    with serving("openpi") as (address, _):
        assert told in ask(address, {**libero(), **change})


def test_this_arm_takes_joints_and_gripper_and_gives_targets():
    made = session.Session(engine(other=False), session.OPENPI, False)
    state = [0.1 * i for i in range(7)] + [0.5]
    chunk = made.chunk(libero(state=state))
    assert chunk.shape == (3, 8)
    seen = made.observation(libero(state=state))
    assert np.allclose(seen.joints, state[:7]) and seen.gripper == 0.5
    with pytest.raises(ObservationError, match="has 4 numbers; needed: 8"):
        made.chunk(libero())


def test_a_gripper_of_open_x_embodiment_becomes_liberos():
    made = session.Session(engine(), session.OPENPI, True)
    plain = made.chunk(libero())
    made.gripper = "openvla"
    made.start()
    turned = made.chunk(libero())
    assert np.allclose(turned[:, :-1], plain[:, :-1], atol=1e-4)
    assert np.array_equal(turned[:, -1], -np.sign(2 * plain[:, -1] - 1))


def test_keys_may_be_named_and_nested():
    keys = session.keys_of(session.OPENPI, ["wrist=a/b"], "x,y", "say")
    made = session.Session(engine(), keys, True)
    outside, wrist = images()
    message = {"observation/image": outside, "a": {"b": wrist}, "x": [1.0, 2.0], "y": [3.0, 4.0], "say": small.TEXTS[0]}
    assert np.allclose(made.observation(message).state, [1, 2, 3, 4])
    with pytest.raises(ConfigError, match="camera=key"):
        session.keys_of(session.OPENPI, ["wrist"], "", "")


@pytest.mark.parametrize("form", [".png", ".jpg"])
def test_pictures_are_rgb_and_bounded(form):
    image = np.zeros((20, 30, 3), np.uint8)
    image[..., 0] = 250
    data = cv2.imencode(form, image[..., ::-1])[1].tobytes()
    made = codec.unpack(msgpack.packb({"__image__": True, "format": form[1:], "data": data}))
    assert made.shape == (20, 30, 3) and made[..., 0].min() > 200 and made[..., 1:].max() < 60
    big = cv2.imencode(form, np.zeros((3000, 3000, 3), np.uint8))[1].tobytes()
    with pytest.raises(ObservationError, match="3000 x 3000 px; valid"):
        codec.unpack(msgpack.packb({"__image__": True, "format": form[1:], "data": big}))


@pytest.mark.parametrize("dtype", ["<c16", "<M8[s]", "|V4", "|S3", "|O"])
def test_arrays_of_other_things_than_numbers_stay_outside(dtype):
    parts = {"__ndarray__": True, "data": b"x" * 48, "dtype": dtype, "shape": [1]}
    with pytest.raises(ObservationError, match="valid kinds: bool, integers, floats"):
        codec.unpack(msgpack.packb(parts))


@pytest.mark.parametrize("form", ["openpi", "vla-eval"])
def test_what_is_packed_is_what_is_unpacked(form):
    value = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": [1, "x", None, True], "c": np.float64(0.5)}
    again = codec.unpack(codec.pack(value, form))
    assert np.array_equal(again["a"], value["a"]) and again["b"] == value["b"] and again["c"] == 0.5
    with pytest.raises(TypeError, match="cannot be sent"):
        codec.pack({"a": object()}, form)


def test_a_checkpoint_of_another_arm_is_only_served():
    settings = config.Config(
        policy=PolicyConfig(model="cogact", checkpoint="x", embodiment=EmbodimentConfig(other=True))
    )
    with pytest.raises(ConfigError, match="for `ecovla serve` and `ecovla bench` only"):
        build.engine(settings)


def test_a_port_that_is_taken_is_one_line(capsys):
    with serving("openpi") as (address, _):
        arguments = ["serve", "--port", address.rsplit(":", 1)[1], "--set", "policy.model=cogact-reduced"]
        assert cli.main([*arguments, "--set", "prune.method=dense"]) == 2
    said = capsys.readouterr().err
    assert "cannot listen at 127.0.0.1" in said and said.count("\n") == 1


def test_an_ensemble_is_cogacts_weighted_mean_of_what_chunks_say_of_now():
    rng = np.random.default_rng(0)
    chunks = rng.normal(size=(6, 4, 3)).astype(np.float32)
    made = ensemble.Ensemble(3, alpha=0.7)
    for now in range(6):
        got = made.action(chunks[now])
        said = [chunks[now - age][age] for age in range(min(3, now + 1))]
        cosines = [float(s @ said[0] / np.linalg.norm(s) / np.linalg.norm(said[0])) for s in said]
        weights = np.exp(0.7 * np.array(cosines))
        assert np.allclose(got, sum(w * s for w, s in zip(weights, said)) / weights.sum(), atol=1e-5)
    made.reset()
    assert np.allclose(made.action(chunks[0]), chunks[0][0], atol=1e-6)


def test_equal_chunks_agree_and_short_ones_fall_silent():
    chunk = np.tile(np.arange(2, dtype=np.float32)[:, None] + 1.0, (1, 3))  # rows 1 and 2
    made = ensemble.Ensemble(5, alpha=0.0)
    assert np.allclose(made.action(chunk), 1.0)
    for _ in range(4):
        assert np.allclose(made.action(chunk), 1.5), "only two chunks still speak"
    assert np.isfinite(made.action(np.zeros((2, 3), np.float32))).all()
    with pytest.raises(ConfigError, match="1 or more"):
        ensemble.Ensemble(0, 0.1)


def test_a_session_with_an_ensemble_infers_for_every_action():
    plain = session.Session(engine(), session.OPENPI, True)
    averaged = session.Session(engine(), session.OPENPI, True, ensemble=ensemble.Ensemble(2, 0.0))
    first, second = plain.chunk(libero(0)), plain.chunk(libero(1))
    assert np.allclose(averaged.action(libero(0)), first[0], atol=1e-4)
    assert np.allclose(averaged.action(libero(1)), (second[0] + first[1]) / 2, atol=1e-4)
    averaged.start()
    assert np.allclose(averaged.action(libero(1)), second[0], atol=1e-3)


@pytest.mark.parametrize("name", ["openvla_oft_libero.yaml", "pi05_libero.yaml", "cogact_simpler.yaml"])
def test_the_papers_rows_are_configurations_that_only_serve(name):
    settings = config.load(config.shipped(name))
    assert settings.policy.embodiment.other and settings.policy.model in build.PUBLISHED
    with pytest.raises(ConfigError, match="for `ecovla serve` and `ecovla bench` only"):
        build.engine(settings)


def test_a_model_of_liberos_shape_serves_free_text():
    """What `ecovla serve --set policy.model=libero` starts: random weights, LIBERO's state and actions."""
    policy = build._function(build.SHAPES["libero"])("cpu", torch.float32, 0)
    policy.warm_up()
    made = session.Session(Engine(policy, PruneConfig(method="dense"), Inline()), session.VLA_EVAL, True)
    message = benchmark() | {"states": np.zeros(8), "task_description": "Pick up the black bowl, (between) 2 plates!"}
    assert made.action(message).shape == (7,)
    with pytest.raises(ObservationError, match="unknown words: é"):
        made.observation(message)
        made.engine.step(made.observation(message | {"task_description": "café"}))


def test_an_openpi_client_that_vanished_gives_way_and_one_that_only_waits_does_not(monkeypatch):
    """A machine that left the network answers no ping; a client that has nothing to ask does."""
    monkeypatch.setattr(server, "ALIVE_S", 0.3)
    with serving("openpi") as (address, _):
        with connect(address) as waiting:
            waiting.recv()
            with connect(address) as second, pytest.raises(ConnectionClosed, match="another client is being served"):
                second.recv()
        host, _, port = address.removeprefix("ws://").partition(":")
        with socket.create_connection((host, int(port))) as vanished:  # it reads nothing, and so answers nothing
            vanished.sendall(
                b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
            )
            assert b"101" in vanished.recv(200)
            with connect(address) as third:
                assert third.recv()
