"""Folders that people name as checkpoints: what is not one is told by its cause, what only looks strange is read."""

from __future__ import annotations

import json
import struct
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ecovla_ros import build
from ecovla_ros.config import EmbodimentConfig
from ecovla_ros.errors import CheckpointError
from ecovla_ros.models.data import statistics
from ecovla_ros.models.data.affine import Affine, Statistics
from ecovla_ros.models.data.weights import Weights, open_safetensors
from ecovla_ros.models.openvla_oft import checkpoint as oft
from ecovla_ros.models.pi import published


def put(folder: Path, name: str, content: str | bytes = "{}") -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


CAUSES: dict[str, dict[str, str | bytes]] = {
    "training checkpoint of lerobot; valid: .*pretrained_model": {"pretrained_model/config.json": "{}"},
    "checkpoints lie within it; name one": {"005000/pretrained_model/config.json": "{}"},
    "JAX checkpoint of openpi.*convert_jax": {"params/_METADATA": "", "assets/x/norm_stats.json": "{}"},
    "convert_jax_model_to_pytorch": {"_CHECKPOINT_METADATA": "{}"},
    "LoRA adapter": {"adapter_config.json": "{}", "config.json": "{}"},
    "name one, e.g. .*checkpoints/last/pretrained_model": {
        f"checkpoints/{name}/pretrained_model/config.json": "{}" for name in ("005000", "last", "zz")
    },
    "is a LeRobot data set, not a checkpoint": {"meta/info.json": "{}", "data/x": ""},
    "is a bag, not a checkpoint; valid: ecovla replay": {"metadata.yaml": "", "x_0.mcap": ""},
    "found: readme.md": {"readme.md": ""},
    "found: nothing": {},
}


@pytest.mark.reads("refused as a checkpoint, by its cause", "{says}")
@pytest.mark.parametrize("says", CAUSES)
def test_a_folder_that_is_no_checkpoint_says_what_it_is(tmp_path: Path, says: str) -> None:
    for name, content in CAUSES[says].items():
        put(tmp_path, name, content)
    for load in (build.family_of, lambda p: published.load(p, "meta", torch.float32, EmbodimentConfig())):
        with pytest.raises(CheckpointError, match=says):
            load(tmp_path)


def test_names_of_the_hub_and_files_are_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="no folder 'lerobot/pi05_base' here; .*hf download"):
        build.family_of(Path("lerobot/pi05_base"))
    with pytest.raises(CheckpointError, match="no folder") as raised:
        build.family_of(tmp_path / "none")
    assert "download" not in str(raised.value)
    put(tmp_path, "model.safetensors", b"x")
    with pytest.raises(CheckpointError, match="is a file; valid: the folder"):
        build.family_of(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    "content, says",
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "git-lfs pointer"),
        (b"", "empty file"),
        (b"<html>", "web page"),
    ],
)
def test_weights_that_are_something_else_are_named(tmp_path: Path, content: bytes, says: str) -> None:
    put(tmp_path, "model.safetensors", content)
    with ExitStack() as files, pytest.raises(CheckpointError, match=says):
        open_safetensors(tmp_path, files)


WRAPPED = {
    "module.": lambda name: f"module.{name}",
    "_orig_mod.": lambda name: f"_orig_mod.{name}",
    "both": lambda name: f"module._orig_mod.{name}",
    "inside": lambda name: name.replace("model.", "model._orig_mod.", 1),
    "deep": lambda name: name.replace(".layers", "._orig_mod.layers"),
}


@pytest.mark.reads("checkpoint", "names of a wrapped or compiled model: {how}")
@pytest.mark.parametrize("how", WRAPPED)
def test_what_wrappers_leave_in_names_is_taken_off(tmp_path: Path, how: str) -> None:
    names = ["model.a.layers.0.weight", "model.b.weight", "time_mlp_in.weight"]
    save_file({WRAPPED[how](n): torch.zeros(2) for n in names}, tmp_path / "model.safetensors")
    with ExitStack() as files:
        assert sorted(open_safetensors(tmp_path, files).shapes) == sorted(names)


@pytest.mark.parametrize("name", ["a.q_proj.lora_A.weight", "base_model.model.x.weight", "a.lora_B.default.weight"])
def test_lora_that_is_not_merged_is_refused_by_name(name: str) -> None:
    weights = Weights({name: (2,), "b.weight": (2,)}, lambda n: torch.zeros(2), "a checkpoint")
    with pytest.raises(CheckpointError, match="LoRA adapter that is not merged"):
        weights.unwrapped()


@pytest.mark.reads("refused as a checkpoint, by its cause", "OpenVLA-OFT with {says}")
@pytest.mark.parametrize(
    "file, says",
    [("vision_backbone--1000_checkpoint.pt", "FiLM"), ("noisy_action_projector--5_checkpoint.pt", "diffusion head")],
)
def test_variants_of_openvla_oft_are_refused_by_name(tmp_path: Path, file: str, says: str) -> None:
    put(tmp_path, "config.json")
    put(tmp_path, file, b"")
    with pytest.raises(CheckpointError, match=f"{file}.*{says}"):
        oft.load(tmp_path, "meta", torch.float32, EmbodimentConfig())


@pytest.mark.reads("checkpoint", "statistics padded with zeros, {mode}")
@pytest.mark.parametrize("mode", statistics.MODES)
def test_statistics_padded_with_zeros_are_those_without(mode: str) -> None:
    first, second = statistics.MODES[mode]
    low = np.linspace(-1.0, -0.5, 8) if mode != "mean_std" else np.linspace(-0.1, 0.1, 8)
    plain = {first: low.tolist(), second: np.linspace(0.5, 1.0, 8).tolist()}
    padded = {name: [*values, *[0.0] * 24] for name, values in plain.items()}
    wrong = {name: [*values, *[0.3] * 24] for name, values in plain.items()}

    def made(values: Any) -> Any:
        one = statistics.affine(values, mode, 1e-6, "here")
        return statistics.normaliser(Statistics(one, one, mode, "here"), 4, EmbodimentConfig())

    assert made(padded) == made(plain)
    with pytest.raises(CheckpointError, match="32 dimensions"):
        made(wrong)
    assert isinstance(statistics._unpadded(Affine(np.zeros(32), np.ones(32)), 8), Affine)


@pytest.mark.reads("checkpoint", "lerobot: pictures by name or by type")
@pytest.mark.parametrize(
    "features, slots",
    [
        ({"observation.images.scene": {}, "observation.state": {}}, ("scene",)),
        (
            {"observation.image": {"type": "VISUAL"}, "observation.wrist_image": {"type": "VISUAL"}},
            ("image", "wrist_image"),
        ),
        ({"observation.state": {"type": "STATE"}}, ()),
        (["observation.images.scene"], ()),
        (None, ()),
    ],
)
def test_pictures_are_found_by_name_or_by_type(features: Any, slots: tuple[str, ...]) -> None:
    assert published._slots(features) == slots


def test_lora_variants_of_openpi_are_named(tmp_path: Path) -> None:
    document = {"paligemma_variant": "gemma_2b_lora", "action_expert_variant": "gemma_300m", "action_horizon": 4,
                "action_dim": 32}  # fmt: skip
    with pytest.raises(CheckpointError, match="gemma_2b_lora.*not merged"):
        published._openpi_config(document, "pi0", "action_horizon", "action_dim")


def test_headers_that_lie_are_refused(tmp_path: Path) -> None:
    for head in (
        b"{}",
        b'{"a": 5}',
        json.dumps({"a": {"dtype": "F32", "shape": [2**62], "data_offsets": [0, 8]}}).encode(),
    ):
        put(tmp_path, "model.safetensors", struct.pack("<Q", len(head)) + head)
        with ExitStack() as files:
            try:
                assert not open_safetensors(tmp_path, files).shapes
            except CheckpointError as error:
                assert "safetensors" in str(error)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("what", ["link", "git-lfs pointer", "web page", "empty file", "zeros"])
def test_files_that_are_something_else_say_what(tmp_path: Path, name: str, what: str) -> None:
    """As a cache whose blobs were pruned, a clone without git-lfs, and a download that went wrong leave them."""
    from ecovla_ros.models.data.prompt import Prompt
    from ecovla_ros.models.data.weights import read_json

    if what == "link":
        (tmp_path / name).symlink_to(tmp_path / "blobs/0a1b")
    else:
        put(tmp_path, name, {"git-lfs pointer": b"version https://git-lfs.github.com/spec/v1\n", "web page":
                             b"\n<!DOCTYPE html>", "empty file": b"", "zeros": bytes(500)}[what])  # fmt: skip
    with ExitStack() as files, pytest.raises(CheckpointError, match=f"{name}.* is .*{what}|{name}.* holds {what}"):
        if name == "config.json":
            build.family_of(tmp_path)
            read_json(tmp_path / name)
        elif name == "tokenizer.json":
            Prompt.load(tmp_path / name, 64)
        else:
            open_safetensors(tmp_path, files)


def test_json_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    from ecovla_ros.models.data.weights import read_json

    put(tmp_path, "config.json", b"\xef\xbb\xbf{}")
    assert read_json(tmp_path / "config.json") == {}


QUANTISED: dict[str, dict[str, torch.Tensor]] = {
    "weight 'a.weight' is not finite .* but float8_e4m3fn": {"a.weight": torch.ones(4).to(torch.float8_e4m3fn)},
    "weight 'a.weight' is not finite .* but int8": {"a.weight": torch.ones(4, dtype=torch.int8)},
    "weights are quantised .a.SCB": {"a.weight": torch.ones(4, dtype=torch.int8), "a.SCB": torch.ones(4)},
    "weights are quantised .a.qweight": {"a.qweight": torch.ones(4, dtype=torch.int32)},
    "weights are quantised .a.weight.absmax": {"a.weight": torch.ones(4), "a.weight.absmax": torch.ones(1)},
    "2 of 4 matrices hold zeros alone: the download": {f"{i}.weight": torch.ones(2, 2) * (i % 2) for i in range(4)},
}


@pytest.mark.reads("refused as a checkpoint, by its cause", "{says}")
@pytest.mark.parametrize("says", QUANTISED)
def test_numbers_that_mean_something_else_are_refused(tmp_path: Path, says: str) -> None:
    save_file(QUANTISED[says], tmp_path / "model.safetensors")
    with ExitStack() as files, pytest.raises(CheckpointError, match=says):
        weights = open_safetensors(tmp_path, files)
        for name in weights.shapes:
            weights(name)
        weights.finish()


def test_the_index_of_shards_is_kept_to(tmp_path: Path) -> None:
    save_file({"x": torch.ones(2), "y": torch.ones(2)}, tmp_path / "a.safetensors")
    save_file({"x": torch.zeros(2)}, tmp_path / "b.safetensors")
    place = {"x": "a.safetensors", "y": "a.safetensors"}
    for more in ({}, {"z": "b.safetensors"}):
        put(
            tmp_path, "model.safetensors.index.json", json.dumps({"weight_map": {**place, "b": "b.safetensors"} | more})
        )
        with ExitStack() as files, pytest.raises(CheckpointError, match="weights that its files do not hold: b"):
            open_safetensors(tmp_path, files)
    save_file({"x": torch.zeros(2), "b": torch.zeros(2)}, tmp_path / "b.safetensors")
    put(tmp_path, "model.safetensors.index.json", json.dumps({"weight_map": {**place, "b": "b.safetensors"}}))
    with ExitStack() as files:
        assert open_safetensors(tmp_path, files)("x").tolist() == [1.0, 1.0]


def of_arm(mean: float = 0.1, std: float = 0.5, joint: int = 2) -> Affine:
    means, spreads = np.full(8, 0.1), np.full(8, 0.5)
    means[joint], spreads[joint] = mean, std
    return Affine(means, spreads)


MEANINGS: dict[str, tuple[Affine, Affine, str]] = {
    "state of joint_3 lie about 180 .* are these degrees, or of another arm": (
        of_arm(180.0, 30.0),
        of_arm(),
        "absolute",
    ),
    "actions of joint_6 lie about 2.5 .* -2.* to 2.*another arm": (of_arm(), of_arm(2.5, 0.1, 5), "absolute"),
    "actions of joint_3 lie about 0.1 .- 60": (of_arm(), of_arm(0.1, 60.0), "relative"),
    "actions of the gripper lie about 55; set policy.embodiment.gripper": (of_arm(), of_arm(55.0, 1.0, 7), "absolute"),
    "nothing moves": (of_arm(), Affine(np.zeros(8), np.full(8, 1e-6)), "relative"),
}


@pytest.mark.reads("refused as a checkpoint, by its cause", "statistics: {says}")
@pytest.mark.parametrize("says", MEANINGS)
def test_statistics_that_are_not_of_this_arm_are_refused(says: str) -> None:
    state, action, actions = MEANINGS[says]
    with pytest.raises(CheckpointError, match=says):
        statistics.normaliser(Statistics(state, action, "mean_std", "x"), 4, EmbodimentConfig(actions=actions))


def test_motions_of_the_tool_in_millimetres_are_refused() -> None:
    for mean, std, says in ((0.0, 20.0, "along x .*millimetres"), (0.0, 1e-7, "nothing moves")):
        of = Statistics(None, Affine(np.full(7, mean), np.full(7, std)), "mean_std", "x")
        with pytest.raises(CheckpointError, match=says):
            statistics.normaliser(of, 4, EmbodimentConfig(actions="delta_base"))


def test_weights_of_every_form_say_what_they_are_instead(tmp_path: Path) -> None:
    from ecovla_ros.models.data.weights import open_archive
    from ecovla_ros.models.pi import checkpoint

    step = "policy_preprocessor_step_3_normalizer_processor.safetensors"
    modes = {"STATE": "MEAN_STD", "ACTION": "MEAN_STD"}
    for name, load in (
        ("model.safetensors", lambda: checkpoint._tensors(tmp_path / "model.safetensors")),
        ("head.pt", lambda: open_archive(tmp_path / "head.pt")),
        (step, lambda: statistics.of_lerobot(tmp_path, modes)),
    ):
        put(tmp_path, name, "version https://git-lfs.github.com/spec/v1\n")
        with pytest.raises(CheckpointError, match=f"{name}' is a git-lfs pointer"):
            load()
