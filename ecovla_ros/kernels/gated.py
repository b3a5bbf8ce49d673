"""X_int of a gated MLP: activation(x gate^T) * (x up^T), with the channel energies (paper, Eq. 8) beside it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from torch import Tensor

from ecovla_ros.errors import PruningError, unknown
from ecovla_ros.kernels.available import triton_runs_on
from ecovla_ros.kernels.choice import KERNEL_CHOICE


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


def gated(
    x: Tensor, gate: Tensor, up: Tensor, activation: str, energy: Tensor | None = None, valid: Tensor | None = None
) -> Tensor:
    """As `reference`, through the kernel where it was found faster. Raises PruningError for an unknown activation."""
    if activation not in ACTIVATIONS:
        raise PruningError(unknown("activation", activation, ACTIVATIONS))
    if not triton_runs_on(x):
        return reference(x, gate, up, activation, energy, valid)
    kernel = importlib.import_module("ecovla_ros.kernels.gated_triton").gated
    ways = {"torch": partial(_with, reference, x, activation), "fused": partial(_with, kernel, x, activation)}
    shape = x.numel() // x.shape[-1], len(gate), x.shape[-1]
    if KERNEL_CHOICE.of(("gated", *shape), x, ways, (gate, up)) == "fused":
        out: Tensor = kernel(x, gate, up, activation, energy, valid)
        return out
    return reference(x, gate, up, activation, energy, valid)


def _with(way: Callable[..., Tensor], x: Tensor, activation: str, gate: Tensor, up: Tensor) -> Tensor:
    """Without energies, as a way is timed."""
    return way(x, gate, up, activation)
