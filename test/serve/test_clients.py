"""Clients as openpi's examples are: pictures as floats or channels first, other names, no prompt, and a reset."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ecovla_ros.errors import ObservationError
from ecovla_ros.serve import codec, session
from ecovla_ros.serve.session import PRESETS, Session, picture
from ecovla_ros.types import ActionChunk, Observation

STATE = np.arange(8) / 8
RGB = np.random.default_rng(0).integers(0, 256, (8, 6, 3), dtype=np.uint8)


class Engine:
    """Answers with where the arm is."""

    def __init__(self) -> None:
        self.policy = SimpleNamespace(spec=SimpleNamespace(cameras={"third_person": None, "wrist": None}))
        self.seen: list[Observation] = []
        self.resets = 0

    def step(self, obs: Observation) -> Any:
        self.seen.append(obs)
        return SimpleNamespace(
            chunk=ActionChunk(0, 0.1, np.tile(obs.joints, (4, 1)), np.full(4, obs.gripper)), report=None
        )

    def reset(self, seed: int, pattern: bool = True) -> None:
        self.resets += 1


def put(message: dict[str, Any], key: str, value: Any, nested: bool) -> None:
    *outer, last = key.split("/") if nested else [key]
    for part in outer:
        message = message.setdefault(part, {})
    message[last] = value


@pytest.mark.reads("client of ecovla serve", "openpi, keys of {name}")
@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("nested", [True, False])
def test_the_names_of_each_example_are_found(name: str, nested: bool) -> None:
    keys, message = PRESETS[name], {}
    for key in keys.images.values():
        put(message, key, RGB, nested)
    for key, part in zip(keys.state, np.split(STATE, [7]) if len(keys.state) > 1 else [STATE]):
        put(message, key, part, nested)
    put(message, keys.text, "go", nested)
    engine = Engine()
    chunk = Session(engine, keys, False).chunk(message)
    assert chunk.shape == (4, 8) and chunk[0].tolist() == STATE.tolist()
    assert all(np.array_equal(image, RGB) for image in engine.seen[0].images.values())


@pytest.mark.reads("client of ecovla serve", "openpi, pictures: {how}")
@pytest.mark.parametrize("how", ["uint8", "first", "float", "float first", "float64"])
def test_pictures_are_taken_as_openpi_takes_them(how: str) -> None:
    image: Any = RGB.astype(np.float64 if "64" in how else np.float32) / 255 if "float" in how else RGB
    image = np.moveaxis(image, 2, 0) if "first" in how else image
    assert np.abs(picture(image, "x").astype(int) - RGB).max() <= 1 and picture(image, "x").dtype == np.uint8


@pytest.mark.parametrize("image", [RGB.astype(float), RGB / 127.5 - 1.0, np.full((8, 6, 3), np.nan)])
def test_floats_that_are_no_picture_are_refused(image: Any) -> None:
    with pytest.raises(ObservationError, match="floats from .* valid: 0 to 1, or uint8"):
        picture(image, "observation/image")


def message(**more: Any) -> dict[str, Any]:
    return {"observation/image": RGB, "observation/wrist_image": RGB, "observation/state": np.zeros(8), **more}


@pytest.mark.reads("client of ecovla serve", "openpi, prompt as an array without axes")
def test_a_prompt_may_be_an_array_of_one_text() -> None:
    pytest.importorskip("msgpack")
    engine = Engine()
    data = codec.pack(message(prompt=np.array("go \u00fcber")), "openpi")
    Session(engine, session.OPENPI, False).chunk(codec.unpack(data))
    assert engine.seen[-1].instruction == "go \u00fcber"
    for spoilt in (data.replace(b"<U7", b"<U8"), data.replace(b"g\0\0\0", b"g\0\xff\0")):
        with pytest.raises(ObservationError, match="not msgpack of plain values"):
            codec.unpack(spoilt)


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"observation/image": b"\xff\xd8..."}, "is 5 bytes, packed; valid: an array of pixels"),
        ({"observation/image": None}, "is NoneType; valid: an array of pixels"),
        ({"observation/state": None}, "has 0 numbers; needed: 8"),
        ({"reset": "false"}, "'reset' is false; valid: true or false"),
        ({"prompt": np.array(["a", "b"])}, "must be text, got ndarray"),
    ],
)
def test_what_is_no_value_of_its_kind_is_named(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ObservationError, match=says):
        Session(Engine(), session.OPENPI, False).answer(message(**{"prompt": "go", **changes}))


def test_a_default_prompt_stands_where_a_message_has_none() -> None:
    engine = Engine()
    made = Session(engine, session.OPENPI, False, prompt="tidy up")
    for sent, heard in (({}, "tidy up"), ({"prompt": ""}, "tidy up"), ({"prompt": "dance"}, "dance")):
        made.chunk(message(**sent))
        assert engine.seen[-1].instruction == heard
    with pytest.raises(ObservationError, match="no 'prompt'"):
        Session(engine, session.OPENPI, False).chunk(message())


def test_a_reset_and_another_instruction_begin_an_episode_and_the_same_one_does_not() -> None:
    engine = Engine()
    made = Session(engine, session.OPENPI, False)
    assert made.answer({"reset": True}) is None and engine.resets == 1
    for prompt, resets in (("a", 1), ("a", 1), ("b", 2), ("b", 2)):
        made.answer(message(prompt=prompt))
        assert engine.resets == resets
    assert made.answer(message(prompt="b", reset=True)) is not None and engine.resets == 3
    assert made.answer(message(prompt="b", reset=False)) is not None and engine.resets == 3
