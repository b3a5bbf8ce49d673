"""FastV (arXiv 2403.06764): after a few layers, vision tokens that are hardly looked at leave the sequence.

Of one layer's attention only the rows are computed that decide: those that are read at the end, or the prompt's. Tokens
that stay keep their positions. The count is fixed, so that shapes are static; which tokens stay is data. Later layers
then have shorter K and V of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ecovla_ros.errors import ConfigError
from ecovla_ros.models.core.keys import Keys
from ecovla_ros.models.core.layers import Extend, Rope, Use, run
from ecovla_ros.prune.site import SiteUse


class Span(NamedTuple):
    """What a stretch of layers runs over: some positions of a sequence, in some order."""

    x: Tensor
    """(1, L, width)."""
    rope: Rope
    """Tables (L, 1, head_dim) of these positions."""
    keys: Keys | None = None
    """Which keys these positions may attend to; None: all."""
    valid: Tensor | None = None
    """(L,) float32, 0 for padding; None: no padding."""

    def narrowed(self, index: Tensor | slice, keys: bool) -> Span:
        """The rows `index`, and with `keys` the same keys: others are not attended to any more."""
        seen = None if self.keys is None else self.keys.narrowed(index, keys)
        rope = Rope(self.rope.cos[index], self.rope.sin[index])
        return Span(self.x[:, index], rope, seen, None if self.valid is None else self.valid[index])

    def through(self, blocks: Sequence[nn.Module], extends: Sequence[Extend], uses: Sequence[Use] | None) -> Span:
        """The same positions after `blocks`."""
        return self._replace(x=run(blocks, self.x, self.rope, extends, self.keys, uses))

    def looks(self, attention: Any, keys: Tensor, rows: slice, use: SiteUse) -> Tensor:
        """How much the positions `rows` of this span look at each of `keys`, (S,): mean over rows and heads that run.

        `self.x` is the layer's input, `keys` (1, G, S, head_dim) its rotated keys. Rows that are padding do not count.
        """
        there = Rope(self.rope.cos[rows], self.rope.sin[rows])
        heads = len(attention.o) if use.kept is None else use.kept * attention.head_dim
        q = attention.queries(attention.norm(self.x[:, rows]), heads, there)  # (1, R, heads, head_dim)
        folded = q.reshape(1, -1, keys.shape[1], attention.head_dim).transpose(1, 2)
        scores = (folded @ keys.transpose(-1, -2)).float() * attention.head_dim**-0.5  # (1, G, R * rank, S)
        seen = None if self.keys is None else self.keys.of(rows).mask
        if seen is not None:
            scores = scores.masked_fill(~seen, -torch.inf)
        each = scores.softmax(-1).mean((0, 1)).unflatten(0, (q.shape[1], -1)).mean(1)  # (R, S)
        if self.valid is None:
            return each.mean(0)
        real = self.valid[rows]
        return (real @ each) / real.sum().clamp_min(1.0)


@dataclass(frozen=True)
class TokenPruning:
    """FastV: where and how much."""

    layer: int
    """K: layers 0..K-1 see all tokens; the attention of layer K-1 decides."""
    keep: int
    """Vision tokens that stay."""

    @classmethod
    def of(cls, tokens: int, layers: int, layer: int, ratio: float) -> TokenPruning | None:
        """For `tokens` vision tokens and `layers` layers, the last not counted. None where the ratio is 0.

        Raises ConfigError for a layer that is not there, or a ratio that leaves no token.
        """
        if not 1 <= layer < layers:
            raise ConfigError(f"tokens cannot be pruned after layer {layer}; valid: 1 to {layers - 1}")
        keep = round((1.0 - ratio) * tokens)
        if not 0.0 <= ratio <= 1.0 or keep < 1:
            raise ConfigError(f"pruning {ratio} of {tokens} vision tokens leaves none; valid: 0 to below 1")
        return None if keep == tokens else cls(layer, keep)

    def begin(
        self,
        blocks: Sequence[nn.Module],
        span: Span,
        extends: Sequence[Extend],
        uses: Sequence[Use],
        vision: slice,
        rows: slice,
    ) -> tuple[Span, Tensor]:
        """The first K of `blocks` over all tokens: the span of the positions that stay, and these positions, ascending.

        `vision`: where the vision tokens lie; of them as many leave as `keep` says. `rows`: the positions that decide.
        """
        last = self.layer - 1
        span = span.through(blocks[:last], extends, uses)
        noted = Noted(extends[last])
        after = span.through([blocks[last]], [noted], uses[last : self.layer])
        block: Any = blocks[last]
        scores = span.looks(block.attention, noted.keys, rows, uses[last].heads)
        stay = staying(scores, vision, self.keep)
        return after.narrowed(stay, keys=True), stay


def staying(scores: Tensor, vision: slice, keep: int) -> Tensor:
    """Positions that stay, ascending: all but the least of those in `vision`, of which `keep` stay."""
    best = scores[vision].topk(keep).indices.sort().values + vision.start
    every = torch.arange(len(scores), device=scores.device)
    return torch.cat((every[: vision.start], best, every[vision.stop :]))


def shortened(use: Use, index: Tensor, length: int) -> Use:
    """`use` for a sequence of which the positions `index` stay: what is padding, and which tokens are sampled."""
    valid = None if use.valid is None else use.valid[index]
    heads, mlp = (_fewer(site, len(index), length, use.valid, valid) for site in (use.heads, use.mlp))
    return use._replace(heads=heads, mlp=mlp, valid=valid)


def fewer(tokens: Tensor, now: int, before: int, valid: Tensor | None = None, left: Tensor | None = None) -> Tensor:
    """Samples of 0..before-1, spread over the `now` tokens that are left as they were over all.

    `valid` (before,) and `left` (now,): 0 for padding, then and now; it is as long, no sample lies in it. None: none.
    """
    if valid is None or left is None:
        return tokens * now // before
    ranks, real = valid.cumsum(0).long(), left.cumsum(0).long()
    places = (ranks[tokens] - 1) * real[-1] // ranks[-1]
    return torch.searchsorted(real, places + 1)


def _fewer(use: SiteUse, now: int, before: int, valid: Tensor | None, left: Tensor | None) -> SiteUse:
    record = use.record
    if record is None or record.tokens is None:
        return use
    return use._replace(record=record._replace(tokens=fewer(record.tokens, now, before, valid, left)))


class Noted:
    """An `Extend` that remembers the keys it gave."""

    def __init__(self, inner: Extend) -> None:
        self._inner = inner
        self.keys: Tensor

    def __call__(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """What `inner` gives."""
        out = self._inner(k, v)
        self.keys = out[0]
        return out
