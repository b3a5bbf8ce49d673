"""Queries and keys get their rotary positions; keys and values go to where attention reads them."""

from __future__ import annotations

import importlib

import torch
from torch import Tensor


def reference(q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """As `place`, by torch."""
    keys.copy_(_turned(k, cos, sin).transpose(0, 1))
    values.copy_(v.transpose(0, 1))
    return _turned(q, cos, sin)


def place(q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Rotated queries (L, heads, head_dim), contiguous, of q of that shape, on a device where Triton runs.

    Writes the rotated k and v (L, G, head_dim) to `keys` and `values` (G, L, head_dim). `cos`, `sin` (L, head_dim),
    contiguous, `sin` with the sign of the half rotation. The last dimension of `keys` and `values` is contiguous, and
    that of q, k, v has one stride.
    """
    out: Tensor = importlib.import_module("ecovla_ros.kernels.rotary_triton").place(q, k, v, cos, sin, keys, values)
    return out


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    wide = x.float()
    swapped = torch.roll(wide, wide.shape[-1] // 2, -1)
    return (wide * cos[:, None].float() + swapped * sin[:, None].float()).to(x.dtype)
