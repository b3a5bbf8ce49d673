"""Prismatic's eyes: two vision transformers on one image, their tokens side by side, and a projector."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ecovla_ros.models.core.vit import VitLayer, run, to_pixels
from ecovla_ros.models.prismatic.config import PrismaticConfig, TowerConfig


class Tower(nn.Module):
    """Patch tokens before the last block, without a final norm (timm's `get_intermediate_layers`, next to last block).

    The last block, the norm and the pooling head of the published tower are read by nothing and do not exist.
    """

    gain: Tensor
    shift: Tensor

    def __init__(self, config: TowerConfig, tokens: int, patch: int) -> None:
        super().__init__()
        width = config.width
        self.patches = nn.Conv2d(3, width, patch, stride=patch)
        self.position = nn.Parameter(torch.randn(tokens, width) * 0.02)
        self.prefix = nn.Parameter(torch.randn(config.prefix, width) * 0.02) if config.prefix else None
        self.layers = nn.ModuleList(
            VitLayer(width, config.heads, config.mlp, "none", config.scaled) for _ in range(config.layers)
        )
        mean, std = (torch.tensor(v, dtype=torch.float32).view(1, 3, 1, 1) for v in (config.mean, config.std))
        self.register_buffer("gain", 0.5 / std, persistent=False)
        self.register_buffer("shift", (0.5 - mean) / std, persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) in [-1, 1] to tokens (B, N, width). The prefix has no position."""
        image = torch.addcmul(self.shift.float(), pixels, self.gain.float()).to(self.patches.weight.dtype)
        x = self.patches(image).flatten(2).transpose(1, 2) + self.position
        before = 0 if self.prefix is None else len(self.prefix)
        if self.prefix is not None:
            x = torch.cat((self.prefix.expand(len(x), -1, -1), x), 1)
        return run(self.layers, x)[:, before:]


class Vision(nn.Module):
    """All towers."""

    def __init__(self, config: PrismaticConfig) -> None:
        super().__init__()
        self.towers = nn.ModuleList(Tower(tower, config.tokens, config.patch) for tower in config.towers)

    def forward(self, images: Tensor) -> Tensor:
        """uint8 (B, H, W, 3) or float (B, 3, H, W) in [-1, 1] to tokens (B, N, vision_width)."""
        pixels = to_pixels(images)
        return torch.cat([tower(pixels) for tower in self.towers], 2)


class Projector(nn.Module):
    """Vision tokens to language-model tokens: three layers with GELU between, the first four times as wide."""

    def __init__(self, vision_width: int, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(vision_width, 4 * vision_width)
        self.fc2, self.fc3 = nn.Linear(4 * vision_width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, vision_width) to (B, N, width)."""
        return self.fc3(F.gelu(self.fc2(F.gelu(self.fc1(x)))))
