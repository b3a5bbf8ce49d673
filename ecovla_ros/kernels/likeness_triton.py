"""The cosine of each token with the one before it, which it then replaces: one pass over both."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

SMALLEST = 1e-8
"""A length below this counts as this: `torch.cosine_similarity` has the same."""


@triton.jit
def _compare(now, before, found, width, now_row, SMALLEST: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    n = tl.arange(0, BLOCK)
    inside = n < width
    token = tl.load(now + row * now_row + n, mask=inside, other=0.0)
    a = token.to(tl.float32)
    b = tl.load(before + row * width + n, mask=inside, other=0.0).to(tl.float32)
    lengths = tl.maximum(tl.sqrt(tl.sum(a * a, 0)), SMALLEST) * tl.maximum(tl.sqrt(tl.sum(b * b, 0)), SMALLEST)
    tl.store(found + row, tl.sum(a * b, 0) / lengths)
    tl.store(before + row * width + n, token, mask=inside)


def compare(now: Tensor, before: Tensor, found: Tensor) -> None:
    """Cosine similarity of the rows of `now` and `before` (N, D) to `found` (N,) float32; then `before` is `now`.

    Rows of `now` are contiguous, and `before` is.
    """
    length, width = now.shape
    _compare[(length,)](
        now, before, found, width, now.stride(0), SMALLEST=SMALLEST, BLOCK=triton.next_power_of_2(width),
        num_warps=4 if width <= 2048 else 8,
    )  # fmt: skip
