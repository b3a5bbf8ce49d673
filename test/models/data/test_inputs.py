"""What the pi0 family takes and refuses: observations, statistics, instructions, checkpoints."""

from __future__ import annotations

import dataclasses
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from support import pi_models as small

from ecovla_ros.errors import CheckpointError, ObservationError
from ecovla_ros.models.base import DENSE
from ecovla_ros.models.core.staging import Images, Upload
from ecovla_ros.models.data.inputs import resize
from ecovla_ros.models.data.normalise import Normaliser
from ecovla_ros.models.data.prompt import Prompt
from ecovla_ros.models.pi import checkpoint
from ecovla_ros.models.pi.config import MINI, PiConfig
from ecovla_ros.types import CONTINUOUS

ANGLE = st.floats(-3.14, 3.14)


@pytest.fixture
def folder(tmp_path):
    energies = {"lm.0.mlp": torch.rand(96), "expert.2.heads": torch.rand(32)}
    prompt = Prompt.build(small.TEXTS, small.SMALL.max_prompt)
    checkpoint.save(tmp_path, small.model(), small.normaliser(), prompt, small.spec(), {"seed": 1}, energies)
    return tmp_path


def test_a_checkpoint_comes_back_bit_for_bit(folder):
    before, after = small.policy(), checkpoint.load(folder)
    obs, noise = small.observation(), small.noise()
    assert torch.equal(small.actions(after, obs, DENSE, noise), small.actions(before, obs, DENSE, noise))
    assert after.spec == before.spec and after.normaliser == before.normaliser
    assert set(after.calibration) == {"lm.0.mlp", "expert.2.heads"}
    stored = load_file(folder / "model.safetensors")
    assert torch.equal(after.calibration["lm.0.mlp"], stored["calibration.lm.0.mlp"])
    assert checkpoint.load(folder, flow_steps=7).flow_steps == 7
    after.warm_up()


def test_in_bfloat16_it_acts_nearly_alike(folder):
    obs, noise = small.observation(), small.noise()
    exact = small.actions(small.policy(), obs, DENSE, noise)
    rough = small.actions(checkpoint.load(folder, dtype=torch.bfloat16), obs, DENSE, noise)
    assert rough.dtype == torch.float32 and 0.0 < (rough - exact).abs().max() < 0.05  # only the Euler sum is float32


def edit(section, **changes):
    def change(folder):
        path = folder / "config.json"
        document = json.loads(path.read_text())
        part = document[section] if section else document
        for key, value in changes.items():
            part.pop(key) if value is None else part.__setitem__(key, value)
        path.write_text(json.dumps(document))

    return change


def reweigh(change):
    def apply(folder):
        path = folder / "model.safetensors"
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path)

    return apply


def truncate(name):
    def change(folder):
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: len(data) // 2])

    return change


CORRUPT = {
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "no model.safetensors"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "no tokenizer.json"),
    "truncated weights": (truncate("model.safetensors"), "not a complete safetensors"),
    "truncated configuration": (truncate("config.json"), "not JSON"),
    "truncated tokenizer": (truncate("tokenizer.json"), "not a tokenizer"),
    "foreign weights": (lambda f: (f / "model.safetensors").write_bytes(b"PK\x03\x04" * 64), "not a complete"),
    "foreign family": (edit("", family="cogact"), "family is 'cogact'"),
    "unknown section": (edit("", models={}), "unknown section 'models'.*Did you mean 'model'"),
    "missing section": (edit("", normaliser=None), "no section normaliser"),
    "unknown model key": (edit("model", layer=3), "unknown key 'layer'.*Did you mean 'layers'"),
    "wrong model type": (edit("model", layers="3"), "layers must be int"),
    "impossible model": (edit("model", kv_heads=3), "heads must be a multiple"),
    "unknown vision": (edit("model", vision="clip"), "unknown vision tower 'clip'; valid: siglip, stem"),
    "other horizon": (edit("model", horizon=9), "horizon|rope"),
    "unknown spec key": (edit("spec", rendered="ray"), "unknown key 'rendered'.*Did you mean 'renderer'"),
    "missing spec key": (edit("spec", period_s=None), "period_s"),
    "other cameras": (edit("spec", cameras={"head": [32, 32]}), "cameras of the specification"),
    "zero deviation": (edit("normaliser", state_std=[0.0] + [1.0] * 7), "state_std must be positive"),
    "missing statistic": (edit("normaliser", action_std=None), "missing action_std"),
    "short statistic": (edit("normaliser", state_mean=[0.0] * 7), "state_mean must have shape"),
    "infinite statistic": (edit("normaliser", state_mean=[float("inf")] * 8), "state_mean is not finite"),
    "missing weight": (reweigh(lambda t: t.pop("lm.0.mlp.gate")), "1 missing weights: lm.0.mlp.gate"),
    "extra weight": (reweigh(lambda t: t.update(head=torch.zeros(2))), "1 unknown weights: head"),
    "wrong shape": (reweigh(lambda t: t.update({"lm.0.mlp.up": torch.zeros(95, 48)})), r"\(95, 48\).*\(96, 48\)"),
    "foreign site": (reweigh(lambda t: t.update({"calibration.lm.2.mlp": torch.zeros(96)})), "unknown site 'lm.2.mlp'"),
    "short calibration": (reweigh(lambda t: t.update({"calibration.lm.0.mlp": torch.zeros(9)})), "calibration of lm.0"),
    "NaN weight": (reweigh(lambda t: t["lm.0.mlp.up"].fill_(float("nan"))), "lm.0.mlp.up is not finite floating"),
}


@pytest.mark.parametrize("name", CORRUPT)
def test_a_corrupt_checkpoint_says_what_is_wrong(folder, name):
    change, message = CORRUPT[name]
    change(folder)
    with pytest.raises(CheckpointError, match=message):
        checkpoint.load(folder)


def test_no_folder_says_what_it_must_hold(tmp_path):
    with pytest.raises(CheckpointError, match="model.safetensors, config.json and tokenizer.json"):
        checkpoint.load(tmp_path / "absent")


def image(shape=(32, 32, 3), dtype=np.uint8):
    return np.zeros(shape, dtype)


VIEWS = {"third_person": image(), "wrist": image()}
REFUSED = {
    "missing camera": ({"images": {"wrist": image()}}, "no image of camera 'third_person'.*third_person, wrist"),
    "unknown camera": ({"images": {**VIEWS, "wirst": image()}}, "unknown camera 'wirst'.*Did you mean 'wrist'"),
    "no image": ({"images": {**VIEWS, "wrist": None}}, "no image of camera 'wrist'"),
    "float image": ({"images": {**VIEWS, "wrist": image(dtype=np.float32)}}, "must be a uint8 array, got float32"),
    "grey image": ({"images": {**VIEWS, "wrist": image((32, 32))}}, r"must be RGB \(H, W, 3\)"),
    "four channels": ({"images": {**VIEWS, "wrist": image((32, 32, 4))}}, r"must be RGB \(H, W, 3\)"),
    "empty image": ({"images": {**VIEWS, "wrist": image((0, 32, 3))}}, r"must be RGB \(H, W, 3\)"),
    "list of pixels": ({"images": {**VIEWS, "wrist": [[0, 0, 0]]}}, "got list"),
    "NaN joint": ({"joints": np.array([0, 0, np.nan, 0, 0, 0, 0.0])}, "not finite: joint_3"),
    "six joints": ({"joints": np.zeros(6)}, r"shape \(7,\), got \(6,\)"),
    "NaN gripper": ({"gripper": float("nan")}, "gripper opening"),
    "unknown word": ({"instruction": "place the pear in the basket"}, "unknown words: pear; known: apple, basket"),
    "empty instruction": ({"instruction": "  "}, "empty instruction"),
    "long instruction": ({"instruction": "the " * 9}, "9 tokens; at most 8"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_observation_says_what_is_valid(name):
    changes, message = REFUSED[name]
    with pytest.raises(ObservationError, match=message):
        small.policy().encode(small.observation(**changes))


def test_a_camera_may_be_absent_only_where_the_model_says_so():
    policy = small.policy(small.SIGLIP)
    obs = small.observation(small.SIGLIP)
    seen = policy.encode(dataclasses.replace(obs, images={**obs.images, "third_person": None}))
    assert set(seen.vision) == {"wrist"}
    assert len(seen.prefix) == small.SIGLIP.tokens + len(policy.prompt.ids(obs.instruction))
    with pytest.raises(ObservationError, match="at least one"):
        policy.encode(dataclasses.replace(obs, images=dict.fromkeys(obs.images)))


def test_images_of_any_size_become_the_models_by_areas():
    checkers = np.indices((64, 64)).sum(0)[..., None].repeat(3, 2) % 2 * 200
    assert (resize(checkers.astype(np.uint8), 32) == 100).all()
    wide = small.observation(images={c: image((48, 64, 3)) for c in small.SMALL.cameras})
    assert small.policy().encode(wide).prefix.isfinite().all()


def smooth(height, width):
    y, x = np.mgrid[:height, :width] / 40.0
    waves = np.stack((np.sin(x + 2 * y), np.cos(3 * x - y), np.sin(x * y / 4)), -1)
    return (127.5 + 120 * waves).round().astype(np.uint8)


@pytest.mark.parametrize("shape", [(480, 640), (256, 256), (120, 160)])
def test_openvla_s_images_are_lanczos_then_the_middle(shape):
    """Pillow's filter is the same, but for its sums in integers; the crop by hand, in double precision."""
    pil = pytest.importorskip("PIL.Image")
    image, size = smooth(*shape), 56
    whole = np.asarray(pil.fromarray(image).resize((size, size), pil.LANCZOS)).astype(float)
    keep = math.sqrt(0.9)
    at = (1 - keep) / 2 * (size - 1) + np.arange(size) * keep
    low = np.minimum(at.astype(int), size - 2)
    part = at - low
    rows = whole[low] * (1 - part)[:, None, None] + whole[low + 1] * part[:, None, None]
    both = rows[:, low] * (1 - part)[:, None] + rows[:, low + 1] * part[:, None]
    expected = np.floor(both * 255.5 / 255)
    assert np.abs(resize(image, size, "crop").astype(float) - expected).max() <= 2
    area = resize(image, size, "area").astype(float)
    assert np.abs(area[2:-2, 2:-2] - expected[2:-2, 2:-2]).max() > 10, "the crop shows"


def test_a_flat_image_stays_flat_through_every_fit():
    for level in (0, 1, 127, 254, 255):
        for fit in ("area", "crop", "bicubic"):
            assert (resize(np.full((90, 120, 3), level, np.uint8), 28, fit) == level).all(), (level, fit)


def test_words_are_lower_cased_and_padding_comes_last(tmp_path):
    prompt = Prompt.build(small.TEXTS, 8)
    assert prompt.ids("Place the APPLE") == prompt.ids("place the apple")
    ids, real = prompt.batch(["the apple", "the"])
    assert (ids[1], real) == ([prompt.ids("the")[0], 0], [[True, True], [True, False]])
    prompt.save(tmp_path / "tokenizer.json")
    again = Prompt.load(tmp_path / "tokenizer.json", 8)
    assert [again.ids(t) for t in small.TEXTS] == [prompt.ids(t) for t in small.TEXTS]


@settings(max_examples=40, deadline=None)
@given(st.lists(ANGLE, min_size=7, max_size=7), st.lists(ANGLE, min_size=7, max_size=7), st.floats(0.0, 1.0))
def test_targets_come_back_and_continuous_joints_take_the_short_way(measured, target, gripper):
    normaliser = small.normaliser(2)
    joints, openings = np.array([target, measured]), np.array([gripper, 0.0])
    actions = normaliser.actions(joints, openings, measured)
    back, opened = normaliser.targets(actions, measured)
    difference = back - joints
    continuous = np.array(CONTINUOUS)
    assert np.allclose(difference[:, ~continuous], 0.0, atol=1e-9)
    assert np.allclose(np.exp(1j * difference), 1.0, atol=1e-9)
    assert (np.abs(back - measured)[:, continuous] <= np.pi + 1e-9).all()
    assert np.allclose(opened, openings, atol=1e-9)


def test_statistics_of_the_data_normalise_it():
    rng = np.random.default_rng(0)
    measured, gripper = rng.normal(size=(400, 7)) * 0.3 + 1.0, rng.random(400)
    joints, openings = measured[:, None] + rng.normal(size=(400, 5, 7)) * 0.1, rng.random((400, 5))
    raw = np.concatenate((joints - measured[:, None], 2 * openings[..., None] - 1), -1)
    fitted = Normaliser.fit(np.concatenate((measured, gripper[:, None]), 1), raw)
    for values in (fitted.state(measured, gripper), fitted.actions(joints, openings, measured)):
        assert np.allclose(values.mean(0), 0.0, atol=1e-9) and np.allclose(values.std(0), 1.0)
    assert Normaliser.from_dict(json.loads(json.dumps(fitted.to_dict()))) == fitted


@pytest.mark.parametrize("config", [MINI, small.SMALL, small.SIGLIP])
def test_a_configuration_comes_back_from_json(config):
    assert PiConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_the_pinned_buffer_is_written_again_only_once_its_copy_has_left_it():
    """By a stand-in for the event: what lay in the buffer when it was waited for."""
    upload, order = Upload((3,), torch.float32, torch.device("cpu")), []
    upload._host, upload._there = torch.zeros(3), torch.zeros(3)
    upload._left = SimpleNamespace(
        synchronize=lambda: order.append(("waited", int(upload._host.max()))),
        record=lambda: order.append(("left", int(upload._host.max()))),
    )
    places = {upload.copy(np.full(2, value, np.float32)).data_ptr() for value in (1, 2)}
    assert order == [("waited", 0), ("left", 1), ("waited", 1), ("left", 2)]
    assert places == {upload.place.data_ptr()} and upload.place.tolist() == [2, 2, 0], "the first rows, always there"


@pytest.mark.parametrize("fit", ["pad", "bicubic", "crop"])
def test_an_image_filtered_on_the_device_is_the_one_filtered_here(fit):
    image = np.random.default_rng(0).integers(0, 255, (30, 41, 3), np.uint8)
    images = Images(1, 16, fit, torch.device("cpu"))
    expected = images.copy({"wrist": image})["wrist"]
    assert torch.equal(images._filtered(0, image), expected) and expected.shape == (1, 16, 16, 3)
