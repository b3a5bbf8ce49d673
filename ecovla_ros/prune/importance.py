"""Which channels matter (paper, Eq. 8 and 11). All layers of one shape at once: L layers, R = C * unit rows.

PPsp (Probe Pruning, ICLR 2025): S_c = ||g_c * W[:, c]^2||_2 = g_c * sqrt(sum_i W[i, c]^4). It factorises, so the
weight part is a constant. A head h sums over its rows d: S_h = sqrt(sum_d g_d^2 * sum_i W[i, d]^4).
"""

from __future__ import annotations

import torch
from torch import Tensor


def ppsp_factor(consumer: Tensor) -> Tensor:
    """sum_i W[i, r]^4 of a transposed consumer (R, D). Returns (R,) float32."""
    return consumer.float().pow(4).sum(-1)


def ppsp(energy: Tensor, factor: Tensor, unit: int) -> Tensor:
    """Importance (L, C) from energies and factors (L, R) (Eq. 11)."""
    importance: Tensor = (energy.square() * factor).unflatten(-1, (-1, unit)).sum(-1).sqrt()
    return importance


def wanda_factor(consumer: Tensor) -> Tensor:
    """mean_i |W[i, r]| of a transposed consumer (R, D). Returns (R,) float32."""
    return consumer.float().abs().mean(-1)


def wanda(energy: Tensor, factor: Tensor, unit: int) -> Tensor:
    """Wanda-sp importance (L, C): sum over the rows of a channel of mean_i |W[i, r]| * sqrt(energy[r])."""
    importance: Tensor = (energy.clamp_min(0).sqrt() * factor).unflatten(-1, (-1, unit)).sum(-1)
    return importance


def fuse(history: Tensor, energy: Tensor, alpha: float) -> Tensor:
    """fused = alpha * E + (1 - alpha) * eps (Eq. 9), (L, R)."""
    return torch.lerp(energy, history, alpha)
