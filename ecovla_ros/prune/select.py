"""From importance to kept channels: exact counts, spread evenly over KV groups, as pairs of slots to exchange."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ecovla_ros.errors import PruningError
from ecovla_ros.kernels.available import triton_runs_on
from ecovla_ros.kernels.pairs import ranked


class Exchange(NamedTuple):
    """Pairs of slots to exchange, for L sites of one shape. Their number P is fixed; `wanted` says which are done."""

    leaving: Tensor
    """Slots among the kept, (L, P) int64, all different in a row."""
    entering: Tensor
    """Slots among the pruned, (L, P) int64, all different in a row."""
    wanted: Tensor
    """(L, P) bool."""


def kept_count(channels: int, ratio: float, step: int) -> int:
    """Channels kept at a pruning ratio: the multiple of `step` nearest to (1 - ratio) * channels, at least one step.

    Ratio 0 keeps all. Raises PruningError for a ratio outside [0, 0.9] (NaN included) or a step that is not
    positive.
    """
    if not 0.0 <= ratio <= 0.9:
        raise PruningError(f"pruning ratio {ratio}; valid: 0 to 0.9")
    if step < 1:
        raise PruningError(f"kept counts must be a multiple of {step}; valid: 1 or more")
    if ratio == 0.0:
        return channels
    return min(channels, max(step, round((1.0 - ratio) * channels / step) * step))


def exchange(
    importance: Tensor, kept: int, groups: int = 1, budget: int | None = None, hysteresis: float = 0.0
) -> Exchange:
    """What brings the most important channels of `importance` (L, C), in slot order, into slots 0..kept-1.

    The best pruned slot is paired with the worst kept one, the second best with the second worst, and so on, within
    each group (slot s belongs to group s mod `groups`); a pair is wanted while the one that enters is more than
    (1 + hysteresis) times as important as the one that leaves. Without hysteresis and budget the kept slots then hold
    exactly the `kept` best channels; with a budget the `budget` most valuable pairs of each site are done, and the rest
    waits for the next refresh. Ties stay where they are; an importance that is not a number never moves.

    Nothing here depends on the host knowing a value: shapes follow from the arguments alone. Raises PruningError where
    `kept` cannot be spread evenly over the groups.
    """
    layers, channels = importance.shape
    if kept % groups or channels % groups or not 0 < kept <= channels:
        raise PruningError(f"cannot keep {kept} of {channels} channels evenly over {groups} groups")
    pairs = min(kept, channels - kept) // groups
    if budget is not None:
        pairs = min(pairs, -(-budget // groups))
    if triton_runs_on(importance) and importance.dtype == torch.float32:
        return Exchange(*ranked(importance, kept, groups, pairs, 1.0 + hysteresis))
    grouped = importance.unflatten(1, (channels // groups, groups)).transpose(1, 2)  # (L, G, C / G)
    inside, outside = grouped.split((kept // groups, (channels - kept) // groups), dim=2)
    worst, leaving = inside.topk(pairs, dim=2, largest=False)
    best, entering = outside.topk(pairs, dim=2)
    group = torch.arange(groups, device=importance.device)[:, None]
    wanted = best > worst * (1.0 + hysteresis)
    found = (leaving * groups + group, entering * groups + group + kept, wanted)
    return Exchange(*(x.transpose(1, 2).reshape(layers, pairs * groups) for x in found))


def bands(order: Sequence[int], kept: Sequence[int], groups: int = 1) -> Tensor:
    """Importance (C,) by channel that makes `exchange` rebuild an exported pattern.

    `order` lists channels by slot; channels of an inner band (slots below the smallest of `kept`) get the highest
    value, those beyond the largest the lowest. Raises PruningError if `order` is no permutation, or moves a channel out
    of its group.
    """
    channels = len(order)
    if sorted(order) != list(range(channels)):
        raise PruningError(f"a pattern must list each of {channels} channels once")
    if any(channel % groups != slot % groups for slot, channel in enumerate(order)):
        raise PruningError(f"a pattern must leave every channel in its KV group (channel mod {groups})")
    importance = torch.empty(channels)
    for slot, channel in enumerate(order):
        importance[channel] = float(sum(slot < k for k in kept))
    return importance
