"""Published weights of Prismatic models as this package's, in two namings: OpenVLA's and Prismatic's own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ecovla_ros.models.data.weights import Weights
from ecovla_ros.models.prismatic.config import PrismaticConfig, TowerConfig

KINDS = ("weight", "bias")


@dataclass(frozen=True)
class Names:
    """Where the parts lie in a checkpoint."""

    towers: tuple[str, ...]
    """Prefix of each vision tower, timm's names below it."""
    scale: str
    """timm's LayerScale weight."""
    projector: tuple[str, str, str]
    llama: str
    """Prefix of Llama's `model`."""
    unused: tuple[str, ...]
    """Prefixes of what no action depends on."""


OPENVLA = Names(
    ("vision_backbone.featurizer.", "vision_backbone.fused_featurizer."), "scale_factor",
    ("projector.fc1", "projector.fc2", "projector.fc3"), "language_model.model.", ("language_model.lm_head.",),
)  # fmt: skip
"""The port to transformers, whose loader does not suffer names with `gamma`."""

PRISMATIC = Names(
    ("vision_backbone.dino_featurizer.", "vision_backbone.siglip_featurizer."), "gamma",
    ("projector.projector.0", "projector.projector.2", "projector.projector.4"), "llm_backbone.llm.model.",
    ("llm_backbone.llm.lm_head.",),
)  # fmt: skip
"""prismatic-vlms and CogACT."""


def translated(source: Weights, config: PrismaticConfig, names: Names) -> Iterator[tuple[str, Tensor]]:
    """Names and values of this package's weights of vision, projector and Llama, one after the other."""
    for i, (tower, prefix) in enumerate(zip(config.towers, names.towers)):
        yield from _tower(source, tower, prefix, f"vision.towers.{i}.", names.scale)
    for mine, theirs in zip(("fc1", "fc2", "fc3"), names.projector):
        for kind in KINDS:
            yield f"projector.{mine}.{kind}", source(f"{theirs}.{kind}")
    yield "embedding", source(f"{names.llama}embed_tokens.weight")
    yield "norm.weight", source(f"{names.llama}norm.weight")
    for i in range(config.layers):
        mine = f"lm.{i}." if i < config.layers - 1 else "lm_last."
        yield from _layer(source, f"{names.llama}layers.{i}.", mine)


def unread(config: PrismaticConfig, names: Names) -> tuple[str, ...]:
    """Prefixes of what may be left over: logits, buffers, and of every tower the last block, norm and pooling head."""
    out = [*names.unused, *(f"{names.llama}layers.{i}.self_attn.rotary_emb." for i in range(config.layers))]
    for tower, prefix in zip(config.towers, names.towers):
        out += [f"{prefix}blocks.{tower.layers}.", f"{prefix}norm.", f"{prefix}attn_pool."]
    return tuple(out)


def _tower(source: Weights, tower: TowerConfig, old: str, new: str, scale: str) -> Iterator[tuple[str, Tensor]]:
    yield f"{new}position", source(f"{old}pos_embed")[0]
    if tower.prefix:
        yield f"{new}prefix", torch.cat((source(f"{old}cls_token")[0], source(f"{old}reg_token")[0]))
    parts = ("norm1", "norm2", "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    ours = ("norm1", "norm2", "qkv", "out", "fc1", "fc2")
    for kind in KINDS:
        yield f"{new}patches.{kind}", source(f"{old}patch_embed.proj.{kind}")
        for i in range(tower.layers):
            for mine, theirs in zip(ours, parts):
                yield f"{new}layers.{i}.{mine}.{kind}", source(f"{old}blocks.{i}.{theirs}.{kind}")
    if tower.scaled:
        for i in range(tower.layers):
            for j in (1, 2):
                yield f"{new}layers.{i}.scale{j}", source(f"{old}blocks.{i}.ls{j}.{scale}")


def _layer(source: Weights, old: str, new: str) -> Iterator[tuple[str, Tensor]]:
    for name in "qkv":
        yield f"{new}attention.{name}", source(f"{old}self_attn.{name}_proj.weight")
    yield f"{new}attention.o", source(f"{old}self_attn.o_proj.weight").T
    yield f"{new}attention.norm.weight", source(f"{old}input_layernorm.weight")
    yield f"{new}norm.weight", source(f"{old}post_attention_layernorm.weight")
    yield f"{new}mlp.gate", source(f"{old}mlp.gate_proj.weight")
    yield f"{new}mlp.up", source(f"{old}mlp.up_proj.weight")
    yield f"{new}mlp.down", source(f"{old}mlp.down_proj.weight").T
