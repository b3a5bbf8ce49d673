"""Published CogACT checkpoints: config.json, dataset_statistics.json, checkpoints/NAME.pt, Llama 2's tokenizer.json."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ecovla_ros.config import EmbodimentConfig
from ecovla_ros.errors import CheckpointError
from ecovla_ros.models.base import PolicySpec
from ecovla_ros.models.cogact.model import DIT_SIZES, CogactConfig, CogactModel
from ecovla_ros.models.cogact.policy import CogactPolicy
from ecovla_ros.models.data import statistics
from ecovla_ros.models.data.embodiment import cameras_by_slot
from ecovla_ros.models.data.prompt import Prompt
from ecovla_ros.models.data.weights import Weights, blank, fill, open_archive, read_json
from ecovla_ros.models.prismatic.convert import KINDS, PRISMATIC, translated, unread
from ecovla_ros.models.prismatic.prompt import BEGIN, EMPTY, END, QuestionPrompt

SLOTS = ("primary",)
NET = "action_model.net."
UNUSED = (f"{NET}history_embedder.", "ema_diffusion.")
"""CogACT's parts that nothing runs: the history embedder, and the moving average of the head."""


def load(
    folder: str | Path,
    device: str | torch.device,
    dtype: torch.dtype,
    embodiment: EmbodimentConfig,
    flow_steps: int = 0,
    bucket: int = 1,
) -> CogactPolicy:
    """A policy of this arm. Raises CheckpointError: anything missing, left over, malformed, or of another arm.

    On the device "meta" no weight is read: everything is checked but the numbers.
    """
    path = Path(folder)
    stats = statistics_of(path, embodiment)
    weights = open_archive(archive(path), "model")
    weights = weights.outline() if torch.device(device).type == "meta" else weights
    cameras = cameras_by_slot(embodiment, SLOTS, needed=True)
    config = config_of(read_json(path / "config.json"), weights, cameras)
    norm = statistics.normaliser(stats, config.horizon, embodiment)
    words = Prompt.load(path / "tokenizer.json", config.max_prompt).tokenizer
    model = from_weights(config, weights, device, dtype)
    size = (config.image_size,) * 2
    spec = PolicySpec(path.name, {c: size for c in cameras}, config.horizon, embodiment.period_s, config.action_dim)
    prompt = QuestionPrompt(words, config.max_prompt, BEGIN, (EMPTY, END))
    return CogactPolicy(model, spec, norm, prompt, flow_steps, bucket=bucket)


def from_weights(config: CogactConfig, weights: Weights, device: str | torch.device, dtype: torch.dtype) -> CogactModel:
    """The model of an archive. Raises CheckpointError naming what is missing or left over."""
    model = blank(lambda: CogactModel(config), device, dtype)

    def everything() -> Iterator[tuple[str, Tensor]]:
        yield from translated(weights, config, PRISMATIC)
        yield from _dit(weights, config)

    fill(model, everything(), weights.where)
    weights.finish((*unread(config, PRISMATIC), *UNUSED))
    return model


def config_of(document: Any, weights: Weights, cameras: tuple[str, ...]) -> CogactConfig:
    """Shape from the weights' sizes; config.json must name the base model. Raises CheckpointError."""
    vla = document.get("vla") if isinstance(document, Mapping) else None
    base = vla.get("base_vlm") if isinstance(vla, Mapping) else None
    if not isinstance(base, str) or "dinosiglip-224px" not in base:
        raise CheckpointError(f"config.json: vla.base_vlm is {base!r}; valid: one with dinosiglip-224px and Llama 2 7B")
    position = weights.shapes.get(f"{NET}positional_embedding")
    action = weights.shapes.get(f"{NET}x_embedder.linear.weight")
    if position is None or action is None:
        raise CheckpointError(f"{weights.where} has no {NET}positional_embedding and x_embedder: not a CogACT model")
    sizes = {width: (layers, heads) for width, layers, heads in DIT_SIZES.values()}
    if position[1] not in sizes:
        raise CheckpointError(f"{weights.where}: a head of width {position[1]}; valid: {', '.join(map(str, sizes))}")
    layers, heads = sizes[position[1]]
    vocab = weights.shapes.get(f"{PRISMATIC.llama}embed_tokens.weight", (0,))[0]
    return CogactConfig(
        cameras=cameras, vocab=vocab or 32_064, horizon=position[0] - 1, action_dim=action[1], dit_width=position[1],
        dit_layers=layers, dit_heads=heads,
    )  # fmt: skip


def statistics_of(folder: Path, embodiment: EmbodimentConfig) -> statistics.Statistics:
    """dataset_statistics.json; quantiles. Raises CheckpointError listing the data sets."""
    path = folder / "dataset_statistics.json"
    return statistics.of_data_sets(path, read_json(path), embodiment.statistics, "quantiles", 0.0, with_state=False)


def archive(folder: Path) -> Path:
    """The one checkpoints/NAME.pt. Raises CheckpointError."""
    found = sorted((folder / "checkpoints").glob("*.pt"))
    if len(found) != 1:
        raise CheckpointError(f"'{folder}' must hold one file checkpoints/NAME.pt; found {len(found)}")
    return found[0]


def _dit(source: Weights, config: CogactConfig) -> Iterator[tuple[str, Tensor]]:
    yield "dit.position", source(f"{NET}positional_embedding")
    yield "dit.unconditional", source(f"{NET}z_embedder.uncondition")[0]
    plain = {"action_in": "x_embedder.linear", "time_in": "t_embedder.mlp.0", "time_out": "t_embedder.mlp.2",
             "condition_in": "z_embedder.linear", "action_out": "final_layer.linear"}  # fmt: skip
    for mine, theirs in plain.items():
        for kind in KINDS:
            yield f"dit.{mine}.{kind}", source(f"{NET}{theirs}.{kind}")
    for i in range(config.dit_layers):
        old, new = f"{NET}blocks.{i}.", f"dit.blocks.{i}."
        for name, rows in zip("qkv", source(f"{old}attn.qkv.weight").chunk(3)):
            yield f"{new}attention.{name}", rows
        yield f"{new}attention.biases", source(f"{old}attn.qkv.bias").view(3, -1)
        yield f"{new}attention.o", source(f"{old}attn.proj.weight").T
        yield f"{new}attention.o_bias", source(f"{old}attn.proj.bias")
        yield f"{new}mlp.gate", source(f"{old}mlp.fc1.weight")
        yield f"{new}mlp.gate_bias", source(f"{old}mlp.fc1.bias")
        yield f"{new}mlp.down", source(f"{old}mlp.fc2.weight").T
        yield f"{new}mlp.down_bias", source(f"{old}mlp.fc2.bias")
