"""Vision transformer layers, the same for every tower: SigLIP of pi0, DINOv2 and SigLIP of Prismatic."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ecovla_ros.kernels.available import triton_runs_on
from ecovla_ros.kernels.choice import KERNEL_CHOICE
from ecovla_ros.kernels.norm import add_and_norm


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
        x = _add(x, self.attended(self.norm1(x)), self.scale1)
        hidden = F.gelu(self.fc1(self.norm2(x)), approximate=self.gelu)
        return _add(x, self.fc2(hidden), self.scale2)

    def attended(self, normed: Tensor) -> Tensor:
        """The attention branch of normed (B, N, width), the same shape."""
        qkv = self.qkv(normed).unflatten(-1, (3, self.heads, -1))
        q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))
        return cast(Tensor, self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)))

    def hidden(self, normed: Tensor) -> Tensor:
        """gelu(fc1) of normed (L, width), the bias and the tanh form in the product where that was found faster."""
        weight, bias = self.fc1.weight, self.fc1.bias
        ways = {"library": lambda w, b: F.gelu(F.linear(normed, w, b), approximate=self.gelu)}
        if self.gelu == "tanh" and normed.is_cuda:
            ways["epilogue"] = lambda w, b: torch._addmm_activation(b, normed, w.t(), use_gelu=True)
        way = KERNEL_CHOICE.of(("vit fc1", self.gelu, *normed.shape, len(weight)), normed, ways, (weight, bias))
        return ways[way](weight, bias)


class VitLayers(nn.ModuleList):
    """The layers of a tower, first to last."""

    if TYPE_CHECKING:

        def __iter__(self) -> Iterator[VitLayer]: ...  # type: ignore[override]

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, width) to the same shape; where Triton runs, residuals and norms are one kernel each time."""
        if torch.is_grad_enabled() or not triton_runs_on(x):
            for layer in self:
                x = layer(x)
            return x
        return _fused(self, x)


def _fused(layers: Sequence[VitLayer], x: Tensor) -> Tensor:
    shape, rows = x.shape, x.flatten(0, 1).contiguous()
    branch: Tensor | None = None
    scale: Tensor | None = None
    for layer in layers:
        rows, normed = _normed(rows, branch, scale, layer.norm1)
        attended = layer.attended(normed.view(shape)).flatten(0, 1)
        rows, normed = _normed(rows, attended, layer.scale1, layer.norm2)
        branch, scale = layer.fc2(layer.hidden(normed)), layer.scale2
    return x if branch is None else _add(rows, branch, scale).view(shape)


def _normed(rows: Tensor, branch: Tensor | None, scale: Tensor | None, norm: nn.LayerNorm) -> tuple[Tensor, Tensor]:
    return add_and_norm(rows, branch, scale, None, norm.weight, norm.bias, norm.eps, centred=True)


def _add(x: Tensor, branch: Tensor, scale: Tensor | None) -> Tensor:
    return x + branch if scale is None else torch.addcmul(x, branch, scale)
