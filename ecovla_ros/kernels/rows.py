"""Exchange pairs of rows in place."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from torch import Tensor

from ecovla_ros.kernels.available import triton_runs_on


def swap_all(blocks: Sequence[Tensor], a: Tensor, b: Tensor, wanted: Tensor) -> None:
    """Exchange rows a[i] and b[i] of every block (C, W) where wanted[i]. a, b (P,) int64, all different.

    On CUDA one kernel per block, whose grid does not depend on `wanted`: the host waits for nothing. On a CPU the rows
    that stay are not touched.
    """
    if triton_runs_on(a):
        kernels = importlib.import_module("ecovla_ros.kernels.rows_triton")
        for block in blocks:
            kernels.swap(block, a, b, wanted)
        return
    some = wanted.nonzero()[:, 0]
    if len(some):
        for block in blocks:
            swap(block, a[some], b[some])


def swap(block: Tensor, a: Tensor, b: Tensor) -> None:
    """Exchange rows a[i] and b[i] of a block (C, W)."""
    first = block.index_select(0, a)
    block.index_copy_(0, a, block.index_select(0, b))
    block.index_copy_(0, b, first)
