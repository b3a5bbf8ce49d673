"""Exchange pairs of rows in place: of all weights of all sites, and of all that is known of their channels."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ecovla_ros.errors import PruningError
from ecovla_ros.kernels.available import triton_runs_on

FACTOR = 16


class Table(NamedTuple):
    """Blocks of one row width and element size, as a kernel finds them. Addresses never change: nothing moves them."""

    base: Tensor
    """The first block: where addresses are counted from."""
    offsets: Tensor
    """(L * blocks,) int64: how far from `base` each block begins, in steps of `factor` elements; a site's together."""
    strides: Tensor
    """(L * blocks,) int64: from row to row, in the same steps."""
    factor: int
    """16 where every row begins at a multiple of so many elements, which a kernel then loads many at a time; else 1."""

    @property
    def width(self) -> int:
        """Elements of a row."""
        return self.base.shape[1]


class RowSwap:
    """Exchanges rows of the same blocks again and again; what a refresh writes with."""

    def __init__(self, blocks: Sequence[Sequence[Tensor]], known: Sequence[Tensor] = ()) -> None:
        """`blocks[l]`: the blocks (C, W) of site l, equally many for each site and alike in shape and dtype.

        `known`: what is known of the rows, each (L, C * unit), contiguous; it goes where the rows go. Raises
        PruningError for blocks whose rows are not contiguous, or that differ from site to site.
        """
        self._blocks, self._known = [list(of_site) for of_site in blocks], list(known)
        if len({tuple((b.shape[1], b.dtype) for b in of_site) for of_site in self._blocks}) != 1:
            raise PruningError("rows are exchanged for sites whose blocks are alike in width and dtype")
        if any(b.shape[1] > 1 and b.stride(1) != 1 for of_site in self._blocks for b in of_site):
            raise PruningError("rows are exchanged in place: the elements of a row must lie side by side")
        channels = len(self._blocks[0][0])
        every = [[*b, *(v[site].view(channels, -1) for v in known)] for site, b in enumerate(self._blocks)]
        self._tables = _tables(every) if triton_runs_on(self._blocks[0][0]) else None

    def apply(self, a: Tensor, b: Tensor, wanted: Tensor) -> None:
        """Exchange rows a[l, i] and b[l, i] of every block of site l where wanted[l, i].

        a, b (L, P) int64, all different in a row; wanted (L, P) bool. On CUDA one kernel for each row width, whose grid
        does not depend on `wanted`: the host waits for nothing. On a CPU the rows that stay are not touched.
        """
        if self._tables is not None:
            swap_rows = importlib.import_module("ecovla_ros.kernels.rows_triton").swap
            pairs = a.contiguous(), b.contiguous(), wanted.contiguous()
            for table in self._tables:
                swap_rows(table, *pairs)
            return
        for blocks, leaving, entering, chosen in zip(self._blocks, a, b, wanted):
            some = chosen.nonzero()[:, 0]
            if len(some):
                for block in blocks:
                    swap(block, leaving[some], entering[some])
        channels = len(self._blocks[0][0])
        for values in self._known:
            travel(values, a, b, wanted, values.shape[1] // channels)


def travel(values: Tensor, a: Tensor, b: Tensor, wanted: Tensor, unit: int) -> None:
    """Exchange places a[l, i] and b[l, i] of `values` (L, C * unit), in place, where wanted[l, i]."""
    blocks = values.unflatten(1, (-1, unit))
    first, second, chosen = (x[..., None].expand(-1, -1, unit) for x in (a, b, wanted))
    out, back = blocks.gather(1, first), blocks.gather(1, second)
    blocks.scatter_(1, first, torch.where(chosen, back, out))
    blocks.scatter_(1, second, torch.where(chosen, out, back))


def swap(block: Tensor, a: Tensor, b: Tensor) -> None:
    """Exchange rows a[i] and b[i] of a block (C, W)."""
    first = block.index_select(0, a)
    block.index_copy_(0, a, block.index_select(0, b))
    block.index_copy_(0, b, first)


def _tables(blocks: Sequence[Sequence[Tensor]]) -> list[Table]:
    shapes = dict.fromkeys((b.shape[1], b.element_size()) for b in blocks[0])
    return [table([[b for b in of_site if (b.shape[1], b.element_size()) == s] for of_site in blocks]) for s in shapes]


def table(blocks: Sequence[Sequence[Tensor]]) -> Table:
    """The table of blocks that are alike in width and element size."""
    every = [b for of_site in blocks for b in of_site]
    base, size = every[0], every[0].element_size()
    offsets = [(b.data_ptr() - base.data_ptr()) // size for b in every]
    strides = [b.stride(0) for b in every]
    aligned = base.data_ptr() % 16 == 0 and all(n % FACTOR == 0 for n in (*offsets, *strides))
    factor = FACTOR if aligned else 1
    starts, rows = (torch.tensor([n // factor for n in numbers], device=base.device) for numbers in (offsets, strides))
    return Table(base, starts, rows, factor)
