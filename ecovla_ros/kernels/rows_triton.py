"""Row exchange as one Triton kernel for many blocks of memory, found by a table of where they lie."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ecovla_ros.kernels.rows import Table

COLUMNS = 1024
PAIRS = 8
"""Pairs of one program. Wanted pairs come first, so that most programs read one word and leave."""

ELEMENTS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Bytes of an element -> the type it is copied as: an exchange needs no arithmetic."""


@triton.jit(do_not_specialize=["pairs"])  # a first pattern has more: what is captured has been compiled by then
def _swap(
    base, offsets, strides, a, b, wanted, pairs, width,
    BLOCKS: tl.constexpr, FACTOR: tl.constexpr, PAIRS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    block = tl.program_id(2)
    site = block // BLOCKS
    these = tl.program_id(0) * PAIRS + tl.arange(0, PAIRS)
    some = tl.load(wanted + site * pairs + these, mask=these < pairs, other=0)
    if tl.max(some.to(tl.int32), axis=0) != 0:
        # multiplied by a constant here, so that the compiler knows rows to be aligned
        here = base + tl.load(offsets + block) * FACTOR
        stride = tl.load(strides + block) * FACTOR
        columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
        inside = columns < width
        for i in range(PAIRS):
            pair = tl.program_id(0) * PAIRS + i
            if tl.load(wanted + site * pairs + pair, mask=pair < pairs, other=0) != 0:
                first = here + tl.load(a + site * pairs + pair) * stride + columns
                second = here + tl.load(b + site * pairs + pair) * stride + columns
                kept = tl.load(first, mask=inside)
                tl.store(first, tl.load(second, mask=inside), mask=inside)
                tl.store(second, kept, mask=inside)


def swap(table: Table, a: Tensor, b: Tensor, wanted: Tensor) -> None:
    """Exchange rows a[l, i] and b[l, i] of every block of site l where wanted[l, i].

    a, b (L, P) int64, all different in a row; wanted (L, P) bool; contiguous.
    """
    sites, pairs = a.shape
    if not pairs:
        return
    base = table.base.view(ELEMENTS[table.base.element_size()])
    grid = (triton.cdiv(pairs, PAIRS), triton.cdiv(table.width, COLUMNS), len(table.offsets))
    _swap[grid](
        base, table.offsets, table.strides, a, b, wanted, pairs, table.width,
        BLOCKS=len(table.offsets) // sites, FACTOR=table.factor, PAIRS=PAIRS, COLUMNS=COLUMNS,
    )  # fmt: skip
