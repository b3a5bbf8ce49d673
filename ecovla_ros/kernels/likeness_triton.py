"""The cosine of each token with the one before it, which it then replaces: a pass over both, and one over cosines."""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

SMALLEST = 1e-8
"""A length below this counts as this: `torch.cosine_similarity` has the same."""


@triton.jit
def _compare(
    now, before, found, width, now_row, now_camera, before_camera, SMALLEST: tl.constexpr, BLOCK: tl.constexpr
):
    row, camera = tl.program_id(0), tl.program_id(1).to(tl.int64)
    n = tl.arange(0, BLOCK)
    inside = n < width
    now += camera * now_camera
    before += camera * before_camera
    token = tl.load(now + row * now_row + n, mask=inside, other=0.0)
    a = token.to(tl.float32)
    b = tl.load(before + row * width + n, mask=inside, other=0.0).to(tl.float32)
    lengths = tl.maximum(tl.sqrt(tl.sum(a * a, 0)), SMALLEST) * tl.maximum(tl.sqrt(tl.sum(b * b, 0)), SMALLEST)
    tl.store(found + camera * tl.num_programs(0) + row, tl.sum(a * b, 0) / lengths)
    tl.store(before + row * width + n, token, mask=inside)


@triton.jit
def _mean(found, out, count, BLOCK: tl.constexpr):
    n = tl.arange(0, BLOCK)
    tl.store(out, tl.sum(tl.load(found + n, mask=n < count, other=0.0), 0) / count)


def compare(now: Sequence[Tensor], before: Sequence[Tensor], found: Tensor) -> None:
    """Cosine similarities of the rows of `now` and `before` (N, D), camera by camera, to `found` (all N,) float32; then
    `before` is `now`. Cameras that lie equally far apart are one kernel.

    Rows of `now` are contiguous, and `before` is.
    """
    steps = _steps(now), _steps(before)
    if None in steps:
        first = 0
        for tokens, kept in zip(now, before):
            compare([tokens], [kept], found[first : first + len(tokens)])
            first += len(tokens)
        return
    length, width = now[0].shape
    _compare[(length, len(now))](
        now[0], before[0], found, width, now[0].stride(0), *steps, SMALLEST=SMALLEST,
        BLOCK=triton.next_power_of_2(width), num_warps=4 if width <= 2048 else 8,
    )  # fmt: skip


def mean(found: Tensor, out: Tensor) -> None:
    """Mean of `found` (N,) to `out` (), both float32."""
    count = len(found)
    _mean[(1,)](found, out, count, BLOCK=triton.next_power_of_2(count), num_warps=4)


def _steps(tensors: Sequence[Tensor]) -> int | None:
    """Elements from each of them to the next; None where they differ, in form or in distance."""
    first = tensors[0]
    if any(t.shape != first.shape or t.stride() != first.stride() or t.dtype != first.dtype for t in tensors):
        return None
    places = [t.data_ptr() for t in tensors]
    apart = {b - a for a, b in zip(places, places[1:])} or {0}
    step = apart.pop()
    return None if apart or step % first.element_size() else step // first.element_size()
