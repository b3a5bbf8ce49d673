"""Gate, up, activation, product and the sums over tokens in one Triton kernel, for all sites of a shape at once.

A program owns some channels of one site and goes over all sampled tokens, so that nothing is added up across programs:
the sums do not depend on the order in which they run.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ecovla_ros.kernels.rows import Table

BLOCK_N, BLOCK_K = 32, 64
"""Channels of one program, and inputs of one step. Tokens of one step: 32 or 64, by how many there are."""


@triton.jit
def _sums(
    inputs, gates, gate_offsets, gate_strides, ups, up_offsets, up_strides, out, tokens, width, first, rows,
    SILU: tl.constexpr, FACTOR: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    site = tl.program_id(1)
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    columns = n < rows
    # multiplied by a constant here, so that the compiler knows rows to be aligned
    gate_stride, up_stride = tl.load(gate_strides + site) * FACTOR, tl.load(up_strides + site) * FACTOR
    gate = gates + tl.load(gate_offsets + site) * FACTOR + (first + n)[:, None] * gate_stride
    up = ups + tl.load(up_offsets + site) * FACTOR + (first + n)[:, None] * up_stride
    x = inputs + site.to(tl.int64) * tokens * width
    squares = tl.zeros((BLOCK_N,), dtype=tl.float32)
    values = tl.zeros((BLOCK_N,), dtype=tl.float32)
    for start_m in range(0, tokens, BLOCK_M):
        m = start_m + tl.arange(0, BLOCK_M)
        gated = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
        upped = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
        for start in range(0, width, BLOCK_K):
            k = start + tl.arange(0, BLOCK_K)
            inside = k < width
            part = tl.load(x + m[:, None] * width + k[None, :], mask=(m < tokens)[:, None] & inside[None, :], other=0.0)
            mask = columns[:, None] & inside[None, :]
            gated += tl.dot(part, tl.trans(tl.load(gate + k[None, :], mask=mask, other=0.0)), input_precision="ieee")
            upped += tl.dot(part, tl.trans(tl.load(up + k[None, :], mask=mask, other=0.0)), input_precision="ieee")
        if SILU:
            active = gated * tl.sigmoid(gated)
        else:  # gelu, tanh form: tanh(y) = 2 sigmoid(2 y) - 1
            y = 0.7978845608028654 * (gated + 0.044715 * gated * gated * gated)
            active = gated * tl.sigmoid(2.0 * y)
        hidden = (active * upped).to(inputs.dtype.element_ty).to(tl.float32)  # 0 for a token beyond the last
        squares += tl.sum(hidden * hidden, axis=0)
        values += tl.sum(hidden, axis=0)
    place = out + site * rows + n
    tl.store(place, squares, mask=columns)
    tl.store(place + tl.num_programs(1) * rows, values, mask=columns)


def sums(inputs: Tensor, gates: Table, ups: Table, first: int, rows: int, activation: str) -> Tensor:
    """See `kernels.probe.GatedProbe.sums`; `inputs` (L, n, D) contiguous."""
    sites, tokens, width = inputs.shape
    assert gates.factor == ups.factor, "gate and up lie alike"
    out = torch.empty((2, sites, rows), dtype=torch.float32, device=inputs.device)
    if rows:
        grid = (triton.cdiv(rows, BLOCK_N), sites)
        _sums[grid](
            inputs, gates.base, gates.offsets, gates.strides, ups.base, ups.offsets, ups.strides, out,
            tokens, width, first, rows, SILU=activation == "silu", FACTOR=gates.factor,
            BLOCK_M=64 if tokens > 32 else 32, BLOCK_N=BLOCK_N, BLOCK_K=BLOCK_K,
            num_stages=4,
        )  # fmt: skip
    return out
