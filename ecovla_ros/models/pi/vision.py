"""Vision towers: images to one token per patch. SigLIP as in pi0, and the small convolutional stem of mini."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ecovla_ros.models.core.vit import VitLayer, run, to_pixels
from ecovla_ros.models.pi.config import STEM_CHANNELS, PiConfig


class Residual(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), 3x3, same size."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(8, channels), nn.GroupNorm(8, channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        return x + self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))


class Stem(nn.Module):
    """Four stride-2 convolutions over colour and two coordinate channels, residual blocks at the last two levels."""

    coordinates: Tensor

    def __init__(self, config: PiConfig) -> None:
        super().__init__()
        widths = (5, *STEM_CHANNELS, config.vision_width)
        levels: list[nn.Module] = []
        for i, (before, after) in enumerate(zip(widths, widths[1:])):
            levels += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(8, after), nn.SiLU()]
            levels += [Residual(after)] if i >= 2 else []
        self.levels = nn.Sequential(*levels)
        self.position = nn.Parameter(torch.randn(config.tokens, config.vision_width) * 0.02)
        self.register_buffer("coordinates", _coordinates(config.image_size), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """uint8 (B, H, W, 3) or float (B, 3, H, W) to tokens (B, N, vision_width)."""
        pixels = to_pixels(images).to(self.coordinates.dtype)
        place = self.coordinates.expand(len(pixels), -1, -1, -1)
        grid = self.levels(torch.cat((pixels, place), 1).contiguous(memory_format=torch.channels_last))
        return grid.flatten(2).transpose(1, 2) + self.position


class Siglip(nn.Module):
    """The vision transformer of pi0 without its pooling head."""

    def __init__(self, config: PiConfig) -> None:
        super().__init__()
        width = config.vision_width
        self.patches = nn.Conv2d(3, width, config.patch, stride=config.patch)
        self.position = nn.Parameter(torch.randn(config.tokens, width) * 0.02)
        self.layers = nn.ModuleList(
            VitLayer(width, config.vision_heads, config.vision_mlp) for _ in range(config.vision_layers)
        )
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, images: Tensor) -> Tensor:
        """uint8 (B, H, W, 3) or float (B, 3, H, W) to tokens (B, N, vision_width)."""
        pixels = to_pixels(images).to(self.patches.weight.dtype)
        x = self.patches(pixels).flatten(2).transpose(1, 2) + self.position
        return run(self.layers, x, self.norm)


def _coordinates(size: int) -> Tensor:
    """Row and column of every pixel in [-1, 1], (1, 2, size, size)."""
    line = torch.linspace(-1.0, 1.0, size)
    return torch.stack(torch.meshgrid(line, line, indexing="ij"))[None]
