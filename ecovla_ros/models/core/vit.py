"""Vision transformer layers, the same for every tower: SigLIP of pi0, DINOv2 and SigLIP of Prismatic."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ecovla_ros.kernels.available import triton_runs_on
from ecovla_ros.kernels.gated import through
from ecovla_ros.models.core.fused import Flow
from ecovla_ros.prune.site import SiteUse


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
        return _add(x, self.fc2(F.gelu(self.fc1(self.norm2(x)), approximate=self.gelu)), self.scale2)

    def attended(self, normed: Tensor) -> Tensor:
        """(B, N, width) to the attention's branch, of that shape."""
        qkv = self.qkv(normed).unflatten(-1, (3, self.heads, -1))
        q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    def through(self, flow: Flow, shape: torch.Size) -> Flow:
        """As `forward`, of a stream (B * N, width) and its branch, by few kernels; `shape`: (B, N, width)."""
        x, normed = flow.normed(self.norm1, None, NOTHING)
        flow = Flow(x, self.attended(normed.view(shape)).view(x.shape), None, self.scale1)
        x, normed = flow.normed(self.norm2, None, NOTHING)
        kind = "gelu_alone" if self.gelu == "tanh" else "gelu_exact"
        hidden = through(normed, self.fc1.weight, self.fc1.bias, kind)
        return Flow(x, self.fc2(hidden), None, self.scale2)


NOTHING = SiteUse()


def run(layers: Iterable[nn.Module], x: Tensor, norm: nn.LayerNorm | None = None) -> Tensor:
    """x (B, N, width) through `layers`, and the `norm` behind them; by few kernels where Triton runs."""
    if not triton_runs_on(x) or torch.is_grad_enabled():
        for layer in layers:
            x = layer(x)
        return x if norm is None else norm(x)
    flow = Flow(x.reshape(-1, x.shape[-1]))
    for layer in layers:
        assert isinstance(layer, VitLayer)
        flow = layer.through(flow, x.shape)
    return (flow.taken() if norm is None else flow.normed(norm, None, NOTHING)[1]).view(x.shape)


def _add(x: Tensor, branch: Tensor, scale: Tensor | None) -> Tensor:
    return x + branch if scale is None else torch.addcmul(x, branch, scale)
