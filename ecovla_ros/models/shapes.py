"""Policies of a named shape with random weights: what latency is measured on, and what needs no checkpoint.

Full shapes are those of the published models with the actions of this package's arm, seven joints and the gripper.
Reduced shapes keep the anatomy (towers, depth ratios, heads, chunk) at a width that two CPU cores run.
"""

from __future__ import annotations

import dataclasses
import string
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from torch import nn

from ecovla_ros.models.base import PolicySpec
from ecovla_ros.models.cogact.model import CogactConfig, CogactModel
from ecovla_ros.models.cogact.policy import CogactPolicy
from ecovla_ros.models.data.normalise import Normaliser
from ecovla_ros.models.data.prompt import UNKNOWN, Prompt, state_prompt
from ecovla_ros.models.data.statistics import Affine, OtherArmUnits, Statistics
from ecovla_ros.models.openvla_oft.model import OftModel
from ecovla_ros.models.openvla_oft.policy import OftPolicy
from ecovla_ros.models.pi.config import PiConfig
from ecovla_ros.models.pi.model import PiModel
from ecovla_ros.models.pi.policy import PiPolicy
from ecovla_ros.models.prismatic.config import IMAGENET_MEAN, IMAGENET_STD, PrismaticConfig, TowerConfig
from ecovla_ros.models.prismatic.prompt import BEGIN, EMPTY, END, QUESTION, QuestionPrompt

Device = str | torch.device
Model = TypeVar("Model", bound=nn.Module)

TEXT = "place the apple in the basket"
"""The instruction the bench measures with; the tokenizer of a shape knows its words."""

LONG_TEXT = "pick up the red apple beside the blue mug and place it gently in the round wicker basket"
"""The instruction of `pi0-mid`: eighteen words, as long as people's."""

PI0 = PiConfig(
    vision="siglip", fit="pad", image_size=224, patch=14, vision_width=1152, vision_layers=27, vision_heads=16,
    vision_mlp=4304,
    vocab=257_152, max_prompt=48, lm_width=2048, lm_mlp=16_384, layers=18, heads=8, kv_heads=1, head_dim=256,
    expert_width=1024, expert_mlp=4096, state_dim=32, action_dim=32, horizon=50, flow_steps=10,
)  # fmt: skip
PI0_MID = dataclasses.replace(
    PI0, vision_width=384, vision_layers=8, vision_heads=6, vision_mlp=1536, vocab=2048, lm_width=1024, lm_mlp=4096,
    layers=8, head_dim=128, expert_width=512, expert_mlp=2048,
)  # fmt: skip
"""A twentieth of pi0, for two cores: LM 8 x 1024, expert 8 x 512; cameras, heads, chunk and flow steps as published."""
PI05 = dataclasses.replace(PI0, variant="pi05", max_prompt=200)
PI0_REDUCED = dataclasses.replace(
    PI0, vision_width=288, vision_layers=4, vision_heads=4, vision_mlp=1088, vocab=1024, lm_width=384, lm_mlp=3072,
    layers=6, head_dim=48, expert_width=192, expert_mlp=768,
)  # fmt: skip
"""Widths and layers are less, images and chunks as published: products of the expert with fewer than its 50 rows run at
a third of the prefill's speed on a CPU, and would hide what pruning does. Multiply-accumulates of the action head are
0.29 of the prefill's here, 0.17 in pi0; those of the vision tower 0.22 and 0.21."""
PI05_REDUCED = dataclasses.replace(PI0_REDUCED, variant="pi05", max_prompt=64)

OFT = PrismaticConfig()
REDUCED_TOWERS = (
    TowerConfig(256, 4, 4, 1024, prefix=5, scaled=True, mean=IMAGENET_MEAN, std=IMAGENET_STD),
    TowerConfig(288, 4, 4, 1088),
)
OFT_REDUCED = PrismaticConfig(
    image_size=112, towers=REDUCED_TOWERS, vocab=1024, width=512, mlp=1376, layers=8, heads=16, head_dim=32
)
COGACT = CogactConfig()
COGACT_REDUCED = CogactConfig(
    towers=REDUCED_TOWERS, vocab=1024, width=512, mlp=1376, layers=8, heads=16, head_dim=32,
    dit_width=192, dit_layers=4, dit_heads=6,
)  # fmt: skip


def pi0(device: Device, dtype: torch.dtype, seed: int, bucket: int = 1) -> PiPolicy:
    """pi0 as published: PaliGemma 2B with a 300M expert."""
    return _pi("pi0", PI0, device, dtype, seed, bucket)


def pi0_mid(device: Device, dtype: torch.dtype, seed: int, bucket: int = 1) -> PiPolicy:
    """pi0 at 157 M parameters."""
    return _pi("pi0-mid", PI0_MID, device, dtype, seed, bucket)


def pi05(device: Device, dtype: torch.dtype, seed: int, bucket: int = 1) -> PiPolicy:
    """pi0.5 as published."""
    return _pi("pi05", PI05, device, dtype, seed, bucket)


def pi0_reduced(device: Device, dtype: torch.dtype, seed: int, bucket: int = 1) -> PiPolicy:
    """pi0 at reduced width."""
    return _pi("pi0-reduced", PI0_REDUCED, device, dtype, seed, bucket)


def pi05_reduced(device: Device, dtype: torch.dtype, seed: int, bucket: int = 1) -> PiPolicy:
    """pi0.5 at reduced width."""
    return _pi("pi05-reduced", PI05_REDUCED, device, dtype, seed, bucket)


def openvla_oft(device: Device, dtype: torch.dtype, seed: int, bucket: int = 1) -> OftPolicy:
    """OpenVLA-OFT as published for two cameras and the state: 7B."""
    return _oft("openvla-oft", OFT, device, dtype, seed, bucket)


def openvla_oft_reduced(device: Device, dtype: torch.dtype, seed: int, bucket: int = 1) -> OftPolicy:
    """OpenVLA-OFT at reduced width."""
    return _oft("openvla-oft-reduced", OFT_REDUCED, device, dtype, seed, bucket)


def libero(device: Device, dtype: torch.dtype, seed: int, bucket: int = 1) -> OftPolicy:
    """OpenVLA-OFT at reduced width with LIBERO's state and actions, to try a harness without a checkpoint."""
    config = dataclasses.replace(OFT_REDUCED, action_dim=7, max_prompt=256)
    model = random_weights(lambda: OftModel(config, END), device, dtype, seed)
    of = Statistics(Affine(np.zeros(8), np.ones(8)), Affine(np.zeros(7), np.full(7, 0.1)), "quantiles", "made up")
    prompt = QuestionPrompt(_letters(), config.max_prompt, BEGIN, (config.vocab - 1,))
    spec = dataclasses.replace(_spec("libero", config), instructions=())
    return OftPolicy(model, spec, OtherArmUnits(of, config.horizon), prompt, bucket=bucket)


def cogact(device: Device, dtype: torch.dtype, seed: int, bucket: int = 1) -> CogactPolicy:
    """CogACT-Base as published: 7B with DiT-B."""
    return _cogact("cogact", COGACT, device, dtype, seed, bucket)


def cogact_reduced(device: Device, dtype: torch.dtype, seed: int, bucket: int = 1) -> CogactPolicy:
    """CogACT at reduced width."""
    return _cogact("cogact-reduced", COGACT_REDUCED, device, dtype, seed, bucket)


def random_weights(make: Callable[[], Model], device: Device, dtype: torch.dtype, seed: int) -> Model:
    """What `make` builds, its weights drawn where and as they will run; torch's generator stays as it was."""
    before = torch.get_default_dtype()
    with torch.random.fork_rng(_cuda(device)), torch.device(device):
        torch.manual_seed(seed)
        torch.set_default_dtype(dtype)
        try:
            return make()
        finally:
            torch.set_default_dtype(before)


def _cuda(device: Device) -> list[torch.device]:
    place = torch.device(device)
    return [place] if place.type == "cuda" else []


def _pi(name: str, config: PiConfig, device: Device, dtype: torch.dtype, seed: int, bucket: int) -> PiPolicy:
    return around(name, random_weights(lambda: PiModel(config), device, dtype, seed), bucket)


def around(name: str, model: PiModel, bucket: int = 1) -> PiPolicy:
    """A policy of a model that comes without a checkpoint: statistics and a tokenizer made up here."""
    config = model.config
    text = LONG_TEXT if name == "pi0-mid" else TEXT
    words = text if config.variant == "pi0" else state_prompt(text, range(-1, 256))
    prompt = Prompt.build([words], config.max_prompt)
    return PiPolicy(model, _spec(name, config, text), _statistics(config.horizon), prompt, bucket=bucket)


def _oft(name: str, config: PrismaticConfig, device: Device, dtype: torch.dtype, seed: int, bucket: int) -> OftPolicy:
    model = random_weights(lambda: OftModel(config, END), device, dtype, seed)
    prompt = _question(config, ())
    return OftPolicy(model, _spec(name, config), _statistics(config.horizon), prompt, bucket=bucket)


def _cogact(
    name: str, config: CogactConfig, device: Device, dtype: torch.dtype, seed: int, bucket: int
) -> CogactPolicy:
    model = random_weights(lambda: CogactModel(config), device, dtype, seed)
    prompt = _question(config, (END,))
    return CogactPolicy(model, _spec(name, config), _statistics(config.horizon), prompt, bucket=bucket)


def _question(config: PrismaticConfig, closing: tuple[int, ...]) -> QuestionPrompt:
    words = Prompt.build([QUESTION.format(TEXT)], config.max_prompt).tokenizer
    empty = EMPTY if config.vocab > EMPTY else config.vocab - 1
    return QuestionPrompt(words, config.max_prompt, BEGIN, (empty, *closing))


def _letters() -> Tokenizer:
    """One token for each printable character: for free text without a vocabulary of words."""
    ids = {letter: i + 3 for i, letter in enumerate(string.printable)} | {UNKNOWN: 0}
    tokenizer = Tokenizer(WordLevel(ids, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = Split(Regex(r"[\s\S]"), "isolated")
    return tokenizer


def _spec(name: str, config: PiConfig | PrismaticConfig, text: str = TEXT) -> PolicySpec:
    cameras = {camera: (config.image_size, config.image_size) for camera in config.cameras}
    return PolicySpec(name, cameras, config.horizon, 0.1, config.action_dim, instructions=(text,))


def _statistics(horizon: int) -> Normaliser:
    """Actions of at most a few hundredths of a radian, so that no weights, however random, ask for a leap."""
    ones, zeros, small = (1.0,) * 8, (0.0,) * 8, (0.02,) * 8
    return Normaliser(zeros, ones, (zeros,) * horizon, (small,) * horizon)
