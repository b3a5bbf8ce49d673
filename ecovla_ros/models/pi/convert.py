"""Weights of transformers' `PI0ForConditionalGeneration` as a `PiModel`. transformers itself is not imported here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ecovla_ros.errors import CheckpointError
from ecovla_ros.models.pi.config import PiConfig
from ecovla_ros.models.pi.model import PiModel
from ecovla_ros.types import CAMERAS

UNUSED = ("model.dit.embed_tokens.", "model.vlm.language_model.norm.", "lm_head.", "model.vlm.vision_tower.head.")
"""Parts of a pi0 checkpoint that no action depends on, besides the rest of the LM's last layer."""


def from_transformers(
    hf_model: nn.Module, cameras: tuple[str, ...] = CAMERAS, max_prompt: int = 48, optional_cameras: bool = True
) -> PiModel:
    """A float32 `PiModel` with the weights of `hf_model`. Raises CheckpointError: weights missing or left over."""
    config = config_from_transformers(hf_model.config, cameras, max_prompt, optional_cameras)
    state = {k.replace("vision_tower.vision_model.", "vision_tower."): v for k, v in hf_model.state_dict().items()}
    return from_state(config, state)


def from_state(config: PiConfig, state: Mapping[str, Tensor]) -> PiModel:
    """As `from_transformers`, from a state dict with the names of transformers 5.10."""
    source = _Source(state)
    model = PiModel(config)
    weights = {**_vision(source, config), **_heads(source)}
    weights["embedding"] = source("model.vlm.language_model.embed_tokens.weight")
    for i in range(config.layers):
        weights |= _block(source, f"model.vlm.language_model.layers.{i}.", f"lm.{i}.", config, i == config.layers - 1)
        weights |= _block(source, f"model.dit.layers.{i}.", f"expert.{i}.", config, False)
    last = f"model.vlm.language_model.layers.{config.layers - 1}."
    extra = sorted(k for k in source.left if not k.startswith((*UNUSED, last)))
    if extra:
        raise CheckpointError(f"not a PI0 model of this configuration: left over {', '.join(extra[:5])}")
    try:
        model.load_state_dict({k: v.float() for k, v in weights.items()}, strict=True)
    except RuntimeError as error:
        raise CheckpointError(f"weights do not fit the configuration: {error}") from error
    return model


def config_from_transformers(hf: Any, cameras: tuple[str, ...], max_prompt: int, optional_cameras: bool) -> PiConfig:
    """`PiConfig` of a transformers `PI0Config`. Raises CheckpointError where LM and expert do not share their heads."""
    lm, expert, vision = hf.vlm_config.text_config, hf.dit_config, hf.vlm_config.vision_config
    shared = ("num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "rms_norm_eps")
    for name in shared:
        if getattr(lm, name) != getattr(expert, name):
            raise CheckpointError(f"LM and expert must share {name}: {getattr(lm, name)} and {getattr(expert, name)}")
    return PiConfig(
        cameras=cameras, optional_cameras=optional_cameras, vision="siglip", image_size=vision.image_size,
        patch=vision.patch_size, vision_width=vision.hidden_size, vision_layers=vision.num_hidden_layers,
        vision_heads=vision.num_attention_heads, vision_mlp=vision.intermediate_size, vocab=lm.vocab_size,
        max_prompt=max_prompt, lm_width=lm.hidden_size, lm_mlp=lm.intermediate_size, layers=lm.num_hidden_layers,
        heads=lm.num_attention_heads, kv_heads=lm.num_key_value_heads, head_dim=lm.head_dim,
        expert_width=expert.hidden_size, expert_mlp=expert.intermediate_size, state_dim=hf.max_state_dim,
        action_dim=hf.max_action_dim, horizon=hf.chunk_size, flow_steps=hf.num_inference_steps,
        rope_theta=float(lm.rope_parameters["rope_theta"]), norm_eps=lm.rms_norm_eps,
        min_period=hf.min_period, max_period=hf.max_period,
    )  # fmt: skip


def rank_major(rows: Tensor, kv_heads: int, head_dim: int) -> Tensor:
    """Query rows (heads * head_dim, D) from group-major (head = group * ranks + rank) to rank * groups + group."""
    blocks = rows.unflatten(0, (kv_heads, -1, head_dim))
    return blocks.transpose(0, 1).reshape(rows.shape)


class _Source:
    """Weights by name; remembers which were not asked for."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self.state, self.left = state, set(state)

    def __call__(self, name: str) -> Tensor:
        if name not in self.state:
            raise CheckpointError(f"not a PI0 model: weight '{name}' is missing")
        self.left.discard(name)
        return self.state[name]


def _block(source: _Source, old: str, new: str, config: PiConfig, last: bool) -> dict[str, Tensor]:
    """One Gemma layer; `last`: only what gives K and V."""
    k, v = source(f"{old}self_attn.k_proj.weight"), source(f"{old}self_attn.v_proj.weight")
    norm = source(f"{old}input_layernorm.weight")
    if last:
        return {"lm_last.vkq": torch.cat((v, k)), "lm_last.norm.weight": norm}
    q, o = (source(f"{old}self_attn.{name}_proj.weight") for name in "qo")
    q, o = (rank_major(w, config.kv_heads, config.head_dim) for w in (q, o.T))
    return {
        f"{new}attention.norm.weight": norm,
        f"{new}attention.vkq": torch.cat((v, k, q)),
        f"{new}attention.o": o,
        f"{new}norm.weight": source(f"{old}post_attention_layernorm.weight"),
        f"{new}mlp.gate": source(f"{old}mlp.gate_proj.weight"),
        f"{new}mlp.up": source(f"{old}mlp.up_proj.weight"),
        f"{new}mlp.down": source(f"{old}mlp.down_proj.weight").T,
    }


def _vision(source: _Source, config: PiConfig) -> dict[str, Tensor]:
    old, out = "model.vlm.vision_tower.", {}
    names = {"patches.weight": "embeddings.patch_embedding.weight", "patches.bias": "embeddings.patch_embedding.bias",
             "position": "embeddings.position_embedding.weight"}  # fmt: skip
    for kind in ("weight", "bias"):
        names[f"norm.{kind}"] = f"post_layernorm.{kind}"
        out[f"projector.{kind}"] = source(f"model.vlm.multi_modal_projector.linear.{kind}")
        for i in range(config.vision_layers):
            layer = f"encoder.layers.{i}."
            names[f"layers.{i}.out.{kind}"] = f"{layer}self_attn.out_proj.{kind}"
            for j in (1, 2):
                names[f"layers.{i}.norm{j}.{kind}"] = f"{layer}layer_norm{j}.{kind}"
                names[f"layers.{i}.fc{j}.{kind}"] = f"{layer}mlp.fc{j}.{kind}"
            qkv = [source(f"{old}{layer}self_attn.{p}_proj.{kind}") for p in "qkv"]
            out[f"vision.layers.{i}.qkv.{kind}"] = torch.cat(qkv)
    return out | {f"vision.{mine}": source(old + theirs) for mine, theirs in names.items()}


def _heads(source: _Source) -> dict[str, Tensor]:
    old = "embed_action_time."
    names = {"state_in": f"{old}state_proj", "action_in": f"{old}action_in_proj", "time_in": f"{old}action_time_mlp_in",
             "time_out": f"{old}action_time_mlp_out", "action_out": "action_out_proj"}  # fmt: skip
    kinds = ("weight", "bias")
    out = {f"{mine}.{kind}": source(f"{theirs}.{kind}") for mine, theirs in names.items() for kind in kinds}
    return out | {"expert_norm.weight": source("model.dit.norm.weight")}
