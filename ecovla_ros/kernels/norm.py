"""The residual stream takes a branch, and is normed for the next: one kernel where Triton runs."""

from __future__ import annotations

import importlib

import torch
import torch.nn.functional as F
from torch import Tensor


def reference(
    x: Tensor,
    branch: Tensor | None = None,
    gate: Tensor | None = None,
    bias: Tensor | None = None,
    gain: Tensor | None = None,
    shift: Tensor | None = None,
    eps: float = 1e-6,
    offset: float = 0.0,
    centred: bool = False,
    aside: Tensor | None = None,
    tokens: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """As `add_and_norm`, by torch, in float32 until each of the two results is rounded."""
    summed = x
    if branch is not None:
        added = branch.float() if branch.dim() == 2 else branch.float().sum(0)
        added = added if bias is None else added + bias.float()
        summed = (x.float() + (added if gate is None else added * gate.float())).to(x.dtype)
    wide = summed.float()
    weight = None if gain is None else gain.float() + offset
    if centred:
        normed = F.layer_norm(wide, wide.shape[-1:], weight, None, eps)
    else:
        normed = F.rms_norm(wide, wide.shape[-1:], weight, eps)
    normed = (normed if shift is None else normed + shift.float()).to(x.dtype)
    if aside is not None and tokens is not None:
        torch.index_select(normed, 0, tokens, out=aside)
    return summed, normed


def add_and_norm(
    x: Tensor,
    branch: Tensor | None = None,
    gate: Tensor | None = None,
    bias: Tensor | None = None,
    gain: Tensor | None = None,
    shift: Tensor | None = None,
    eps: float = 1e-6,
    offset: float = 0.0,
    centred: bool = False,
    aside: Tensor | None = None,
    tokens: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """x + gate * (branch + bias) and its norm, each (L, D), on a device where Triton runs.

    `branch` (L, D), or (P, L, D) float32: P parts that are summed; None: the first result is x itself. `gate`, `bias`,
    `gain`, `shift` have D values. The norm is by the root of the mean square, `centred`: by the deviation from the
    mean; times (offset + gain), plus shift. `aside` (m, D): gets the normed rows `tokens` (m,) int64.
    """
    kernel = importlib.import_module("ecovla_ros.kernels.norm_triton").add_and_norm
    out: tuple[Tensor, Tensor] = kernel(x, branch, gate, bias, gain, shift, eps, offset, centred, aside, tokens)
    return out
