"""Rotary positions into queries and keys, and keys and values where attention reads them, in one kernel.

For few rows the product that makes them is in it too: a program owns pairs of outputs that turn into one another.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ecovla_ros.kernels.launch import options
from ecovla_ros.kernels.launch_triton import ask_for, let_next_begin, wait_for_last


@triton.jit
def _place(
    q, k, v, cos, sin, queries, keys, values, length, heads, groups,
    q_row, q_head, k_row, k_head, v_row, v_head, keys_group, keys_row, values_group, values_row,
    HALF: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_L: tl.constexpr, STEP: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    if EARLY:
        let_next_begin()
        wait_for_last()
    row = tl.program_id(0) * BLOCK_L + tl.arange(0, BLOCK_L)
    which = tl.program_id(1)
    h = tl.arange(0, BLOCK_H)
    inside = (row < length)[:, None] & (h < HALF)[None, :]
    if which < heads:
        source = q + row[:, None] * q_row + which * q_head + h[None, :] * STEP
        target = queries + (row[:, None] * heads + which) * (2 * HALF) + h[None, :]
    elif which < heads + groups:
        source = k + row[:, None] * k_row + (which - heads) * k_head + h[None, :] * STEP
        target = keys + (which - heads) * keys_group + row[:, None] * keys_row + h[None, :]
    else:
        source = v + row[:, None] * v_row + (which - heads - groups) * v_head + h[None, :] * STEP
        target = values + (which - heads - groups) * values_group + row[:, None] * values_row + h[None, :]
    left = tl.load(source, mask=inside, other=0.0)
    right = tl.load(source + HALF * STEP, mask=inside, other=0.0)
    if which < heads + groups:
        table = row[:, None] * (2 * HALF) + h[None, :]
        first, second = left.to(tl.float32), right.to(tl.float32)
        turned = first * tl.load(cos + table, mask=inside, other=0.0).to(tl.float32)
        turned += second * tl.load(sin + table, mask=inside, other=0.0).to(tl.float32)
        other = second * tl.load(cos + table + HALF, mask=inside, other=0.0).to(tl.float32)
        other += first * tl.load(sin + table + HALF, mask=inside, other=0.0).to(tl.float32)
        left, right = turned.to(left.dtype), other.to(right.dtype)
    tl.store(target, left, mask=inside)
    tl.store(target + HALF, right, mask=inside)


@triton.jit
def _project(
    x, weights, cos, sin, queries, keys, values, length, width, heads, groups, weight_row,
    keys_group, keys_row, values_group, values_row,
    HALF: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, LINES: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    which = tl.program_id(1)  # values come first, then keys, then queries
    m = tl.arange(0, BLOCK_M)
    h = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    rows, columns = m < length, h < HALF
    first = weights + (which * (2 * HALF) + h) * weight_row
    second = first + HALF * weight_row
    if EARLY:
        let_next_begin()
        line = tl.minimum(tl.arange(0, LINES) * 64, width - 1)  # a line of memory holds 64 weights
        lines = (which * (2 * HALF) + tl.minimum(h, HALF - 1))[:, None] * weight_row + line[None, :]
        ask_for(weights + lines)
        ask_for(weights + HALF * weight_row + lines)
        wait_for_last()
    # the tables are asked for before the products, and are there when these are done; values are not turned
    written = rows[:, None] & columns[None, :]
    turns = written & (which >= groups)
    table = m[:, None] * (2 * HALF) + h[None, :]
    cos_one = tl.load(cos + table, mask=turns, other=0.0)
    cos_other = tl.load(cos + table + HALF, mask=turns, other=0.0)
    sin_one = tl.load(sin + table, mask=turns, other=0.0)
    sin_other = tl.load(sin + table + HALF, mask=turns, other=0.0)
    left = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    right = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for start in range(0, width, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        inside = k < width
        part = tl.load(x + m[:, None] * width + k[None, :], mask=rows[:, None] & inside[None, :], other=0.0)
        mask = columns[None, :] & inside[:, None]
        some = tl.load(first[None, :] + k[:, None], mask=mask, other=0.0)
        left += tl.dot(part, some, input_precision="ieee")
        some = tl.load(second[None, :] + k[:, None], mask=mask, other=0.0)
        right += tl.dot(part, some, input_precision="ieee")
    kind = queries.dtype.element_ty
    one, other = left.to(kind), right.to(kind)  # rounded as a product rounds
    if which >= groups:
        left, right = one.to(tl.float32), other.to(tl.float32)
        turned = left * cos_one.to(tl.float32) + right * sin_one.to(tl.float32)
        back = right * cos_other.to(tl.float32) + left * sin_other.to(tl.float32)
        one, other = turned.to(kind), back.to(kind)
    if which < groups:
        target = values + which * values_group + m[:, None] * values_row + h[None, :]
    elif which < 2 * groups:
        target = keys + (which - groups) * keys_group + m[:, None] * keys_row + h[None, :]
    else:
        target = queries + (m[:, None] * heads + which - 2 * groups) * (2 * HALF) + h[None, :]
    tl.store(target, one, mask=written)
    tl.store(target + HALF, other, mask=written)


def project(
    x: Tensor, weights: Tensor, cos: Tensor, sin: Tensor, keys: Tensor, values: Tensor, shape: tuple[int, int, int, int]
) -> Tensor:
    """See `kernels.rotary.project`; x (L, D), L at most 64. `shape`: pairs of outputs and inputs of a block, warps,
    stages."""
    (length, width), (groups, _, head_dim) = x.shape, keys.shape
    every = len(weights) // head_dim
    heads = every - 2 * groups
    queries = torch.empty((length, heads, head_dim), dtype=x.dtype, device=x.device)
    block_n, block_k, warps, stages = shape
    _project[(triton.cdiv(head_dim // 2, block_n), every)](
        x, weights, cos, sin, queries, keys, values, length, width, heads, groups, weights.stride(0),
        keys.stride(0), keys.stride(1), values.stride(0), values.stride(1),
        HALF=head_dim // 2, BLOCK_M=max(16, triton.next_power_of_2(length)), BLOCK_N=block_n, BLOCK_K=block_k,
        LINES=triton.next_power_of_2(triton.cdiv(width, 64)), num_warps=warps, num_stages=stages, **options(x),
    )  # fmt: skip
    return queries


def place(q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """See `kernels.rotary.place`."""
    (length, heads, width), groups = q.shape, k.shape[1]
    queries = torch.empty((length, heads, width), dtype=q.dtype, device=q.device)
    block = 4 if length >= 256 else 1
    _place[(triton.cdiv(length, block), heads + 2 * groups)](
        q, k, v, cos, sin, queries, keys, values, length, heads, groups,
        q.stride(0), q.stride(1), k.stride(0), k.stride(1), v.stride(0), v.stride(1),
        keys.stride(0), keys.stride(1), values.stride(0), values.stride(1),
        HALF=width // 2, BLOCK_H=triton.next_power_of_2(width // 2), BLOCK_L=block, STEP=q.stride(2),
        num_warps=4 if block > 1 else 1, **options(q),
    )  # fmt: skip
    return queries
