"""Published weights of the pi0 family as a `PiModel`, under the names transformers 5.10 gives pi0. pi0.5 has no model
there: its further weights keep openpi's names below the same prefixes. transformers itself is not imported here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ecovla_ros.errors import CheckpointError
from ecovla_ros.models.data.weights import Weights, blank, fill
from ecovla_ros.models.pi.config import PiConfig
from ecovla_ros.models.pi.model import PiModel
from ecovla_ros.types import CAMERAS

UNUSED = ("model.dit.embed_tokens.", "model.vlm.language_model.norm.", "lm_head.", "model.vlm.vision_tower.head.")
"""Parts of a pi0 checkpoint that no action depends on, besides the rest of the LM's last layer."""

KINDS = ("weight", "bias")


def from_transformers(
    hf_model: Any,
    cameras: tuple[str, ...] = CAMERAS,
    max_prompt: int = 48,
    optional_cameras: bool = True,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> PiModel:
    """A `PiModel` with the weights of `hf_model`. Raises CheckpointError: weights missing or left over."""
    config = config_of_transformers(hf_model.config.to_dict(), cameras, max_prompt, optional_cameras)
    state = {k.replace("vision_tower.vision_model.", "vision_tower."): v for k, v in hf_model.state_dict().items()}
    return from_state(config, state, device, dtype)


def from_state(
    config: PiConfig,
    state: Mapping[str, Tensor],
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> PiModel:
    """As `from_transformers`, from a state dict with the names of transformers 5.10."""
    weights = Weights({k: tuple(v.shape) for k, v in state.items()}, lambda name: state[name], "a PI0 model")
    return from_weights(config, weights, device, dtype)


def from_weights(config: PiConfig, weights: Weights, device: str | torch.device, dtype: torch.dtype) -> PiModel:
    """A `PiModel` on `device` from weights with the names of transformers 5.10. Raises CheckpointError."""
    model = blank(lambda: PiModel(config), device, dtype)
    fill(model, translated(weights, config), weights.where)
    last = f"model.vlm.language_model.layers.{config.layers - 1}."
    weights.finish((*UNUSED, last))
    return model


def config_of_transformers(
    document: Mapping[str, Any], cameras: tuple[str, ...], max_prompt: int, optional_cameras: bool
) -> PiConfig:
    """`PiConfig` of a transformers `PI0Config` as a mapping. Raises CheckpointError: incomplete, heads not shared."""
    try:
        vlm, expert = document["vlm_config"], document["dit_config"]
        lm, vision = vlm["text_config"], vlm["vision_config"]
        shared = ("num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "rms_norm_eps")
        for name in shared:
            if lm[name] != expert[name]:
                raise CheckpointError(f"LM and expert must share {name}: {lm[name]} and {expert[name]}")
        return PiConfig(
            cameras=cameras, optional_cameras=optional_cameras, vision="siglip", image_size=vision["image_size"],
            patch=vision["patch_size"], vision_width=vision["hidden_size"], vision_layers=vision["num_hidden_layers"],
            vision_heads=vision["num_attention_heads"], vision_mlp=vision["intermediate_size"], vocab=lm["vocab_size"],
            max_prompt=max_prompt, lm_width=lm["hidden_size"], lm_mlp=lm["intermediate_size"],
            layers=lm["num_hidden_layers"], heads=lm["num_attention_heads"], kv_heads=lm["num_key_value_heads"],
            head_dim=lm["head_dim"], expert_width=expert["hidden_size"], expert_mlp=expert["intermediate_size"],
            state_dim=document["max_state_dim"], action_dim=document["max_action_dim"], horizon=document["chunk_size"],
            flow_steps=document["num_inference_steps"], rope_theta=float(lm["rope_parameters"]["rope_theta"]),
            norm_eps=lm["rms_norm_eps"], min_period=document["min_period"], max_period=document["max_period"],
        )  # fmt: skip
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"not the configuration of a PI0 model: {error!r}") from error


def translated(source: Weights, config: PiConfig) -> Iterator[tuple[str, Tensor]]:
    """Names and values of this package's weights, one after the other."""
    yield from _vision(source, config)
    yield from _heads(source, config)
    yield "embedding", source("model.vlm.language_model.embed_tokens.weight")
    for i in range(config.layers):
        yield from _block(source, f"model.vlm.language_model.layers.{i}.", f"lm.{i}.", config, i == config.layers - 1)
        yield from _block(source, f"model.dit.layers.{i}.", f"expert.{i}.", config, False)


def rank_major(rows: Tensor, kv_heads: int, head_dim: int) -> Tensor:
    """Query rows (heads * head_dim, D) from group-major (head = group * ranks + rank) to rank * groups + group."""
    blocks = rows.unflatten(0, (kv_heads, -1, head_dim))
    return blocks.transpose(0, 1).reshape(rows.shape)


def _block(source: Weights, old: str, new: str, config: PiConfig, last: bool) -> Iterator[tuple[str, Tensor]]:
    """One Gemma layer; `last`: only what gives K and V. The expert of pi0.5 has no norms of its own."""
    k, v = source(f"{old}self_attn.k_proj.weight"), source(f"{old}self_attn.v_proj.weight")
    if last:
        yield "lm_last.vkq", torch.cat((v, k))
        yield "lm_last.norm.weight", source(f"{old}input_layernorm.weight")
        return
    q, o = (source(f"{old}self_attn.{name}_proj.weight") for name in "qo")
    q, o = (rank_major(w, config.kv_heads, config.head_dim) for w in (q, o.T))
    yield f"{new}attention.vkq", torch.cat((v, k, q))
    yield f"{new}attention.o", o
    if new.startswith("lm") or config.variant == "pi0":
        yield f"{new}attention.norm.weight", source(f"{old}input_layernorm.weight")
        yield f"{new}norm.weight", source(f"{old}post_attention_layernorm.weight")
    yield f"{new}mlp.gate", source(f"{old}mlp.gate_proj.weight")
    yield f"{new}mlp.up", source(f"{old}mlp.up_proj.weight")
    yield f"{new}mlp.down", source(f"{old}mlp.down_proj.weight").T


def _vision(source: Weights, config: PiConfig) -> Iterator[tuple[str, Tensor]]:
    old = "model.vlm.vision_tower."
    names = {"patches.weight": "embeddings.patch_embedding.weight", "patches.bias": "embeddings.patch_embedding.bias",
             "position": "embeddings.position_embedding.weight"}  # fmt: skip
    for kind in KINDS:
        names[f"norm.{kind}"] = f"post_layernorm.{kind}"
        yield f"projector.{kind}", source(f"model.vlm.multi_modal_projector.linear.{kind}")
        for i in range(config.vision_layers):
            layer = f"encoder.layers.{i}."
            names[f"layers.{i}.out.{kind}"] = f"{layer}self_attn.out_proj.{kind}"
            for j in (1, 2):
                names[f"layers.{i}.norm{j}.{kind}"] = f"{layer}layer_norm{j}.{kind}"
                names[f"layers.{i}.fc{j}.{kind}"] = f"{layer}mlp.fc{j}.{kind}"
            qkv = [source(f"{old}{layer}self_attn.{p}_proj.{kind}") for p in "qkv"]
            yield f"vision.layers.{i}.qkv.{kind}", torch.cat(qkv)
    for mine, theirs in names.items():
        yield f"vision.{mine}", source(old + theirs)


def _heads(source: Weights, config: PiConfig) -> Iterator[tuple[str, Tensor]]:
    old = "embed_action_time."
    names = {"action_in": f"{old}action_in_proj", "action_out": "action_out_proj"}
    if config.variant == "pi0":
        names |= {"state_in": f"{old}state_proj", "time_in": f"{old}action_time_mlp_in",
                  "time_out": f"{old}action_time_mlp_out"}  # fmt: skip
        yield "expert_norm.weight", source("model.dit.norm.weight")
    else:
        names |= {"time_in": "time_mlp_in", "time_out": "time_mlp_out"}
        pair = ("input_layernorm", "post_attention_layernorm")
        norms = [f"layers.{i}.{n}" for i in range(config.layers) for n in pair]
        for kind in KINDS:
            yield f"modulator.{kind}", torch.stack([source(f"model.dit.{n}.dense.{kind}") for n in (*norms, "norm")])
    for mine, theirs in names.items():
        for kind in KINDS:
            yield f"{mine}.{kind}", source(f"{theirs}.{kind}")
