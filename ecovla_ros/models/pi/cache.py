"""Static K/V of one layer at batch 1: prefix, then state token, then actions."""

from __future__ import annotations

import torch
from torch import Tensor

from ecovla_ros.models.pi.config import PiConfig


class Cache:
    """Two buffers (1, kv_heads, max_prefix + 1 + horizon, head_dim), allocated once; addresses never change."""

    def __init__(self, config: PiConfig, like: Tensor) -> None:
        length = config.max_prefix + 1 + config.horizon
        shape = (1, config.kv_heads, length, config.head_dim)
        self.keys = torch.zeros(shape, dtype=like.dtype, device=like.device)
        self.values = torch.zeros_like(self.keys)

    def write(self, start: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Put K and V (1, G, L, head_dim) at `start`, over what lay there. Returns views of all up to start + L."""
        end = start + k.shape[2]
        self.keys[:, :, start:end] = k
        self.values[:, :, start:end] = v
        return self.keys[:, :, :end], self.values[:, :, :end]
