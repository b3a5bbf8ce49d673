"""A branch added to the residual stream, and the norm of the sum, in one pass over a row.

Blocks behind the last row compute rows again that a probe samples, and leave them aside: recording costs no kernel.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ecovla_ros.kernels.launch import options
from ecovla_ros.kernels.launch_triton import ask_for, let_next_begin, wait_for_last


@triton.jit
def _norm(
    x, branch, gate, bias, gain, shift, summed, out, aside, tokens, length, width, eps, offset, part_size,
    BRANCH: tl.constexpr, GATE: tl.constexpr, BIAS: tl.constexpr, GAIN: tl.constexpr, SHIFT: tl.constexpr,
    CENTRED: tl.constexpr, ASIDE: tl.constexpr, PARTS: tl.constexpr, BLOCK: tl.constexpr, LINES: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    if EARLY:
        let_next_begin()
        line = tl.minimum(tl.arange(0, LINES) * 32, width - 1)  # of float32; they lie in memory, not in a cache
        if GAIN:
            ask_for(gain + line)
        if SHIFT:
            ask_for(shift + line)
        if BRANCH and GATE:
            ask_for(gate + line)
        wait_for_last()
    program = tl.program_id(0)
    row = program
    if ASIDE:  # noqa: SIM102 - known when the kernel is compiled
        if program >= length:
            row = tl.load(tokens + program - length).to(tl.int32)
    n = tl.arange(0, BLOCK)
    inside = n < width
    value = tl.load(x + row * width + n, mask=inside, other=0.0)
    kind = value.dtype
    # all is asked for before the first sum over the row, at whose barrier whatever comes behind it would wait
    if GAIN:
        gains = tl.load(gain + n, mask=inside, other=0.0)
    if SHIFT:
        shifts = tl.load(shift + n, mask=inside, other=0.0)
    if BRANCH:
        if BIAS:
            biases = tl.load(bias + n, mask=inside, other=0.0)
        if GATE:
            gates = tl.load(gate + n, mask=inside, other=0.0)
        added = tl.load(branch + row * width + n, mask=inside, other=0.0).to(tl.float32)
        for part in tl.static_range(1, PARTS):
            added += tl.load(branch + part * part_size + row * width + n, mask=inside, other=0.0).to(tl.float32)
    value = value.to(tl.float32)
    if BRANCH:
        if BIAS:
            added += biases.to(tl.float32)
        if GATE:
            added *= gates.to(tl.float32)
        rounded = (value + added).to(kind)
        if program < length:
            tl.store(summed + row * width + n, rounded, mask=inside)
        value = rounded.to(tl.float32)
    if CENTRED:
        value = tl.where(inside, value - tl.sum(value, 0) / width, 0.0)
    value *= tl.rsqrt(tl.sum(value * value, 0) / width + eps)
    if GAIN:
        value *= gains.to(tl.float32) + offset
    if SHIFT:
        value += shifts.to(tl.float32)
    if program < length:
        tl.store(out + row * width + n, value.to(kind), mask=inside)
    if ASIDE:  # noqa: SIM102 - known when the kernel is compiled
        if program >= length:
            tl.store(aside + (program - length) * width + n, value.to(kind), mask=inside)


FEW = 256
"""Rows of which each may have sixteen warps, and all still run at once on a large GPU."""


def _warps(length: int, width: int) -> int:
    """Many, so that a thread has few values of each operand and asks for all of them before it uses any."""
    return 4 if width <= 512 else 16 if length <= FEW and width >= 1024 else 8


def add_and_norm(
    x: Tensor,
    branch: Tensor | None,
    gate: Tensor | None,
    bias: Tensor | None,
    gain: Tensor | None,
    shift: Tensor | None,
    eps: float,
    offset: float,
    centred: bool,
    aside: Tensor | None,
    tokens: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """See `kernels.norm.add_and_norm`; all contiguous."""
    length, width = x.shape
    out = torch.empty_like(x)
    summed = x if branch is None else torch.empty_like(x)
    parts = 1 if branch is None or branch.dim() == 2 else len(branch)
    sampled = 0 if aside is None else len(aside)

    def given(tensor: Tensor | None) -> Tensor:
        return x if tensor is None else tensor

    _norm[(length + sampled,)](
        x, given(branch), given(gate), given(bias), given(gain), given(shift), summed, out, given(aside),
        given(tokens), length, width, eps, offset, length * width,
        BRANCH=branch is not None, GATE=gate is not None, BIAS=bias is not None, GAIN=gain is not None,
        SHIFT=shift is not None, CENTRED=centred, ASIDE=aside is not None, PARTS=parts,
        BLOCK=triton.next_power_of_2(width), LINES=triton.next_power_of_2(triton.cdiv(width, 32)),
        num_warps=_warps(length, width), **options(x),
    )  # fmt: skip
    return summed, out
