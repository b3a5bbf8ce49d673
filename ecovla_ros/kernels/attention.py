"""Softmax attention at batch 1 of heads that share K and V, over keys of which one stretch may be padding."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ecovla_ros.kernels.choice import KERNEL_CHOICE
from ecovla_ros.kernels.launch import block_bytes

FILLED = 132
"""Blocks that fill a large GPU: as many multiprocessors as an H100 has."""


def mask(
    length: int,
    keys: int,
    gap: Tensor | None,
    causal: bool,
    positions: Tensor | None,
    segments: int,
    device: torch.device,
) -> Tensor | None:
    """What a call may see as booleans, (length or 1, keys), True where a key may be seen; None: all of them."""
    index, seen = torch.arange(keys, device=device), None
    if gap is not None:
        seen = ((index < gap[0]) | (index >= gap[1]))[None]
    if causal:
        rows = torch.arange(length, device=device) if positions is None else positions
        past = index <= rows[:, None]
        seen = past if seen is None else seen & past
    if segments > 1:
        rows = torch.arange(length, device=device)[:, None] // (length // segments)
        same = rows == index // (keys // segments)
        seen = same if seen is None else seen & same
    return seen


def reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gap: Tensor | None = None,
    causal: bool = False,
    positions: Tensor | None = None,
    segments: int = 1,
) -> Tensor:
    """As `attention`, by torch."""
    length, heads, groups = q.shape[0], q.shape[1], k.shape[0]
    seen = mask(length, k.shape[1], gap, causal, positions, segments, q.device)
    folded = q.reshape(1, -1, groups, q.shape[2]).transpose(1, 2)
    if seen is not None and len(seen) > 1:
        seen = seen.repeat_interleave(heads // groups, 0)
    out = F.scaled_dot_product_attention(folded, k[None], v[None], attn_mask=seen)
    return out.transpose(1, 2).reshape(q.shape)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gap: Tensor | None = None,
    causal: bool = False,
    positions: Tensor | None = None,
    segments: int = 1,
) -> Tensor:
    """(L, heads, head_dim) of q (L, heads, head_dim) over k, v (G, S, head_dim), on a device where Triton runs.

    Query head h reads K and V of group h mod G. `gap` (2,) int32: keys gap[0]..gap[1]-1 are padding; its contents may
    change under a captured graph. `causal`: row l sees keys 0..positions[l], (L,) int64; without `positions` 0..l.
    `segments`: rows and keys lie in so many equal parts, which do not see one another. The last dimensions of q, k
    and v have one stride.
    """
    kernel = importlib.import_module("ecovla_ros.kernels.attention_triton")
    more = (gap, causal, positions, segments)
    ways: dict[str, Callable[..., Any]] = {
        str(tuple(shape)): partial(_by_kernel, kernel.attention, shape, *more)
        for shape in _shapes(kernel, q, k, segments)
    }
    if q.is_cuda:
        ways["torch"] = lambda q, k, v: reference(q, k, v, *more)
    rows = (len(q), q.shape[1], q.shape[2], k.shape[0], k.shape[1])
    key = ("attention", *rows, gap is not None, causal, positions is not None, segments, q.stride(2))
    out: Tensor = ways[KERNEL_CHOICE.of(key, q, ways, (q, k, v))](q, k, v)
    return out


def _by_kernel(
    kernel: Callable[..., Tensor],
    shape: Any,
    gap: Tensor | None,
    causal: bool,
    positions: Tensor | None,
    segments: int,
    q: Tensor,
    k: Tensor,
    v: Tensor,
) -> Tensor:
    return kernel(q, k, v, shape, gap, causal, positions, segments)


def _shapes(kernel: Any, q: Tensor, k: Tensor, segments: int) -> list[Any]:
    """Ways to cut a call into blocks, that first which is right where nothing was timed."""
    groups, keys = k.shape[0], k.shape[1] // segments
    rows = len(q) // segments * (q.shape[1] // groups)
    wide = q.shape[2] > 128

    def cut(block: int, step: int, warps: int, stages: int, filled: int = FILLED) -> Any:
        blocks = -(-rows // block) * groups * segments
        return kernel.Shape(block, step, max(1, min(-(-keys // step), filled // blocks)), warps, stages)

    few = [cut(32, 64, 4, 2), cut(32, 64, 4, 2, FILLED // 2), cut(16, 64, 4, 2), cut(32, 32, 4, 2, 2 * FILLED)]
    few += [cut(64, 64, 4, 2), cut(64, 128, 8, 1), cut(16, 128, 4, 1), cut(32, 64, 8, 2)]
    few += [s._replace(alone=True) for s in few if s.splits > 1 and s.rows <= 32]
    many = [cut(64, 64, 4, 2), cut(128, 64, 8, 2), cut(64, 32, 4, 3), cut(64, 64, 4, 2, 2 * FILLED), cut(32, 64, 4, 2)]
    many.append(cut(64, 64, 8, 2))
    if segments == 1 and kernel.describable(k):
        some = [cut(32, 64, 8, 1), cut(64, 64, 8, 1), cut(32, 64, 4, 2), cut(32, 64, 8, 2), cut(64, 64, 8, 2)]
        few += [s._replace(described=True) for s in some]
        some = [cut(64, 64, 4, 2), cut(64, 64, 8, 2), cut(128, 64, 8, 2), cut(128, 64, 8, 2, 1)]
        some += [cut(64, 64, 8, 1, 2 * FILLED), cut(64, 32, 4, 2, 2 * FILLED), cut(64, 64, 4, 1, 2 * FILLED)]
        many += [s._replace(described=True) for s in some]
    if not wide:
        many.append(cut(128, 64, 4, 3))
    shapes = list(dict.fromkeys(few if rows * groups * segments <= 2048 else many))
    width, room = max(16, 1 << (q.shape[2] - 1).bit_length()) * q.element_size(), block_bytes(q)
    return [s for s in shapes if _bytes(s, width) <= room] or [cut(16, 16, 4, 1)]


def _bytes(shape: Any, width: int) -> int:
    """Shared memory of one block, about: its queries, and the keys and values that are under way."""
    held: int = shape.rows + 2 * shape.keys * (shape.stages if shape.rows >= 64 else 1)
    return held * width + 4096
