"""FastV (arXiv 2403.06764): after a few layers, vision tokens that the answer hardly looks at leave the sequence.

Of one layer's attention only the rows are computed that are read at the end: the action slots, or the cognition token.
Tokens that stay keep their positions. The count is fixed, so that shapes are static; which tokens stay is data. Later
layers then have shorter K and V of their own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ecovla_ros.errors import ConfigError
from ecovla_ros.models.pi.layers import Rope, Use, rotate
from ecovla_ros.models.prismatic.layers import MultiHead
from ecovla_ros.prune.site import SiteUse


@dataclass(frozen=True)
class TokenPruning:
    """Where and how much."""

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


def attention_to(
    attention: MultiHead, x: Tensor, k: Tensor, rope: Rope, rows: slice, mask: Tensor | None
) -> Tensor:
    """How much the positions `rows` look at every position, (S,): mean over rows and heads of one layer's attention.

    `x` (1, S, width): the layer's input; `k` (1, heads, S, head_dim): its rotated keys of the heads that run.
    """
    normed = attention.norm(x[:, rows])
    there = Rope(rope.cos[rows], rope.sin[rows])
    q = rotate(attention.rows_of(normed, 0, k.shape[1] * attention.head_dim), there).transpose(1, 2)
    scores = (q @ k.transpose(-1, -2)).float() * attention.head_dim**-0.5  # (1, heads, rows, S)
    if mask is not None:
        scores = scores.masked_fill(~mask[rows], -torch.inf)
    return scores.softmax(-1).mean((0, 1, 2))


def staying(scores: Tensor, first: int, count: int, keep: int) -> Tensor:
    """Positions (S - count + keep,) that stay, ascending: all but the least of the `count` from `first` on."""
    best = scores[first : first + count].topk(keep).indices.sort().values + first
    length, device = len(scores), scores.device
    return torch.cat((torch.arange(first, device=device), best, torch.arange(first + count, length, device=device)))


def shortened(use: Use, index: Tensor, length: int) -> Use:
    """`use` for a sequence of which the positions `index` stay: what is padding, and which tokens are sampled."""
    valid = None if use.valid is None else use.valid[index]
    heads, mlp = (_fewer(site, len(index), length) for site in (use.heads, use.mlp))
    return use._replace(heads=heads, mlp=mlp, valid=valid)


def _fewer(use: SiteUse, now: int, before: int) -> SiteUse:
    """Samples spread over the tokens that are left as they were over all."""
    record = use.record
    if record is None or record.tokens is None:
        return use
    return use._replace(record=record._replace(tokens=record.tokens * now // before))
