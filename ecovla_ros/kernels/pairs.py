"""Which slots change places, by one sort of all sites of a shape, where Triton runs."""

from __future__ import annotations

import importlib

import torch
from torch import Tensor


def ranked(importance: Tensor, kept: int, groups: int, pairs: int, margin: float) -> tuple[Tensor, Tensor, Tensor]:
    """As `prune.select.exchange`: leaving, entering and wanted, each (L, pairs * groups), of `importance` (L, C).

    One key for each slot holds its site, its group, whether it is kept, and how its importance compares: one sort of
    whole numbers then ranks all of them, in a number of kernels that depends on nothing.
    """
    kernels = importlib.import_module("ecovla_ros.kernels.pairs_triton")
    importance = importance.contiguous()
    order: Tensor = torch.sort(kernels.keys(importance, kept, groups)).indices
    out: tuple[Tensor, Tensor, Tensor] = kernels.pairs(importance, order, kept, groups, pairs, margin)
    return out
