"""A published checkpoint without its weights: what lies in its headers, to be spoilt and read again.

Names and shapes are those of openpi's and lerobot's pi0 and pi0.5 (3 billion numbers); the file is as long as theirs
and has holes in place of the numbers, so that it takes no room on disk. `ecovla inspect` reads the headers alone.
"""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np

Shapes = dict[str, tuple[int, ...]]


def gemma(prefix: str, width: int, mlp: int, layers: int, modulated: bool = False) -> Shapes:
    """Names and shapes of a published Gemma stack."""
    out: Shapes = {}
    for i in range(layers):
        at = f"{prefix}layers.{i}."
        out |= {f"{at}self_attn.{n}_proj.weight": (rows, width) for n, rows in (("q", 2048), ("k", 256), ("v", 256))}
        out |= {f"{at}self_attn.o_proj.weight": (width, 2048), f"{at}mlp.down_proj.weight": (width, mlp)}
        out |= {f"{at}mlp.{n}_proj.weight": (mlp, width) for n in ("gate", "up")}
        out |= norm(f"{at}input_layernorm", width, modulated) | norm(f"{at}post_attention_layernorm", width, modulated)
    return out | norm(f"{prefix}norm", width, modulated)


def norm(name: str, width: int, modulated: bool) -> Shapes:
    """A norm, or one that a dense layer modulates (pi0.5)."""
    if modulated:
        return {f"{name}.dense.weight": (3 * width, width), f"{name}.dense.bias": (3 * width,)}
    return {f"{name}.weight": (width,)}


def linear(name: str, inputs: int, outputs: int) -> Shapes:
    """A linear layer with a bias."""
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def siglip(prefix: str) -> Shapes:
    """Names and shapes of the published vision tower."""
    out = {f"{prefix}embeddings.patch_embedding.weight": (1152, 3, 14, 14),
           f"{prefix}embeddings.patch_embedding.bias": (1152,),
           f"{prefix}embeddings.position_embedding.weight": (256, 1152)}  # fmt: skip
    out |= {f"{prefix}post_layernorm.{k}": (1152,) for k in ("weight", "bias")}
    for i in range(27):
        at = f"{prefix}encoder.layers.{i}."
        out |= {f"{at}layer_norm{j}.{k}": (1152,) for j in (1, 2) for k in ("weight", "bias")}
        for n in ("q_proj", "k_proj", "v_proj", "out_proj"):
            out |= linear(f"{at}self_attn.{n}", 1152, 1152)
        out |= linear(f"{at}mlp.fc1", 1152, 4304) | linear(f"{at}mlp.fc2", 4304, 1152)
    return out


def openpi(variant: str, prefix: str = "", tied: bool = False, tower: str = "vision_tower.vision_model.") -> Shapes:
    """Names and shapes of openpi's PI0Pytorch; lerobot's policy has `model.` before them."""
    pali, expert = f"{prefix}paligemma_with_expert.paligemma.", f"{prefix}paligemma_with_expert.gemma_expert."
    out = siglip(f"{pali}model.{tower}") | gemma(f"{pali}model.language_model.", 2048, 16_384, 18)
    out |= linear(f"{pali}model.multi_modal_projector.linear", 1152, 2048)
    out |= gemma(f"{expert}model.", 1024, 4096, 18, variant == "pi05")
    out |= {f"{expert}lm_head.weight": (257_152, 1024), f"{pali}lm_head.weight": (257_152, 2048)}
    if not tied:
        out[f"{pali}model.language_model.embed_tokens.weight"] = (257_152, 2048)
    out |= linear(f"{prefix}action_in_proj", 32, 1024) | linear(f"{prefix}action_out_proj", 1024, 32)
    if variant == "pi05":
        return out | linear(f"{prefix}time_mlp_in", 1024, 1024) | linear(f"{prefix}time_mlp_out", 1024, 1024)
    out |= linear(f"{prefix}state_proj", 32, 1024) | linear(f"{prefix}action_time_mlp_in", 2048, 1024)
    return out | linear(f"{prefix}action_time_mlp_out", 1024, 1024)


def write(folder: Path, tokenizer: Path, variant: str = "pi0") -> Path:
    """A folder as lerobot publishes one. `tokenizer`: a tokenizer.json to put beside the weights."""
    folder.mkdir(parents=True)
    (folder / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    picture = {"type": "VISUAL", "shape": [3, 224, 224]}
    document: dict[str, Any] = {
        "type": variant, "paligemma_variant": "gemma_2b", "action_expert_variant": "gemma_300m", "chunk_size": 50,
        "max_action_dim": 32, "max_state_dim": 32, "num_inference_steps": 10, "image_resolution": [224, 224],
        "tokenizer_max_length": 48, "use_relative_actions": False,
        "input_features": {"observation.images.base": picture, "observation.images.wrist": picture,
                           "observation.state": {"type": "STATE", "shape": [8]}},
        "output_features": {"action": {"type": "ACTION", "shape": [8]}},
        "normalization_mapping": {"VISUAL": "IDENTITY", "STATE": "MEAN_STD", "ACTION": "MEAN_STD"},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(document), encoding="utf-8")
    statistics(folder / "policy_preprocessor_step_5_normalizer_processor.safetensors")
    header(folder / "model.safetensors", openpi(variant, "model."))
    return folder


def header(path: Path, shapes: Shapes) -> None:
    """A safetensors file of bfloat16 with these tensors, whose numbers are a hole."""
    at, told = 0, dict[str, Any]()
    for name, shape in shapes.items():
        end = at + 2 * math.prod(shape)
        told[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, end]}
        at = end
    head = json.dumps(told).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(head)) + head)
        file.truncate(8 + len(head) + at)


def statistics(path: Path) -> None:
    """Means of a half and deviations of one, for eight numbers of state and action."""
    at, told, data = 0, dict[str, Any](), b""
    for name, value in (("mean", 0.5), ("std", 1.0)):
        for key in ("observation.state", "action"):
            data += np.full(8, value, np.float32).tobytes()
            told[f"{key}.{name}"] = {"dtype": "F32", "shape": [8], "data_offsets": [at, len(data)]}
            at = len(data)
    head = json.dumps(told).encode()
    path.write_bytes(struct.pack("<Q", len(head)) + head + data)
