"""Rotary positions into queries and keys, and keys and values where attention reads them, in one kernel."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ecovla_ros.kernels.launch import options
from ecovla_ros.kernels.launch_triton import let_next_begin, wait_for_last


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
