"""X_int of a gated MLP: activation(x gate^T) * (x up^T), with the channel energies (paper, Eq. 8) beside it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ecovla_ros.errors import PruningError, unknown
from ecovla_ros.kernels import float8
from ecovla_ros.kernels.choice import KERNEL_CHOICE
from ecovla_ros.kernels.launch import block_bytes
from ecovla_ros.kernels.sums import Sums


def _gelu(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": _gelu, "silu": F.silu}
"""gelu: the tanh form of Gemma. silu: Llama."""


def reference(
    x: Tensor, gate: Tensor, up: Tensor, activation: str, energy: Tensor | None = None, valid: Tensor | None = None
) -> Tensor:
    """X_int (..., k) of x (..., D) through gate and up (k, D).

    `energy` (k,) float32: the sum over all tokens of X_int^2 is added to it, a token with `valid` (L,) 0 not counted.
    """
    hidden = ACTIVATIONS[activation](F.linear(x, gate)).mul_(F.linear(x, up))
    if energy is not None:
        squares = hidden.flatten(0, -2).float().square()
        energy += squares.sum(0) if valid is None else valid @ squares
    return hidden


def gated(x: Tensor, gate: Tensor, up: Tensor, activation: str) -> Tensor:
    """X_int (..., k) of x (..., D) by torch. Raises PruningError for an unknown activation."""
    if activation not in ACTIVATIONS:
        raise PruningError(unknown("activation", activation, ACTIVATIONS))
    return reference(x, gate, up, activation)


class Small(NamedTuple):
    """Weights (N, D) in e4m3, with a scale for each row."""

    weights: Tensor
    scales: Tensor
    """(N,) float32."""

    def rows(self, first: int, last: int) -> Small:
        """Rows first..last-1."""
        return Small(self.weights[first:last], self.scales[first:last])


def hidden(x: Tensor, weights: Tensor, activation: str, sums: Sums | None = None, small: Small | None = None) -> Tensor:
    """X_int (L, k) of x (L, D) through `weights` (2 k, D), in which rows of gate and up take turns, where Triton runs.

    Few tokens: one kernel, products and all. Many: one product, and one pass over what it gave. The faster of both,
    where warm-up has timed them. `sums` are added to by the same kernel. `small`: the weights in
    e4m3, which many tokens go through instead. Raises PruningError for an unknown activation.
    """
    if activation not in ACTIVATIONS:
        raise PruningError(unknown("activation", activation, ACTIVATIONS))
    many = small is not None and len(x) > FEW
    kernels = importlib.import_module("ecovla_ros.kernels.gated_triton")
    ways: dict[str, Callable[[Tensor], Tensor]] = {}
    if len(x) <= FEW:
        room = block_bytes(x)
        fit = [s for s in FUSED if s[3] * (FEW + 2 * s[0]) * s[1] * x.element_size() <= room]
        ways = {str(s): partial(_fused, kernels.gated, x, activation, sums, s) for s in fit}
    ways |= {f"product {s}": partial(_product, kernels.columns, x, activation, sums, small if many else None, s)
             for s in COLUMNS}  # fmt: skip
    key = ("gated", len(x), len(weights), x.shape[1], many)  # recording or not: a frame computes the same bits
    return ways[KERNEL_CHOICE.of(key, x, ways, (weights,))](weights)


FEW = 64
"""Tokens of one block: up to so many are one kernel."""

FUSED = (
    (32, 128, 4, 4), (16, 128, 4, 4), (32, 64, 4, 6), (16, 256, 4, 3), (16, 128, 4, 6), (32, 128, 8, 4),
    (16, 128, 8, 4),
)  # fmt: skip
"""Channels and inputs of a block, warps, stages."""

COLUMNS = ((64, 32, 4, 3), (32, 64, 4, 3), (32, 32, 2, 4), (64, 64, 8, 2))
"""Tokens and channels of a block, warps, stages where tokens are gone through one block after the other."""


def activated(x: Tensor, kind: str, sums: Sums | None = None) -> Tensor:
    """gelu of x (L, k), kind "gelu_alone" (tanh form) or "gelu_exact", or x itself, "plain"; adds to `sums`."""
    kernel = importlib.import_module("ecovla_ros.kernels.gated_triton").columns
    out: Tensor = kernel(x, kind, sums, (64, 32, 4, 3) if sums is not None else (16, 128, 4, 1))
    return out


def through(x: Tensor, weights: Tensor, bias: Tensor, kind: str, sums: Sums | None = None) -> Tensor:
    """gelu of x (L, D) through `weights` (k, D) and `bias` (k,): (L, k), `kind` and `sums` as `activated` takes them.

    A product and a pass over it, or, of the tanh form on CUDA, where it was timed as faster, a product of the library
    that ends with it; sums are then a pass over what it gave.
    """
    ways: dict[str, Callable[[Tensor], Tensor]] = {"apart": partial(_apart, x, bias, kind, sums)}
    if x.is_cuda and kind == "gelu_alone":
        ways["at once"] = partial(_at_once, x, bias, sums)
    key = ("through", len(x), *weights.shape, kind)
    return ways[KERNEL_CHOICE.of(key, x, ways, (weights,))](weights)


def _apart(x: Tensor, bias: Tensor, kind: str, sums: Sums | None, weights: Tensor) -> Tensor:
    return activated(F.linear(x, weights, bias), kind, sums)


def _at_once(x: Tensor, bias: Tensor, sums: Sums | None, weights: Tensor) -> Tensor:
    out = torch._addmm_activation(bias, x, weights.T, use_gelu=True)
    return out if sums is None else activated(out, "plain", sums)


def _fused(
    kernel: Callable[..., Tensor], x: Tensor, activation: str, sums: Sums | None, shape: object, weights: Tensor
) -> Tensor:
    return kernel(x, weights[0::2], weights[1::2], activation, sums, shape)


def _product(
    kernel: Callable[..., Tensor],
    x: Tensor,
    activation: str,
    sums: Sums | None,
    small: Small | None,
    shape: object,
    weights: Tensor,
) -> Tensor:
    both = F.linear(x, weights) if small is None else float8.linear(x, small.weights, small.scales)
    return kernel(both, activation, sums, shape)
