"""Published OpenVLA-OFT checkpoints: a transformers folder with two archives beside it, for the head and the state.

A folder holds config.json, dataset_statistics.json, the merged weights in safetensors, action_head--N_checkpoint.pt and
proprio_projector--N_checkpoint.pt, and Llama 2's tokenizer.json.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ecovla_ros.config import EmbodimentConfig
from ecovla_ros.errors import CheckpointError
from ecovla_ros.models.base import PolicySpec
from ecovla_ros.models.data import statistics
from ecovla_ros.models.data.embodiment import cameras_by_slot
from ecovla_ros.models.data.folder import must_hold_checkpoint
from ecovla_ros.models.data.prompt import Prompt
from ecovla_ros.models.data.weights import Weights, blank, fill, open_archive, open_safetensors, read_json
from ecovla_ros.models.openvla_oft.model import OftModel
from ecovla_ros.models.openvla_oft.policy import OftPolicy
from ecovla_ros.models.prismatic.config import PrismaticConfig
from ecovla_ros.models.prismatic.convert import KINDS, OPENVLA, translated, unread
from ecovla_ros.models.prismatic.prompt import BEGIN, EMPTY, END, QuestionPrompt

SLOTS = ("primary", "wrist")
"""The outside view first, as the published code feeds them."""

VARIANTS = {
    "vision_backbone--*_checkpoint.pt": "a vision backbone trained with FiLM, which is not supported",
    "noisy_action_projector--*_checkpoint.pt": "the projector of a diffusion head, which is not supported",
}
"""Files of variants that would be loaded as if they were none -> what they are."""

LLAMA = {"hidden_size": 4096, "intermediate_size": 11_008, "num_hidden_layers": 32, "num_attention_heads": 32,
         "rms_norm_eps": 1e-6, "vocab_size": 32_000}  # fmt: skip
"""transformers' defaults of a Llama configuration, which config.json's text_config need not repeat."""


def load(
    folder: str | Path,
    device: str | torch.device,
    dtype: torch.dtype,
    embodiment: EmbodimentConfig,
    flow_steps: int = 0,
    bucket: int = 1,
) -> OftPolicy:
    """A policy of this arm. Raises CheckpointError: anything missing, left over, malformed, or of another arm.

    `flow_steps` is not used: the head is a regression. On the device "meta" no weight is read.
    """
    path = Path(folder)
    must_hold_checkpoint(path)
    _must_be_plain(path)
    document, stats = read_json(path / "config.json"), statistics_of(path, embodiment)
    head, projector = (open_archive(component(path, name)) for name in ("action_head", "proprio_projector"))
    cameras = cameras_by_slot(embodiment, SLOTS, needed=True)
    config = config_of(document, head, projector, cameras, embodiment.chunk)
    norm = statistics.normaliser(stats, config.horizon, embodiment)
    words = Prompt.load(path / "tokenizer.json", config.max_prompt).tokenizer
    with ExitStack() as files:
        weights = open_safetensors(path, files)
        if torch.device(device).type == "meta":
            weights, head, projector = weights.outline(), head.outline(), projector.outline()
        model = from_weights(config, weights, head, projector, device, dtype)
    size = (config.image_size,) * 2
    spec = PolicySpec(path.name, {c: size for c in cameras}, config.horizon, embodiment.period_s, config.action_dim)
    return OftPolicy(model, spec, norm, QuestionPrompt(words, config.max_prompt, BEGIN, (EMPTY,)), bucket=bucket)


def _must_be_plain(folder: Path) -> None:
    """Raises CheckpointError for variants of OpenVLA-OFT whose parts lie beside the merged weights and are not read."""
    for pattern, what in VARIANTS.items():
        found = sorted(p.name for p in folder.glob(pattern))
        if found:
            raise CheckpointError(
                f"'{folder}' holds {found[0]}: {what}; valid: an OpenVLA-OFT checkpoint with an L1 head, without FiLM, "
                "its LoRA merged"
            )


def from_weights(
    config: PrismaticConfig,
    weights: Weights,
    head: Weights,
    projector: Weights,
    device: str | torch.device,
    dtype: torch.dtype,
) -> OftModel:
    """The model from the three sources. Raises CheckpointError naming what is missing or left over."""
    model = blank(lambda: OftModel(config, END), device, dtype)

    def everything() -> Iterator[tuple[str, Tensor]]:
        yield from translated(weights, config, OPENVLA)
        yield from _head(bare(head), len(model.head.blocks))
        yield from _projector(bare(projector))

    fill(model, everything(), weights.where)
    weights.finish(unread(config, OPENVLA))
    return model


def config_of(
    document: Any, head: Weights, projector: Weights, cameras: tuple[str, ...], chunk: int
) -> PrismaticConfig:
    """Shape from config.json and from the sizes of head and projector. Raises CheckpointError."""
    if not isinstance(document, Mapping) or document.get("model_type") not in ("openvla", "prismatic"):
        raise CheckpointError("config.json is not OpenVLA's: its model_type must be 'openvla'")
    if document.get("vision_backbone_id") != "dinosiglip-vit-so-224px":
        raise CheckpointError(f"vision backbone {document.get('vision_backbone_id')!r}; valid: dinosiglip-vit-so-224px")
    text = {**LLAMA, **{k: v for k, v in (document.get("text_config") or {}).items() if k in LLAMA}}
    last, first = bare(head).shapes.get("model.fc2.weight"), bare(head).shapes.get("model.fc1.weight")
    state = bare(projector).shapes.get("fc1.weight")
    if last is None or first is None or state is None:
        raise CheckpointError(
            f"{head.where} must hold model.fc1 and model.fc2 (L1 head), {projector.where} fc1 (projector of the state)"
        )
    return PrismaticConfig(
        cameras=cameras, vocab=text["vocab_size"], width=text["hidden_size"], mlp=text["intermediate_size"],
        layers=text["num_hidden_layers"], heads=text["num_attention_heads"],
        head_dim=text["hidden_size"] // text["num_attention_heads"], norm_eps=text["rms_norm_eps"],
        action_dim=last[0], state_dim=state[1], horizon=chunk,
    )  # fmt: skip


def statistics_of(folder: Path, embodiment: EmbodimentConfig) -> statistics.Statistics:
    """dataset_statistics.json, or config.json's norm_stats; quantiles. Raises CheckpointError listing the data sets."""
    path = folder / "dataset_statistics.json"
    if path.is_file():
        table = read_json(path)
    else:
        path = folder / "config.json"
        table = read_json(path).get("norm_stats")
    return statistics.of_data_sets(path, table, embodiment.statistics, "quantiles", 1e-8, with_state=True)


def component(folder: Path, name: str) -> Path:
    """The one file of a part, e.g. action_head--150000_checkpoint.pt. Raises CheckpointError."""
    found = sorted(folder.glob(f"{name}--*_checkpoint.pt"))
    if len(found) != 1:
        have = ", ".join(p.name for p in found) or "none"
        raise CheckpointError(f"'{folder}' must hold one file {name}--…_checkpoint.pt; found: {have}")
    return found[0]


def bare(weights: Weights) -> Weights:
    """Names without the `module.` that training in several processes leaves before them."""
    return weights.renamed(lambda name: name.removeprefix("module."))


def _head(source: Weights, blocks: int) -> Iterator[tuple[str, Tensor]]:
    for kind in KINDS:
        for mine, theirs in (("norm1", "layer_norm1"), ("norm2", "layer_norm2"), ("fc1", "fc1"), ("fc2", "fc2")):
            yield f"head.{mine}.{kind}", source(f"model.{theirs}.{kind}")
        for i in range(blocks):
            for mine, theirs in (("norm", "0"), ("fc", "1")):
                yield f"head.blocks.{i}.{mine}.{kind}", source(f"model.mlp_resnet_blocks.{i}.ffn.{theirs}.{kind}")
    source.finish()


def _projector(source: Weights) -> Iterator[tuple[str, Tensor]]:
    for kind in KINDS:
        for name in ("fc1", "fc2"):
            yield f"state_token.{name}.{kind}", source(f"{name}.{kind}")
    source.finish()
