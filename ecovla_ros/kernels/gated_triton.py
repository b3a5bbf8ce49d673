"""Gate, up, activation and product in one Triton kernel, with the sum of squares per channel in the epilogue.

Both products share one read of x, X_int is written once, and the energies need no second pass over it. Each row block
writes its own partial sums, so that the result does not depend on the order in which blocks run.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK_M, BLOCK_N, BLOCK_K = 64, 64, 32
"""Tokens, channels and inputs of one block."""


@triton.jit
def _gated(
    x, gate, up, out, partial, valid, tokens, channels, width,
    SILU: tl.constexpr, ENERGY: tl.constexpr, PADDED: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    rows, columns = m < tokens, n < channels
    gates = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    ups = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for start in range(0, width, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        inside = k < width
        part = tl.load(x + m[:, None] * width + k[None, :], mask=rows[:, None] & inside[None, :], other=0.0)
        where = n[:, None] * width + k[None, :]
        mask = columns[:, None] & inside[None, :]
        gates += tl.dot(part, tl.trans(tl.load(gate + where, mask=mask, other=0.0)), input_precision="ieee")
        ups += tl.dot(part, tl.trans(tl.load(up + where, mask=mask, other=0.0)), input_precision="ieee")
    if SILU:
        active = gates * tl.sigmoid(gates)
    else:  # gelu, tanh form: tanh(y) = 2 sigmoid(2 y) - 1
        y = 0.7978845608028654 * (gates + 0.044715 * gates * gates * gates)
        active = gates * tl.sigmoid(2.0 * y)
    hidden = (active * ups).to(out.dtype.element_ty)
    tl.store(out + m[:, None] * channels + n[None, :], hidden, mask=rows[:, None] & columns[None, :])
    if ENERGY:
        squares = hidden.to(tl.float32) * hidden.to(tl.float32)
        counts = tl.load(valid + m, mask=rows, other=0.0) if PADDED else tl.where(rows, 1.0, 0.0)
        total = tl.sum(squares * counts[:, None], axis=0)
        tl.store(partial + tl.program_id(0) * channels + n, total, mask=columns)


def gated(
    x: Tensor, gate: Tensor, up: Tensor, activation: str, energy: Tensor | None = None, valid: Tensor | None = None
) -> Tensor:
    """X_int (..., k) of x (..., D) through gate and up (k, D), contiguous; see `kernels.gated.reference`."""
    flat = x.reshape(-1, x.shape[-1])
    (tokens, width), channels = flat.shape, len(gate)
    out = torch.empty((tokens, channels), dtype=x.dtype, device=x.device)
    blocks = triton.cdiv(tokens, BLOCK_M)
    partial = torch.empty((blocks, channels) if energy is not None else (1, 1), dtype=torch.float32, device=x.device)
    _gated[(blocks, triton.cdiv(channels, BLOCK_N))](
        flat, gate, up, out, partial, partial if valid is None else valid, tokens, channels, width,
        SILU=activation == "silu", ENERGY=energy is not None, PADDED=valid is not None,
        BLOCK_M=BLOCK_M, BLOCK_N=BLOCK_N, BLOCK_K=BLOCK_K,
    )  # fmt: skip
    if energy is not None:
        energy += partial.sum(0)
    return out.view(*x.shape[:-1], channels)
