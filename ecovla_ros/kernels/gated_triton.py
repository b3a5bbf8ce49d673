"""X_int and its sums per channel: in the epilogue of the products, or in the one pass that follows them.

A program that records owns its channels for all tokens, so that it alone adds to their sums: nothing is added in an
order that differs from run to run, and nothing is summed by a second kernel.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ecovla_ros.kernels.launch import options
from ecovla_ros.kernels.launch_triton import ask_for, let_next_begin, wait_for_last
from ecovla_ros.kernels.sums import Sums


@triton.jit
def _active(x, KIND: tl.constexpr):
    """0: gelu, tanh form, tanh(y) = 2 sigmoid(2 y) - 1. 1: silu. 2: exact gelu."""
    if KIND == 1:
        out = x * tl.sigmoid(x)
    elif KIND == 2:
        out = x * 0.5 * (1.0 + tl.erf(x * 0.7071067811865476))
    else:
        out = x * tl.sigmoid(2.0 * 0.7978845608028654 * (x + 0.044715 * x * x * x))
    return out


@triton.jit
def _is_open(gate, GATE: tl.constexpr):
    """Whether what is recorded is wanted (`Sums.gate`)."""
    wanted = True
    if GATE:
        seen = tl.load(gate)
        wanted = not ((seen >= tl.load(gate + 1)) & (seen < float("inf")))
    return wanted


@triton.jit
def _gated(
    x, gate, up, out, energy, total, sampled, valid, tokens, wanted, length, channels, width, weight_row, samples,
    KIND: tl.constexpr, ENERGY: tl.constexpr, TOTAL: tl.constexpr, SAMPLED: tl.constexpr, VALID: tl.constexpr,
    GATE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, SAMPLES: tl.constexpr,
    LINES: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    m = tl.arange(0, BLOCK_M)
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    rows, columns = m < length, n < channels
    if EARLY:
        let_next_begin()
        line = tl.minimum(tl.arange(0, LINES) * 64, width - 1)  # a line of memory holds 64 weights
        lines = tl.minimum(n, channels - 1)[:, None] * weight_row + line[None, :]
        ask_for(gate + lines)
        ask_for(up + lines)
        wait_for_last()
    if ENERGY:  # asked for early: they are there when the products are done, and nothing is made of them before
        on = _is_open(wanted, GATE)
        noted, counted = columns & on, rows & on
        before = tl.load(energy + n, mask=noted, other=0.0)
        if TOTAL:
            total_before = tl.load(total + n, mask=noted, other=0.0)
        if VALID:
            counts = tl.load(valid + m, mask=counted, other=0.0)
        if SAMPLED:
            sampled_before = tl.load(sampled + n, mask=noted, other=0.0)
            s = tl.arange(0, SAMPLES)
            token = tl.load(tokens + s, mask=(s < samples) & on, other=-1)
    gates = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    ups = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for start in range(0, width, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        inside = k < width
        part = tl.load(x + m[:, None] * width + k[None, :], mask=rows[:, None] & inside[None, :], other=0.0)
        where = n[None, :] * weight_row + k[:, None]
        mask = columns[None, :] & inside[:, None]
        gates += tl.dot(part, tl.load(gate + where, mask=mask, other=0.0), input_precision="ieee")
        ups += tl.dot(part, tl.load(up + where, mask=mask, other=0.0), input_precision="ieee")
    hidden = (_active(gates, KIND) * ups).to(out.dtype.element_ty)
    tl.store(out + m[:, None] * channels + n[None, :], hidden, mask=rows[:, None] & columns[None, :])
    if ENERGY:  # noqa: SIM102 - one is known when compiled, the other is not
        if on:  # rows beyond the last are 0
            values = hidden.to(tl.float32)
            squares = values * values
            if not VALID:
                counts = tl.where(rows, 1.0, 0.0)
            tl.store(energy + n, before + tl.sum(squares * counts[:, None], 0), mask=columns)
            if TOTAL:
                tl.store(total + n, total_before + tl.sum(values * counts[:, None], 0), mask=columns)
            if SAMPLED:
                times = _times(m, token)
                tl.store(sampled + n, sampled_before + tl.sum(squares * times[:, None], 0), mask=columns)


@triton.jit
def _times(row, token):
    """How often each row is named by `token`, float32."""
    return tl.sum((row[:, None] == token.to(tl.int32)[None, :]).to(tl.float32), 1)


@triton.jit
def _made(
    x, row, there, channels, x_row, GATES: tl.constexpr, KIND: tl.constexpr, ROWS: tl.constexpr, BLOCK_N: tl.constexpr
):
    """(ROWS, BLOCK_N) float32: what `columns` makes of rows of its input."""
    if GATES:
        n = tl.program_id(0) * (2 * BLOCK_N) + tl.arange(0, 2 * BLOCK_N)
        mask = there[:, None] & (n < 2 * channels)[None, :]
        values = tl.load(x + row[:, None] * x_row + n[None, :], mask=mask, other=0.0).to(tl.float32)
        gates, ups = tl.split(tl.reshape(values, (ROWS, BLOCK_N, 2)))
        out = _active(gates, KIND) * ups
    else:
        n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
        mask = there[:, None] & (n < channels)[None, :]
        out = tl.load(x + row[:, None] * x_row + n[None, :], mask=mask, other=0.0).to(tl.float32)
        if KIND < 3:
            out = _active(out, KIND)
    return out


@triton.jit
def _columns(
    x, out, energy, total, sampled, valid, tokens, wanted, length, channels, x_row, span, step, samples,
    GATES: tl.constexpr, KIND: tl.constexpr, STORED: tl.constexpr, ENERGY: tl.constexpr, TOTAL: tl.constexpr,
    SAMPLED: tl.constexpr, VALID: tl.constexpr, GATE: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_N: tl.constexpr,
    SAMPLES: tl.constexpr, STAGES: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    if EARLY:
        let_next_begin()
        wait_for_last()
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    columns = n < channels
    first = tl.program_id(1) * span
    last = tl.minimum(first + span, length)
    if ENERGY:
        on = _is_open(wanted, GATE)
        noted = columns & on
        # each stretch of tokens has sums of its own: nobody else adds to them, in whatever order programs run
        mine = tl.program_id(1).to(tl.int64) * step + n
        before = tl.load(energy + mine, mask=noted, other=0.0)
        squares = tl.zeros((BLOCK_L, BLOCK_N), dtype=tl.float32)  # of all blocks of tokens, added up over rows once
        if TOTAL:
            total_before = tl.load(total + mine, mask=noted, other=0.0)
            values = tl.zeros((BLOCK_L, BLOCK_N), dtype=tl.float32)
        if SAMPLED:
            sampled_before = tl.load(sampled + mine, mask=noted, other=0.0)
            # each stretch takes a share of the sampled tokens, wherever they lie
            s = tl.program_id(1) * SAMPLES + tl.arange(0, SAMPLES)
            known = (s < samples) & on
            token = tl.load(tokens + s, mask=known, other=0)
        if not STORED:
            last = tl.where(on, last, first)  # there is nothing else to do
    for start in tl.range(first, last, BLOCK_L, num_stages=STAGES):
        row = start + tl.arange(0, BLOCK_L)
        there = row < length
        hidden = _made(x, row, there, channels, x_row, GATES, KIND, BLOCK_L, BLOCK_N)
        if STORED:
            rounded = hidden.to(out.dtype.element_ty)
            tl.store(out + row[:, None] * channels + n[None, :], rounded, mask=there[:, None] & columns[None, :])
            hidden = rounded.to(tl.float32)
        if ENERGY:
            counts = tl.where(there, 1.0, 0.0)
            if VALID:
                counts = tl.load(valid + row, mask=there & on, other=0.0)
            if on:
                squares += hidden * hidden * counts[:, None]
                if TOTAL:
                    values += hidden * counts[:, None]
    if ENERGY:  # noqa: SIM102 - one is known when compiled, the other is not
        if on:
            tl.store(energy + mine, before + tl.sum(squares, 0), mask=columns)
            if TOTAL:
                tl.store(total + mine, total_before + tl.sum(values, 0), mask=columns)
            if SAMPLED:
                hidden = _made(x, token.to(tl.int32), known, channels, x_row, GATES, KIND, SAMPLES, BLOCK_N)
                if STORED:
                    hidden = hidden.to(out.dtype.element_ty).to(tl.float32)
                seen = tl.where(known[:, None], hidden * hidden, 0.0)
                tl.store(sampled + mine, sampled_before + tl.sum(seen, 0), mask=columns)


def gated(
    x: Tensor, gate: Tensor, up: Tensor, activation: str, sums: Sums | None, shape: tuple[int, int, int, int]
) -> Tensor:
    """X_int (L, k) of x (L, D), L at most 64, through gate and up (k, D), whose rows lie equally far apart.

    `shape`: channels and inputs of a block, warps, stages.
    """
    (length, width), channels = x.shape, len(gate)
    out = torch.empty((length, channels), dtype=x.dtype, device=x.device)
    block_n, block_k, warps, stages = shape
    _gated[(triton.cdiv(channels, block_n),)](
        x, gate, up, out, *_pointers(sums, x), length, channels, width, gate.stride(0), _samples(sums),
        KIND=int(activation == "silu"), **_kinds(sums), BLOCK_M=max(16, triton.next_power_of_2(length)),
        BLOCK_N=block_n, BLOCK_K=block_k, SAMPLES=triton.next_power_of_2(max(1, _samples(sums))),
        LINES=triton.next_power_of_2(triton.cdiv(width, 64)), num_warps=warps, num_stages=stages, **options(x),
    )  # fmt: skip
    return out


def columns(x: Tensor, kind: str, sums: Sums | None, shape: tuple[int, int, int, int]) -> Tensor:
    """(L, k) of x: (L, 2 k) with gate and up in turn for kind "gelu" or "silu"; (L, k) for "gelu_alone", "gelu_exact"
    and "plain", which stores nothing and gives x.

    `shape`: tokens and channels of a block, warps, stages.
    """
    gates = kind in ("gelu", "silu")
    length, channels = x.shape[0], x.shape[1] // (2 if gates else 1)
    stored = kind != "plain"
    out = torch.empty((length, channels), dtype=x.dtype, device=x.device) if stored else x
    block_l, block_n, warps, stages = shape
    span, step = block_l, 0
    if sums is not None:
        span, step = triton.cdiv(triton.cdiv(length, sums.stretches), block_l) * block_l, sums.step
    stretches = triton.cdiv(length, span)
    share = triton.next_power_of_2(max(1, triton.cdiv(_samples(sums), stretches)))
    _columns[(triton.cdiv(channels, block_n), stretches)](
        x, out, *_pointers(sums, x), length, channels, x.stride(0), span, step, _samples(sums),
        GATES=gates, KIND={"silu": 1, "gelu_exact": 2, "plain": 3}.get(kind, 0), STORED=stored, **_kinds(sums),
        BLOCK_L=block_l, BLOCK_N=block_n, SAMPLES=share,
        STAGES=stages if sums is not None else 1, num_warps=warps, **options(x),
    )  # fmt: skip
    return out


def _pointers(sums: Sums | None, x: Tensor) -> tuple[Tensor, ...]:
    """Energy, total, sampled, valid, tokens, gate; x where there is none, which is then not read."""
    none = (None,) * 6
    given = none if sums is None else (sums.energy, sums.total, sums.sampled, sums.valid, sums.tokens, sums.gate)
    return tuple(x if t is None else t for t in given)


def _kinds(sums: Sums | None) -> dict[str, bool]:
    return {
        "ENERGY": sums is not None,
        "TOTAL": sums is not None and sums.total is not None,
        "SAMPLED": sums is not None and sums.sampled is not None and sums.tokens is not None,
        "VALID": sums is not None and sums.valid is not None,
        "GATE": sums is not None and sums.gate is not None,
    }


def _samples(sums: Sums | None) -> int:
    return 0 if sums is None or sums.tokens is None else len(sums.tokens)
