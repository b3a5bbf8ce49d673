"""Small Prismatic models, and the same arithmetic from transformers' parts."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from ecovla_ros.models.base import PolicySpec
from ecovla_ros.models.cogact.model import CogactConfig, CogactModel
from ecovla_ros.models.cogact.policy import CogactPolicy
from ecovla_ros.models.data.normalise import Normaliser
from ecovla_ros.models.data.prompt import Prompt
from ecovla_ros.models.openvla_oft.model import OftModel
from ecovla_ros.models.openvla_oft.policy import OftPolicy
from ecovla_ros.models.prismatic.config import IMAGENET_MEAN, IMAGENET_STD, PrismaticConfig, TowerConfig
from ecovla_ros.models.prismatic.prompt import QUESTION, QuestionPrompt
from ecovla_ros.types import Observation
from support.pi_models import actions, noise  # noqa: F401  the same for every family

TEXTS = ("Place the apple in the basket", "put the pill bottle in the cabinet now")
SHAPE = {
    "fit": "area", "image_size": 28, "vocab": 96, "max_prompt": 24, "width": 64, "mlp": 128, "layers": 4, "heads": 4,
    "head_dim": 16,
    "towers": (
        TowerConfig(24, 3, 2, 48, prefix=5, scaled=True, mean=IMAGENET_MEAN, std=IMAGENET_STD),
        TowerConfig(32, 2, 4, 56),
    ),
}  # fmt: skip
OFT = PrismaticConfig(**SHAPE, horizon=3)
COGACT = CogactConfig(**SHAPE, horizon=5, dit_width=32, dit_layers=3, dit_heads=4)
BEGIN, EMPTY, END = 1, 91, 2


def shaken(model, seed):
    """Every weight away from its starting value: no norm at one, no bias at zero, no scale at one."""
    g = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        p.data += 0.1 * torch.randn(p.shape, generator=g)
    return model


def policy(family, seed=0, **options):
    torch.manual_seed(seed)
    config = {"oft": OFT, "cogact": COGACT}[family]
    config = dataclasses.replace(config, **options.pop("config", {}))
    closing = (EMPTY,) if family == "oft" else (EMPTY, END)
    words = Prompt.build([QUESTION.format(t) for t in TEXTS], config.max_prompt).tokenizer
    prompt = QuestionPrompt(words, config.max_prompt, BEGIN, closing)
    cameras = {name: (config.image_size, config.image_size) for name in config.cameras}
    spec = PolicySpec("small", cameras, config.horizon, 0.1, config.action_dim, "any", TEXTS)
    rng = np.random.default_rng(0)
    normaliser = Normaliser.fit(rng.normal(size=(50, 8)), rng.normal(0.1, 0.3, size=(50, config.horizon, 8)))
    if family == "oft":
        return OftPolicy(shaken(OftModel(config, END), seed), spec, normaliser, prompt, **options)
    return CogactPolicy(shaken(CogactModel(config), seed), spec, normaliser, prompt, **options)


def observation(config, seed=0, text=TEXTS[0]):
    rng = np.random.default_rng(seed)
    shape = (config.image_size, config.image_size, 3)
    images = {name: rng.integers(0, 256, shape, dtype=np.uint8) for name in config.cameras}
    return Observation(7, images, rng.normal(size=7), 0.25, text)


def llama(model, config, sequence, causal):
    """transformers' Llama with the weights of `model` over `sequence` (1, S, width): normed hidden states."""
    from transformers import LlamaConfig, LlamaModel

    shape = LlamaConfig(
        vocab_size=config.vocab, hidden_size=config.width, intermediate_size=config.mlp,
        num_hidden_layers=config.layers, num_attention_heads=config.heads, head_dim=config.head_dim,
        rms_norm_eps=config.norm_eps, attn_implementation="eager", max_position_embeddings=512,
    )  # fmt: skip
    theirs = LlamaModel(shape).eval()
    weights = {"embed_tokens.weight": model.embedding, "norm.weight": model.norm.weight}
    for i, block in enumerate([*model.lm, model.lm_last]):
        attention, mlp = block.attention, block.mlp
        weights |= {f"layers.{i}.self_attn.{n}_proj.weight": getattr(attention, n) for n in "qkv"}
        weights |= {f"layers.{i}.mlp.{n}_proj.weight": getattr(mlp, n) for n in ("gate", "up")}
        weights |= {f"layers.{i}.self_attn.o_proj.weight": attention.o.T}
        weights |= {f"layers.{i}.mlp.down_proj.weight": mlp.down.T}
        weights |= {f"layers.{i}.input_layernorm.weight": attention.norm.weight}
        weights |= {f"layers.{i}.post_attention_layernorm.weight": block.norm.weight}
    theirs.load_state_dict(weights, strict=True)
    length = sequence.shape[1]
    allowed = torch.ones(length, length, dtype=torch.bool)
    allowed = allowed.tril() if causal else allowed
    bias = torch.zeros(1, 1, length, length).masked_fill(~allowed, torch.finfo(torch.float32).min)
    return theirs(inputs_embeds=sequence, attention_mask=bias).last_hidden_state


def towers(model, config, images):
    """transformers' DINOv2 with registers and SigLIP on uint8 `images` (B, H, W, 3): tokens side by side."""
    from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel, SiglipVisionConfig, SiglipVisionModel

    pixels = images.permute(0, 3, 1, 2).float() / 255
    out = []
    for tower, shape in zip(model.vision.towers, config.towers):
        common = {"hidden_size": shape.width, "num_hidden_layers": shape.layers, "num_attention_heads": shape.heads,
                  "image_size": config.image_size, "patch_size": config.patch, "hidden_act": "gelu",
                  "layer_norm_eps": 1e-6}  # fmt: skip
        if shape.prefix:
            common |= {"mlp_ratio": shape.mlp // shape.width, "num_register_tokens": shape.prefix - 1}
            theirs = Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**common))
            weights = _dinov2(tower)
        else:
            theirs = SiglipVisionModel(SiglipVisionConfig(**common, intermediate_size=shape.mlp, vision_use_head=False))
            weights = _siglip(tower)
        names = {k.replace("vision_model.", ""): k for k in theirs.state_dict()}
        unread = {"layernorm.weight", "layernorm.bias", "post_layernorm.weight", "post_layernorm.bias",
                  "embeddings.mask_token"}  # fmt: skip
        assert names.keys() - unread == weights.keys()
        theirs.eval().load_state_dict({names[k]: w for k, w in weights.items()}, strict=False)
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (shape.mean, shape.std))
        hidden = theirs((pixels - mean) / std, output_hidden_states=True).hidden_states[-1]
        out.append(hidden[:, shape.prefix :])
    return torch.cat(out, 2)


def _dinov2(tower):
    cls, registers = tower.prefix[:1], tower.prefix[1:]
    position = torch.cat((torch.zeros_like(cls), tower.position))  # timm gives class token and registers no position
    out = {
        "embeddings.cls_token": cls[None], "embeddings.register_tokens": registers[None],
        "embeddings.position_embeddings": position[None],
        "embeddings.patch_embeddings.projection.weight": tower.patches.weight,
        "embeddings.patch_embeddings.projection.bias": tower.patches.bias,
    }  # fmt: skip
    for i, layer in enumerate(tower.layers):
        at = f"encoder.layer.{i}."
        for kind in ("weight", "bias"):
            out |= {f"{at}norm{j}.{kind}": getattr(getattr(layer, f"norm{j}"), kind) for j in (1, 2)}
            out |= {f"{at}mlp.fc{j}.{kind}": getattr(getattr(layer, f"fc{j}"), kind) for j in (1, 2)}
            parts = getattr(layer.qkv, kind).chunk(3)
            out |= {f"{at}attention.attention.{n}.{kind}": p for n, p in zip(("query", "key", "value"), parts)}
            out[f"{at}attention.output.dense.{kind}"] = getattr(layer.out, kind)
        out |= {f"{at}layer_scale{j}.lambda1": getattr(layer, f"scale{j}") for j in (1, 2)}
    return out


def _siglip(tower):
    out = {
        "embeddings.patch_embedding.weight": tower.patches.weight,
        "embeddings.patch_embedding.bias": tower.patches.bias,
        "embeddings.position_embedding.weight": tower.position,
    }
    for i, layer in enumerate(tower.layers):
        at = f"encoder.layers.{i}."
        for kind in ("weight", "bias"):
            out |= {f"{at}layer_norm{j}.{kind}": getattr(getattr(layer, f"norm{j}"), kind) for j in (1, 2)}
            out |= {f"{at}mlp.fc{j}.{kind}": getattr(getattr(layer, f"fc{j}"), kind) for j in (1, 2)}
            parts = getattr(layer.qkv, kind).chunk(3)
            out |= {f"{at}self_attn.{n}_proj.{kind}": p for n, p in zip("qkv", parts)}
            out[f"{at}self_attn.out_proj.{kind}"] = getattr(layer.out, kind)
    return out
