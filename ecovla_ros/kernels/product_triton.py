"""Products of few rows: the weights are read once, by as many programs as fill the GPU.

Where the outputs are too few for that, the inputs are cut too, and every part of the sum is left in float32 for the
kernel that reads it, which sums them in order: nothing is added by atomics, and no kernel is there for the sum alone.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ecovla_ros.kernels.launch import options
from ecovla_ros.kernels.launch_triton import ask_for, let_next_begin, wait_for_last


@triton.jit
def _thin(
    x, weights, out, length, depth, width, x_row, to_input, to_output, chunk, part_size,
    INPUTS_ADJACENT: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    CHUNK: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    m = tl.arange(0, BLOCK_M)
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    rows, columns = m < length, n < width
    first = tl.program_id(1) * chunk
    last = tl.minimum(first + chunk, depth)
    if EARLY:
        let_next_begin()
        if INPUTS_ADJACENT:  # a line of memory holds 64 weights
            line = tl.minimum(first + tl.arange(0, CHUNK // 64) * 64, last - 1)
            ask_for(weights + tl.minimum(n, width - 1)[:, None] * to_output + line[None, :])
        else:
            line = tl.minimum(first + tl.arange(0, CHUNK), last - 1)
            ask_for(weights + line * to_input + tl.program_id(0) * BLOCK_N)
        wait_for_last()
    sums = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for start in range(first, last, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        inside = k < last
        part = tl.load(x + m[:, None] * x_row + k[None, :], mask=rows[:, None] & inside[None, :], other=0.0)
        where = n[None, :] * to_output + k[:, None] if INPUTS_ADJACENT else k[:, None] * to_input + n[None, :]
        some = tl.load(weights + where, mask=inside[:, None] & columns[None, :], other=0.0)
        sums += tl.dot(part, some, input_precision="ieee")
    target = out + tl.program_id(1) * part_size + m[:, None] * width + n[None, :]
    tl.store(target, sums.to(out.dtype.element_ty), mask=rows[:, None] & columns[None, :])


def thin(x: Tensor, weights: Tensor, shape: tuple[int, int, int, int, int]) -> Tensor:
    """x (L, K) @ weights (K, N), L at most 64: (L, N), or with more than one part (P, L, N) float32.

    `weights` may be the transpose of a contiguous matrix. `shape`: outputs and inputs of a block, parts, warps, stages.
    """
    block_n, block_k, parts, warps, stages = shape
    (length, depth), width = x.shape, weights.shape[1]
    chunk = triton.cdiv(triton.cdiv(depth, parts), block_k) * block_k
    parts = triton.cdiv(depth, chunk)
    kind = x.dtype if parts == 1 else torch.float32
    out = torch.empty((length, width) if parts == 1 else (parts, length, width), dtype=kind, device=x.device)
    _thin[(triton.cdiv(width, block_n), parts)](
        x, weights, out, length, depth, width, x.stride(0), weights.stride(0), weights.stride(1), chunk,
        length * width, INPUTS_ADJACENT=weights.stride(0) == 1 and weights.stride(1) != 1,
        BLOCK_M=max(16, triton.next_power_of_2(length)), BLOCK_N=block_n, BLOCK_K=block_k,
        CHUNK=max(64, triton.next_power_of_2(chunk)), num_warps=warps, num_stages=stages, **options(x),
    )  # fmt: skip
    return out
