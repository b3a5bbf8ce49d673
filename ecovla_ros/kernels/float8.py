"""Products in e4m3 with one scale for each row of either side, so that a scale goes where its row goes."""

from __future__ import annotations

import importlib

import torch
from torch import Tensor

from ecovla_ros.kernels.available import triton_runs_on

E4M3 = torch.float8_e4m3fn
LARGEST = 448.0
"""Of e4m3."""


def runs_on(device: torch.device) -> bool:
    """Whether the hardware has such products: CUDA from compute capability 8.9 on."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9)


def by_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """x (N, D) as e4m3 (N, D), and the scales (N,) float32 that its rows are multiplied by: the largest of a row to
    the largest of e4m3. A row of zeros has scale 1."""
    if x.is_cuda and triton_runs_on(x):  # Triton's interpreter rounds e4m3 wrongly where the mantissa carries
        out: tuple[Tensor, Tensor] = importlib.import_module("ecovla_ros.kernels.float8_triton").by_rows(x)
        return out
    wide = x.float()
    largest = wide.abs().amax(1)
    scale = torch.where(largest > 0, largest / LARGEST, torch.ones_like(largest))
    return (wide / scale[:, None]).clamp(-LARGEST, LARGEST).to(E4M3), scale


def linear(x: Tensor, weights: Tensor, scales: Tensor) -> Tensor:
    """x (L, D) through `weights` (N, D) e4m3 with row scales (N,), (L, N) in the type of x.

    On a CPU the same numbers, by products of what the e4m3 values stand for.
    """
    small, scale = by_rows(x)
    if x.is_cuda:
        out: Tensor = torch._scaled_mm(
            small, weights.T, scale_a=scale[:, None], scale_b=scales[None], out_dtype=x.dtype
        )
        return out
    return ((small.float() @ weights.float().T) * scale[:, None] * scales).to(x.dtype)
