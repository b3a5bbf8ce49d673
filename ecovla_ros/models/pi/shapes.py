"""Models of the pi0 family with random weights, to measure what a shape costs. Their actions mean nothing."""

from __future__ import annotations

import torch

from ecovla_ros.models.base import PolicySpec
from ecovla_ros.models.pi.config import PiConfig
from ecovla_ros.models.pi.model import PiModel
from ecovla_ros.models.pi.normalise import Normaliser
from ecovla_ros.models.pi.policy import PiPolicy
from ecovla_ros.models.pi.prompt import Prompt

TEXT = "pick up the red apple beside the blue mug and place it gently in the round wicker basket"
"""Eighteen words, one token each."""

PI0_MID = PiConfig(
    optional_cameras=True, vision="siglip", image_size=224, patch=14, vision_width=384, vision_layers=8, vision_heads=6,
    vision_mlp=1536, vocab=2048, max_prompt=200, lm_width=1024, lm_mlp=4096, layers=8, heads=8, kv_heads=1, head_dim=128,
    expert_width=512, expert_mlp=2048, state_dim=32, action_dim=32, horizon=50, flow_steps=10,
)  # fmt: skip
"""A twentieth of pi0 with its proportions, for two cores: LM 8 x 1024, expert 8 x 512, chunks of 50, ten flow steps."""


def pi0_mid(device: torch.device, dtype: torch.dtype, seed: int, bucket: int = 1) -> PiPolicy:
    """`PI0_MID` with normal weights of a seed, and normalisation that changes nothing."""
    torch.manual_seed(seed)
    return wrapped(PiModel(PI0_MID).to(device=device, dtype=dtype), bucket)


def wrapped(model: PiModel, bucket: int = 1) -> PiPolicy:
    """A policy around a model without a checkpoint: identity normalisation, a tokenizer of the words of `TEXT`."""
    config = model.config
    cameras = {name: (config.image_size, config.image_size) for name in config.cameras}
    spec = PolicySpec("random weights", cameras, config.horizon, 0.1, config.action_dim, instructions=(TEXT,))
    row = ((0.0,) * 8,) * config.horizon
    ones = (1.0,) * 8
    normaliser = Normaliser((0.0,) * 8, ones, row, (ones,) * config.horizon)
    return PiPolicy(model, spec, normaliser, Prompt.build([TEXT], config.max_prompt), bucket=bucket)
