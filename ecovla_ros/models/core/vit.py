"""Vision transformer layers, the same for every tower: SigLIP of pi0, DINOv2 and SigLIP of Prismatic."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def to_pixels(images: Tensor) -> Tensor:
    """uint8 (B, H, W, 3) to float32 (B, 3, H, W) in [-1, 1]; float (B, 3, H, W) already in [-1, 1] passes through."""
    if images.dtype != torch.uint8:
        return images
    return images.permute(0, 3, 1, 2).float().mul_(2.0 / 255.0).sub_(1.0)


class VitLayer(nn.Module):
    """Pre-norm attention and MLP with biases. `qkv` rows: all of Q, all of K, all of V."""

    def __init__(self, width: int, heads: int, mlp: int, gelu: str = "tanh", scaled: bool = False) -> None:
        """`gelu`: "tanh" or "none" (exact). `scaled`: a branch is scaled per channel (DINOv2's LayerScale)."""
        super().__init__()
        self.heads, self.gelu = heads, gelu
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, mlp), nn.Linear(mlp, width)
        self.scale1, self.scale2 = (nn.Parameter(torch.ones(width)) if scaled else None for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, width) to the same shape."""
        qkv = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1))
        q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))
        attended = self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        x = _add(x, attended, self.scale1)
        return _add(x, self.fc2(F.gelu(self.fc1(self.norm2(x)), approximate=self.gelu)), self.scale2)


def _add(x: Tensor, branch: Tensor, scale: Tensor | None) -> Tensor:
    return x + branch if scale is None else torch.addcmul(x, branch, scale)
