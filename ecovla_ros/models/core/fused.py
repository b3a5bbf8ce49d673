"""Blocks as few kernels: where Triton runs, at batch 1 and without gradients.

What a block computes is what `layers.Block.forward` says. Here the residual stream and the branch that it is about to
take travel together, so that one kernel adds, norms and modulates; another rotates queries and keys and writes K and V
where attention reads them; attention knows lengths instead of booleans; and energies are summed by the kernel that
makes X_int. A layer is 8 kernels, one more for each of: attention split over its keys and merged, an MLP that is
a product and a pass over it, Q, K and V that are matrices of their own (two more), heads that are recorded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ecovla_ros.kernels.attention import attention
from ecovla_ros.kernels.available import triton_runs_on
from ecovla_ros.kernels.gated import activated
from ecovla_ros.kernels.norm import add_and_norm
from ecovla_ros.kernels.product import branch
from ecovla_ros.kernels.sums import Sums
from ecovla_ros.prune.site import SiteUse


class Flow(NamedTuple):
    """A residual stream and what it is about to take: x + gate * (branch + bias)."""

    x: Tensor
    """(L, width)."""
    branch: Tensor | None = None
    """(L, width), or (P, L, width) float32 in parts that are yet to be summed."""
    bias: Tensor | None = None
    """(width,)."""
    gate: Tensor | None = None
    """width values."""

    def taken(self) -> Tensor:
        """The stream with the branch in it."""
        if self.branch is None:
            return self.x
        return add_and_norm(self.x, self.branch, self.gate, self.bias)[0]

    def normed(self, norm: Any, modulation: Any, use: SiteUse) -> tuple[Tensor, Tensor]:
        """The stream with the branch in it, and its norm; a probe's samples of the latter are left aside."""
        gain, shift = norm.weight, getattr(norm, "bias", None)
        if modulation is not None:
            gain, shift = modulation.gain, modulation.shift
        centred = isinstance(norm, nn.LayerNorm)
        offset = norm.offset if modulation is None and not centred else 0.0
        record, aside, tokens = use.record, None, None
        if record is not None and use.sample is not None and record.inputs is not None:
            aside, tokens = record.inputs[use.sample], record.tokens
        more = (self.branch, self.gate, self.bias, gain, shift, norm.eps, offset, centred, aside, tokens)
        return add_and_norm(self.x, *more)


def fits(blocks: Sequence[nn.Module], x: Tensor, mask: Any) -> bool:
    """Whether `blocks` can run here as few kernels."""
    if len(x) != 1 or isinstance(mask, Tensor) or torch.is_grad_enabled() or not triton_runs_on(x):
        return False
    return all(getattr(getattr(block, "mlp", None), "packed", None) is not None for block in blocks)


def run(
    blocks: Sequence[Any],
    x: Tensor,
    rope: Any,
    extends: Sequence[Any],
    mask: Any,
    uses: Sequence[Any],
    last: Any = None,
) -> Tensor:
    """As `layers.run`, x (1, L, width)."""
    flow, table = Flow(x[0].contiguous()), _table(rope)
    for block, extend, use in zip(blocks, extends, uses):
        flow = _through(block, flow, table, extend, mask, use)
    return flow.taken()[None] if last is None else flow.normed(last.norm, last.modulation, SiteUse())[1][None]


def sums_of(use: SiteUse, valid: Tensor | None) -> Sums | None:
    """Where a call adds what it records; None: it records nothing."""
    record = use.record
    if record is None:
        return None
    sampled = record.sampled if use.sample is not None and record.inputs is not None else None
    return Sums(record.energy, record.total, sampled, record.tokens, valid, record.parts, record.gate)


def _through(block: Any, flow: Flow, table: tuple[Tensor, Tensor], extend: Any, mask: Any, use: Any) -> Flow:
    attend, mlp = block.attention, block.mlp
    first, second = (None, None) if use.modulation is None else use.modulation
    x, normed = flow.normed(attend.norm, first, use.heads)
    hidden = _attended(attend, normed, table, extend, mask, use.heads)
    sums = sums_of(use.heads, use.valid)
    if sums is not None:
        activated(hidden, "plain", sums)
    bias = _both(use.heads.bias, attend.o_bias)
    flow = Flow(x, branch(hidden, attend.o[: hidden.shape[1]]), bias, None if first is None else first.gate)
    x, normed = flow.normed(block.norm, second, use.mlp)
    kept = len(mlp.gate) if use.mlp.kept is None else use.mlp.kept
    hidden = mlp.made(normed, 0, kept, sums_of(use.mlp, use.valid))
    bias = _both(use.mlp.bias, mlp.down_bias)
    return Flow(x, branch(hidden, mlp.down[:kept]), bias, None if second is None else second.gate)


def _attended(
    attend: Any, normed: Tensor, table: tuple[Tensor, Tensor], extend: Any, mask: Any, use: SiteUse
) -> Tensor:
    """Heads side by side (L, heads * head_dim)."""
    rows = len(attend.o) if use.kept is None else use.kept * attend.head_dim
    if not attend.rotary:
        q, k, v = attend.raw(normed, rows)
        keys, values = extend(k.transpose(0, 1)[None], v.transpose(0, 1)[None])
    else:
        length, groups = len(normed), attend.groups_of(rows)
        room = getattr(extend, "room", None)
        into = normed.new_empty((2, groups, length, attend.head_dim)) if room is None else room(groups, length)
        q = attend.placed(normed, rows, *table, into[0], into[1])
        keys, values = extend(into[0][None], into[1][None]) if room is None else extend.all(groups, length)
    how = () if mask is None else (mask.gap, mask.causal, mask.positions, mask.segments)
    return attention(q, keys[0], values[0], *how).reshape(len(q), -1)


def _table(rope: Any) -> tuple[Tensor, Tensor]:
    """(L, head_dim) each; of blocks that turn nothing as it is."""
    if rope.cos.dim() == 0:
        return rope.cos, rope.sin
    return tuple(t.reshape(-1, t.shape[-1]) for t in rope)  # type: ignore[return-value]


def _both(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    if one is None or other is None:
        return one if other is None else other
    return one + other
