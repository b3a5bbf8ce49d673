"""Static K/V of one layer at batch 1."""

from __future__ import annotations

import torch
from torch import Tensor


class Cache:
    """Two buffers (1, kv_heads, length, head_dim), allocated once; addresses never change.

    A pass whose last heads are pruned with their K and V uses the first heads of the buffers.
    """

    def __init__(self, kv_heads: int, length: int, head_dim: int, like: Tensor) -> None:
        self.keys = torch.zeros((1, kv_heads, length, head_dim), dtype=like.dtype, device=like.device)
        self.values = torch.zeros_like(self.keys)

    def write(self, start: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Put K and V (1, G, L, head_dim) at `start`, over what lay there. Returns views of all up to start + L."""
        heads, end = k.shape[1], start + k.shape[2]
        self.keys[:, :heads, start:end] = k
        self.values[:, :heads, start:end] = v
        return self.keys[:, :heads, :end], self.values[:, :heads, :end]

    def put(self, positions: Tensor, length: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Put K and V (1, G, L, head_dim) at `positions` (L,). Returns views of the first `length` positions."""
        heads = k.shape[1]
        keys, values = self.keys[:, :heads], self.values[:, :heads]
        keys.index_copy_(2, positions, k)
        values.index_copy_(2, positions, v)
        return keys[:, :, :length], values[:, :, :length]
