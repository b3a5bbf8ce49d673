"""From importance to kept channels: exact counts, spread evenly over KV groups."""

from __future__ import annotations

import torch
from torch import Tensor

from ecovla_ros.errors import PruningError


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


def keep_best(importance: Tensor, kept: int, groups: int = 1) -> Tensor:
    """Mask (L, C), True for the `kept` most important channels of each layer, equally many in each group.

    Channel c belongs to group c mod `groups`. Ties go to the lower channel. Raises PruningError where `kept` cannot
    be spread evenly.
    """
    layers, channels = importance.shape
    if kept % groups or channels % groups or not 0 < kept <= channels:
        raise PruningError(f"cannot keep {kept} of {channels} channels evenly over {groups} groups")
    grouped = importance.unflatten(1, (channels // groups, groups)).transpose(1, 2)  # (L, G, C / G)
    order = grouped.sort(dim=-1, descending=True, stable=True).indices[..., : kept // groups]
    mask = torch.zeros_like(grouped, dtype=torch.bool).scatter_(-1, order, True)
    return mask.transpose(1, 2).reshape(layers, channels)
