"""Products of the rows of a layer with its weights, by the library or, for few rows, by a kernel of our own."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from ecovla_ros.kernels.choice import KERNEL_CHOICE
from ecovla_ros.kernels.norm import add_and_norm

FEW = 64
"""Rows of one block: above, the library's kernels are as good as any."""

PARTS = (
    (32, 128, 4, 4, 4), (64, 64, 8, 4, 4), (64, 128, 4, 4, 4), (32, 128, 8, 4, 3), (32, 64, 4, 4, 6),
    (32, 128, 4, 8, 4), (64, 64, 8, 8, 4),
)  # fmt: skip
"""Outputs and inputs of a block, parts of the sum, warps, stages."""

WHOLE = ((16, 256, 1, 4, 3), (16, 128, 1, 4, 5), (32, 128, 1, 4, 4), (32, 64, 1, 4, 6), (32, 128, 1, 8, 4))


def branch(hidden: Tensor, weights: Tensor) -> Tensor:
    """hidden (L, K) @ weights (K, N) for `norm.add_and_norm`: (L, N), or (P, L, N) float32 in parts to be summed."""
    ways: dict[str, Callable[[Tensor], Tensor]] = {"torch": partial(torch.matmul, hidden)}
    if len(hidden) <= min(FEW, len(weights)):
        ways |= _thin(hidden, PARTS)
    key = ("branch", len(hidden), *weights.shape)
    timed = {name: partial(_with_norm, way, len(hidden)) for name, way in ways.items()}
    return ways[KERNEL_CHOICE.of(key, hidden, timed, (weights,))](weights)


def linear(x: Tensor, weights: Tensor) -> Tensor:
    """x (L, K) through weights (N, K) to (L, N)."""
    ways: dict[str, Callable[[Tensor], Tensor]] = {"torch": partial(torch.nn.functional.linear, x)}
    if len(x) <= FEW:
        ways |= {name: partial(_transposed, way) for name, way in _thin(x, WHOLE).items()}
    return ways[KERNEL_CHOICE.of(("linear", len(x), *weights.shape), x, ways, (weights,))](weights)


def _thin(x: Tensor, shapes: tuple[tuple[int, ...], ...]) -> dict[str, Callable[[Tensor], Tensor]]:
    thin = importlib.import_module("ecovla_ros.kernels.product_triton").thin
    return {str(shape): partial(_by_kernel, thin, x, shape) for shape in shapes}


def _by_kernel(thin: Callable[..., Tensor], x: Tensor, shape: tuple[int, ...], weights: Tensor) -> Tensor:
    return thin(x, weights, shape)


def _transposed(way: Callable[[Tensor], Tensor], weights: Tensor) -> Tensor:
    return way(weights.T)


def _with_norm(way: Callable[[Tensor], Tensor], length: int, weights: Tensor) -> object:
    """What is timed: parts cost the norm behind them some time too. Any rows serve as the stream."""
    return add_and_norm(weights[:length], way(weights))
