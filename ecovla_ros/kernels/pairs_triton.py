"""Keys that one sort ranks all slots by, and the pairs of slots read off what it gave."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 256

# Numbers are not specialised: a first pattern has more pairs than later ones, whose job is captured without having run.


@triton.jit(do_not_specialize=["total", "channels", "kept"])
def _keys(importance, keys, total, channels, kept, GROUPS: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    known = i < total
    bits = tl.load(importance + i, mask=known, other=0.0).to(tl.int32, bitcast=True)
    order = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # whole numbers that compare as the floats do
    site = i // channels
    slot = i - site * channels
    outside = slot >= kept
    order = tl.where(outside, -1 - order, order)  # kept slots: worst first; the others: best first
    segment = (site * GROUPS + slot % GROUPS) * 2 + outside.to(tl.int32)
    tl.store(keys + i, (segment.to(tl.int64) << 32) + (order.to(tl.int64) + 2147483648), mask=known)


@triton.jit(do_not_specialize=["total", "channels", "kept", "of_site"])
def _pairs(
    importance, order, leaving, entering, wanted, total, channels, kept, of_site, margin,
    GROUPS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    j = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    known = j < total
    site = j // of_site
    place = j - site * of_site
    pair, group = place // GROUPS, place % GROUPS
    first = site * channels + group * (channels // GROUPS) + pair
    worst = tl.load(order + first, mask=known, other=0)
    best = tl.load(order + first + kept // GROUPS, mask=known, other=0)
    leaves = tl.load(importance + worst, mask=known, other=0.0)
    enters = tl.load(importance + best, mask=known, other=0.0)
    tl.store(leaving + j, worst - site * channels, mask=known)
    tl.store(entering + j, best - site * channels, mask=known)
    tl.store(wanted + j, enters > leaves * margin, mask=known)


def keys(importance: Tensor, kept: int, groups: int) -> Tensor:
    """(L * C,) int64 of `importance` (L, C) float32, contiguous: sorted, the slots of a site lie together; in them
    those of a group; in these the kept ones, worst first, and then the others, best first."""
    out = torch.empty(importance.numel(), dtype=torch.int64, device=importance.device)
    _keys[(triton.cdiv(len(out), BLOCK),)](
        importance, out, len(out), importance.shape[1], kept, GROUPS=groups, BLOCK=BLOCK
    )
    return out


def pairs(
    importance: Tensor, order: Tensor, kept: int, groups: int, count: int, margin: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Leaving and entering (L, count * groups) int64, wanted likewise, bool; `order` (L * C,): what sorts the keys."""
    layers, channels = importance.shape
    shape = (layers, count * groups)
    leaving, entering = (torch.empty(shape, dtype=torch.int64, device=importance.device) for _ in range(2))
    wanted = torch.empty(shape, dtype=torch.bool, device=importance.device)
    total = leaving.numel()
    if total:
        _pairs[(triton.cdiv(total, BLOCK),)](
            importance, order, leaving, entering, wanted, total, channels, kept, count * groups, margin,
            GROUPS=groups, BLOCK=BLOCK,
        )  # fmt: skip
    return leaving, entering, wanted
