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

    def at(self, start: int) -> At:
        """Takes K and V of a pass at `start`, as `write` does."""
        return At(self, start)

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


class At:
    """A place in a cache, called with K and V as they are, or written to where `room` says."""

    def __init__(self, cache: Cache, start: int) -> None:
        self._cache, self._start = cache, start

    def __call__(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """`Cache.write` at this place."""
        return self._cache.write(self._start, k, v)

    def room(self, heads: int, length: int) -> tuple[Tensor, Tensor]:
        """Where K and V of a pass of `length` tokens belong, (heads, length, head_dim) each."""
        here = slice(self._start, self._start + length)
        return self._cache.keys[0, :heads, here], self._cache.values[0, :heads, here]

    def all(self, heads: int, length: int) -> tuple[Tensor, Tensor]:
        """What `write` gives."""
        end = self._start + length
        return self._cache.keys[:, :heads, :end], self._cache.values[:, :heads, :end]
