"""Row exchange as one Triton kernel for many blocks of memory, found by a table of their addresses."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

COLUMNS = 1024
PAIRS = 8
"""Pairs of one program. Wanted pairs come first, so that most programs read one word and leave."""

ELEMENTS = {1: tl.int8, 2: tl.int16, 4: tl.int32, 8: tl.int64}
"""Bytes of an element -> the type it is copied as: an exchange needs no arithmetic."""


@triton.jit
def _swap(
    addresses, strides, a, b, wanted, pairs, width,
    BLOCKS: tl.constexpr, ELEMENT: tl.constexpr, ALIGNED: tl.constexpr, PAIRS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    block = tl.program_id(2)
    site = block // BLOCKS
    these = tl.program_id(0) * PAIRS + tl.arange(0, PAIRS)
    some = tl.load(wanted + site * pairs + these, mask=these < pairs, other=0)
    if tl.max(some.to(tl.int32), axis=0) != 0:
        address, stride = tl.load(addresses + block), tl.load(strides + block)
        if ALIGNED:
            address, stride = tl.multiple_of(address, 16), tl.multiple_of(stride, 16)
        base = address.to(tl.pointer_type(ELEMENT))
        columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
        inside = columns < width
        for i in range(PAIRS):
            pair = tl.program_id(0) * PAIRS + i
            if tl.load(wanted + site * pairs + pair, mask=pair < pairs, other=0) != 0:
                first = base + tl.load(a + site * pairs + pair) * stride + columns
                second = base + tl.load(b + site * pairs + pair) * stride + columns
                kept = tl.load(first, mask=inside)
                tl.store(first, tl.load(second, mask=inside), mask=inside)
                tl.store(second, kept, mask=inside)


def swap(
    addresses: Tensor, strides: Tensor, itemsize: int, aligned: bool, width: int, a: Tensor, b: Tensor, wanted: Tensor
) -> None:
    """Exchange rows a[l, i] and b[l, i] of every block of site l where wanted[l, i].

    `addresses`, `strides` (L * blocks,) int64: where a block begins, and elements from row to row; blocks of a site lie
    together. `width`: elements of a row, of `itemsize` bytes. `aligned`: addresses and rows begin at multiples of 16
    elements' worth. a, b (L, P) int64, all different in a row; wanted (L, P) bool; contiguous.
    """
    sites, pairs = a.shape
    if not pairs:
        return
    grid = (triton.cdiv(pairs, PAIRS), triton.cdiv(width, COLUMNS), len(addresses))
    _swap[grid](
        addresses, strides, a, b, wanted, pairs, width,
        BLOCKS=len(addresses) // sites, ELEMENT=ELEMENTS[itemsize], ALIGNED=aligned, PAIRS=PAIRS, COLUMNS=COLUMNS,
    )  # fmt: skip
