"""Attention over keys of which one stretch may be padding: one kernel, or split over the keys and merged by a second.

Few query rows fill few blocks: with one KV head and 400 rows 7 of 132 multiprocessors work. Splitting the keys fills
the GPU; each part leaves its sum, its maximum and its weight, and a second kernel puts them together, or the program
that is the last of its rows does. The order of every sum is fixed.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ecovla_ros.kernels.launch import knows_descriptors, options
from ecovla_ros.kernels.launch_triton import ask_for, let_next_begin, wait_for_last

try:
    from triton.tools.tensor_descriptor import TensorDescriptor
except ImportError:  # before Triton 3.4, which torch 2.8 brings: `knows_descriptors` says so
    TensorDescriptor = None


class Shape(NamedTuple):
    """How a call is cut into blocks."""

    rows: int
    """Query rows of one block."""
    keys: int
    """Keys of one step."""
    splits: int
    warps: int
    stages: int
    alone: bool = False
    """Whether the last program of some rows merges their parts: no second kernel, and a counter for each of them."""
    described: bool = False
    """Whether keys and values come by descriptor, which one thread asks for: no warp counts addresses. From Hopper on,
    and where they lie so (`describable`); elsewhere they are loaded as ever."""


MERGED = 4096
"""Values of all parts that one program merges, about: 16 for each of its threads."""

COUNTERS = 1024
"""Blocks of rows that may be counted at once."""

_counters: dict[tuple[torch.device, int], Tensor] = {}


def counters(like: Tensor) -> Tensor | None:
    """Zeros, which every call leaves as zeros, for the calls of one stream: these do not run at the same time.

    None for a stream that has none yet and is being captured: a graph's memory is nobody else's.
    """
    stream = torch.cuda.current_stream(like.device).stream_id if like.is_cuda else 0
    key = (like.device, stream)
    if key not in _counters:
        if like.is_cuda and torch.cuda.is_current_stream_capturing():
            return None
        with torch.inference_mode(False):
            _counters[key] = torch.zeros(COUNTERS, dtype=torch.int32, device=like.device)
    return _counters[key]


def describable(t: Tensor) -> bool:
    """Whether keys or values (G, S, head_dim) can be read by descriptor."""
    apart = all(stride * t.element_size() % 16 == 0 and stride > 0 for stride in t.stride()[:-1])
    return knows_descriptors(t) and t.stride(2) == 1 and apart and t.data_ptr() % 16 == 0 and t.shape[2] <= 256


@triton.jit
def _attend(
    q, k, v, key_memory, value_memory, out, top, weight, merged, counter, gap, positions, length, keys, chunk, scale,
    q_row, q_head, k_group, k_row, v_group, v_row, out_split, STEP: tl.constexpr,
    GROUPS: tl.constexpr, RANK: tl.constexpr, WIDTH: tl.constexpr, BLOCK_D: tl.constexpr,
    GAP: tl.constexpr, CAUSAL: tl.constexpr, PLACED: tl.constexpr, SPLIT: tl.constexpr,
    ALONE: tl.constexpr, DESCRIBED: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, LINES: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    segment, group, split = tl.program_id(1) // GROUPS, tl.program_id(1) % GROUPS, tl.program_id(2)
    if EARLY:
        let_next_begin()
        if SPLIT:  # keys of a prefix lie in memory: since they were read last, all weights were
            line = tl.minimum(tl.arange(0, LINES) * 64, WIDTH - 1) * STEP
            first_keys = segment * keys + tl.minimum(split * chunk + tl.arange(0, BLOCK_N), keys - 1)
            ask_for(key_memory + group * k_group + first_keys[:, None] * k_row + line[None, :])
            ask_for(value_memory + group * v_group + first_keys[:, None] * v_row + line[None, :])
        wait_for_last()
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    there = row < length * RANK
    place = segment * length + row // RANK
    head = (row % RANK) * GROUPS + group
    d = tl.arange(0, BLOCK_D)
    inside = d < WIDTH
    queries = tl.load(
        q + place[:, None] * q_row + head[:, None] * q_head + d[None, :] * STEP,
        mask=there[:, None] & inside[None, :], other=0.0,
    )  # fmt: skip
    start = split * chunk
    end = tl.minimum(start + chunk, keys)
    at = row // RANK
    if CAUSAL:
        if PLACED:
            at = tl.load(positions + place, mask=there, other=0).to(tl.int32)
        end = tl.minimum(end, tl.max(tl.where(there, at, 0), 0) + 1)
    first, last = keys, keys
    if GAP:
        first, last = tl.load(gap), tl.load(gap + 1)
    if not DESCRIBED:
        k += group * k_group + segment * keys * k_row
        v += group * v_group + segment * keys * v_row
    highest = tl.full((BLOCK_M,), float("-inf"), dtype=tl.float32)
    total = tl.zeros((BLOCK_M,), dtype=tl.float32)
    sums = tl.zeros((BLOCK_M, BLOCK_D), dtype=tl.float32)
    for step in range(start, end, BLOCK_N):
        n = step + tl.arange(0, BLOCK_N)
        known = n < end
        part = known[:, None] & inside[None, :]
        if DESCRIBED:
            some_keys = k.load([group, segment * keys + step, 0]).reshape(BLOCK_N, BLOCK_D)
        else:
            some_keys = tl.load(k + n[:, None] * k_row + d[None, :] * STEP, mask=part, other=0.0)
        scores = tl.dot(queries, tl.trans(some_keys), input_precision="ieee") * scale
        if GAP:
            known = known & ((n < first) | (n >= last))
        seen = known[None, :] & there[:, None]
        if CAUSAL:
            seen = seen & (n[None, :] <= at[:, None])
        scores = tl.where(seen, scores, float("-inf"))
        higher = tl.maximum(highest, tl.max(scores, 1))
        base = tl.where(higher == float("-inf"), 0.0, higher)
        shares = tl.exp2(scores - base[:, None])
        keep = tl.exp2(highest - base)
        total = total * keep + tl.sum(shares, 1)
        if DESCRIBED:
            values = v.load([group, segment * keys + step, 0]).reshape(BLOCK_N, BLOCK_D)
        else:
            values = tl.load(v + n[:, None] * v_row + d[None, :] * STEP, mask=part, other=0.0)
        sums = sums * keep[:, None] + tl.dot(shares.to(values.dtype), values, input_precision="ieee")
        highest = higher
    target = place * (GROUPS * RANK) + head
    where = target[:, None] * WIDTH + d[None, :]
    writes = there[:, None] & inside[None, :]
    if SPLIT:
        rows = out_split // WIDTH
        tl.store(out + split * out_split + where, sums, mask=writes)
        tl.store(top + split * rows + target, highest, mask=there)
        tl.store(weight + split * rows + target, total, mask=there)
        if ALONE:
            tl.debug_barrier()  # all of this part is written before it counts as written
            mine = counter + tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)
            before = tl.atomic_add(mine, 1, sem="acq_rel")
            if before == tl.num_programs(2) - 1:
                highest = tl.full((BLOCK_M,), float("-inf"), dtype=tl.float32)
                for part in range(0, tl.num_programs(2)):
                    theirs = tl.load(top + part * rows + target, mask=there, other=float("-inf"), cache_modifier=".cg")
                    highest = tl.maximum(highest, theirs)
                highest = tl.where(highest == float("-inf"), 0.0, highest)
                total = tl.zeros((BLOCK_M,), dtype=tl.float32)
                sums = tl.zeros((BLOCK_M, BLOCK_D), dtype=tl.float32)
                for part in range(0, tl.num_programs(2)):
                    theirs = tl.load(top + part * rows + target, mask=there, other=float("-inf"), cache_modifier=".cg")
                    share = tl.exp2(theirs - highest)
                    total += share * tl.load(weight + part * rows + target, mask=there, other=0.0, cache_modifier=".cg")
                    sums += share[:, None] * tl.load(
                        out + part * out_split + where, mask=writes, other=0.0, cache_modifier=".cg"
                    )
                given = sums / tl.where(total > 0.0, total, 1.0)[:, None]
                tl.store(merged + where, given.to(merged.dtype.element_ty), mask=writes)
                tl.store(mine, 0)  # for the next call
    else:
        given = sums / tl.where(total > 0.0, total, 1.0)[:, None]
        tl.store(out + where, given.to(out.dtype.element_ty), mask=writes)


@triton.jit
def _merge(
    parts, top, weight, out, rows, SPLITS: tl.constexpr, WIDTH: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_S: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    if EARLY:
        let_next_begin()
        wait_for_last()
    row = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    d, split = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_S)
    there = row < rows
    where = row[:, None] * WIDTH + d[None, :]
    writes = there[:, None] & (d < WIDTH)[None, :]
    # A program has few values of each part, and many threads: so each thread asks for all it needs before it uses any.
    # With more, the assembler lets loads wait for one another, and a program takes as many round trips to the cache.
    noted = (split < SPLITS)[:, None] & there[None, :]
    notes = split[:, None] * rows + row[None, :]
    tops = tl.load(top + notes, mask=noted, other=float("-inf"))
    weights = tl.load(weight + notes, mask=noted, other=0.0)
    given = (split < SPLITS)[:, None, None] & writes[None, :, :]
    sums = tl.load(parts + split[:, None, None] * rows * WIDTH + where[None, :, :], mask=given, other=0.0)
    highest = tl.max(tops, 0)
    highest = tl.where(highest == float("-inf"), 0.0, highest)
    shares = tl.exp2(tops - highest[None, :])
    total = tl.sum(shares * weights, 0)
    merged = tl.sum(sums * shares[:, :, None], 0) / tl.where(total > 0.0, total, 1.0)[:, None]
    tl.store(out + where, merged.to(out.dtype.element_ty), mask=writes)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    shape: Shape,
    gap: Tensor | None = None,
    causal: bool = False,
    positions: Tensor | None = None,
    segments: int = 1,
) -> Tensor:
    """(L, heads, head_dim) from q of that shape and k, v (G, S, head_dim): see `kernels.attention.attention`."""
    (length, heads, width), (groups, keys, _) = q.shape, k.shape
    assert q.stride(2) == k.stride(2) == v.stride(2), "the three lie alike"
    length, keys = length // segments, keys // segments
    block_d = max(16, triton.next_power_of_2(width))
    out = torch.empty((len(q), heads, width), dtype=q.dtype, device=q.device)
    splits = max(1, min(shape.splits, triton.cdiv(keys, shape.keys)))
    chunk = triton.cdiv(triton.cdiv(keys, splits), shape.keys) * shape.keys
    splits = triton.cdiv(keys, chunk)
    rows = len(q) * heads
    parts = out if splits == 1 else torch.empty((splits, rows, width), dtype=torch.float32, device=q.device)
    notes = parts if splits == 1 else torch.empty((2, splits, rows), dtype=torch.float32, device=q.device)
    blocks = triton.cdiv(length * (heads // groups), shape.rows)
    wanted = shape.alone and splits > 1 and blocks * groups * segments <= COUNTERS
    counter = counters(q) if wanted else None
    alone = counter is not None
    # a block that reaches into the next segment is not masked: what lies there may be no number
    described = shape.described and segments == 1 and describable(k) and describable(v)
    block = [1, shape.keys, block_d]
    lying = [TensorDescriptor(t, list(t.shape), list(t.stride()), block) for t in (k, v)] if described else [k, v]
    _attend[(blocks, groups * segments, splits)](
        q, *lying, k, v, parts, notes if splits == 1 else notes[0], notes if splits == 1 else notes[1],
        out, q if counter is None else counter,
        q if gap is None else gap, q if positions is None else positions, length, keys, chunk,
        width**-0.5 * 1.4426950408889634,
        q.stride(0), q.stride(1), k.stride(0), k.stride(1), v.stride(0), v.stride(1), rows * width, STEP=q.stride(2),
        GROUPS=groups, RANK=heads // groups, WIDTH=width, BLOCK_D=block_d, GAP=gap is not None, CAUSAL=causal,
        PLACED=positions is not None, SPLIT=splits > 1, ALONE=alone, DESCRIBED=described, BLOCK_M=shape.rows,
        BLOCK_N=shape.keys, LINES=max(1, block_d // 64),
        num_warps=shape.warps, num_stages=shape.stages, **options(q),
    )  # fmt: skip
    if splits > 1 and not alone:
        block_s = triton.next_power_of_2(splits)
        together = 1 if rows <= 2048 else max(1, min(4, MERGED // (block_s * block_d)))
        _merge[(triton.cdiv(rows, together),)](
            parts,
            notes[0],
            notes[1],
            out,
            rows,
            SPLITS=splits,
            WIDTH=width,
            BLOCK_D=block_d,
            BLOCK_R=together,
            BLOCK_S=block_s,
            num_warps=8,
            **options(q),
        )
    return out
