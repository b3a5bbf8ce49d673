"""Small models of the pi0 family, and what it takes to run them."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from ecovla_ros.models.base import PolicySpec
from ecovla_ros.models.data.normalise import Normaliser
from ecovla_ros.models.data.prompt import Prompt
from ecovla_ros.models.pi.config import PiConfig
from ecovla_ros.models.pi.model import PiModel
from ecovla_ros.models.pi.policy import PiPolicy
from ecovla_ros.types import Observation

TEXTS = ("place the apple in the basket", "put the pill bottle in the cabinet now")

SMALL = PiConfig(
    image_size=32,
    vision_width=32,
    lm_width=48,
    lm_mlp=96,
    layers=3,
    heads=4,
    kv_heads=2,
    head_dim=8,
    expert_width=32,
    expert_mlp=64,
    horizon=6,
    flow_steps=3,
    max_prompt=8,
    vocab=32,
)
SIGLIP = dataclasses.replace(
    SMALL, vision="siglip", vision_layers=2, vision_heads=4, vision_mlp=64, patch=8, kv_heads=1, optional_cameras=True,
    state_dim=12, action_dim=10,
)  # fmt: skip


def model(config: PiConfig = SMALL, seed: int = 0) -> PiModel:
    torch.manual_seed(seed)
    made = PiModel(config)
    for name, p in made.named_parameters():
        if name.endswith("norm.weight"):
            p.data = 0.2 * torch.randn_like(p)
    return made


def normaliser(horizon: int = SMALL.horizon) -> Normaliser:
    rng = np.random.default_rng(0)
    return Normaliser.fit(rng.normal(size=(50, 8)), rng.normal(0.1, 0.3, size=(50, horizon, 8)))


def spec(config: PiConfig = SMALL) -> PolicySpec:
    cameras = {name: (config.image_size, config.image_size) for name in config.cameras}
    return PolicySpec("small", cameras, config.horizon, 0.1, config.action_dim, "ray", TEXTS)


def policy(config: PiConfig = SMALL, seed: int = 0, **options: object) -> PiPolicy:
    prompt = Prompt.build(TEXTS, config.max_prompt)
    return PiPolicy(model(config, seed), spec(config), normaliser(config.horizon), prompt, **options)


def observation(config: PiConfig = SMALL, seed: int = 0, text: str = TEXTS[0], **changes: object) -> Observation:
    rng = np.random.default_rng(seed)
    shape = (config.image_size, config.image_size, 3)
    images = {name: rng.integers(0, 256, shape, dtype=np.uint8) for name in config.cameras}
    made = Observation(7, images, rng.normal(size=7), 0.25, text)
    return dataclasses.replace(made, **changes)


def noise(config: PiConfig = SMALL, seed: int = 0) -> torch.Tensor:
    return torch.randn(config.horizon, config.action_dim, generator=torch.Generator().manual_seed(seed))


def actions(of: PiPolicy, obs: Observation, plan: object, start: torch.Tensor) -> torch.Tensor:
    seen = of.encode(obs)
    return of.act(seen, of.prefill(seen, plan), plan, start)
