"""Row exchange as a Triton kernel: one program per pair and column block; a pair that is not wanted is left at once."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

COLUMNS = 1024


@triton.jit
def _swap(block, a, b, wanted, width, COLUMNS: tl.constexpr):
    pair = tl.program_id(0)
    if tl.load(wanted + pair) != 0:
        columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
        inside = columns < width
        first = block + tl.load(a + pair) * width + columns
        second = block + tl.load(b + pair) * width + columns
        kept = tl.load(first, mask=inside)
        tl.store(first, tl.load(second, mask=inside), mask=inside)
        tl.store(second, kept, mask=inside)


def swap(block: Tensor, a: Tensor, b: Tensor, wanted: Tensor) -> None:
    """Exchange rows a[i] and b[i] of `block` (C, W), contiguous, where wanted[i]. a, b (P,) int64, all different."""
    if not len(a):
        return
    width = block.shape[1]
    _swap[(len(a), triton.cdiv(width, COLUMNS))](block, a, b, wanted, width, COLUMNS=COLUMNS)
