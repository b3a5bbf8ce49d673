"""Queries and keys get their rotary positions; keys and values go to where attention reads them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from ecovla_ros.kernels.choice import KERNEL_CHOICE
from ecovla_ros.kernels.product import FEW, linear

PROJECTED = ((16, 128, 4, 4), (16, 256, 4, 3), (32, 128, 4, 4), (16, 64, 4, 6), (16, 128, 8, 4))
"""Pairs of outputs and inputs of a block, warps, stages."""


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


def project(x: Tensor, weights: Tensor, cos: Tensor, sin: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Rotated queries (L, heads, head_dim) of x (L, D), and its keys and values where attention reads them.

    `weights` (N, D): the rows of V of every group, then of K, then of Q of every head. As a product and `place`, or for
    few rows in one kernel, where warm-up has timed that as faster. `keys`, `values` (G, L, head_dim) are written to.
    """
    ways: dict[str, Callable[[Tensor], Written]] = {"apart": partial(_apart, x, cos, sin, keys, values)}
    if len(x) <= FEW:
        kernel = importlib.import_module("ecovla_ros.kernels.rotary_triton").project
        ways |= {str(shape): partial(_at_once, kernel, x, cos, sin, keys, values, shape) for shape in PROJECTED}
    key = ("project", len(x), *weights.shape, *keys.shape)
    return ways[KERNEL_CHOICE.of(key, x, ways, (weights,))](weights)[0]


Written = tuple[Tensor, Tensor, Tensor]
"""Queries, keys and values: what a way makes, and by which ways are compared."""


def _apart(x: Tensor, cos: Tensor, sin: Tensor, keys: Tensor, values: Tensor, weights: Tensor) -> Written:
    groups, _, head_dim = keys.shape
    parts = linear(x, weights).unflatten(-1, (-1, head_dim))
    queries = place(parts[:, 2 * groups :], parts[:, groups : 2 * groups], parts[:, :groups], cos, sin, keys, values)
    return queries, keys, values


def _at_once(
    kernel: Callable[..., Tensor],
    x: Tensor,
    cos: Tensor,
    sin: Tensor,
    keys: Tensor,
    values: Tensor,
    shape: object,
    weights: Tensor,
) -> Written:
    return kernel(x, weights, cos, sin, keys, values, shape), keys, values


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    wide = x.float()
    swapped = torch.roll(wide, wide.shape[-1] // 2, -1)
    return (wide * cos[:, None].float() + swapped * sin[:, None].float()).to(x.dtype)
