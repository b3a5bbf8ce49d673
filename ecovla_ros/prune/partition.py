"""A mask is a permutation, and the sparse model is a prefix: kept channels live in the first slots, in place.

One channel-major copy of the weights. Slots 0..k-1 hold the kept channels, a layer runs on the views [:k], and a
new pattern swaps rows across the border k. Dense is always available on the same buffers, addresses never change,
and every state between two swaps is a valid pattern.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ecovla_ros.errors import PruningError
from ecovla_ros.prune.site import Site


class Partition:
    """Row order of one site. `channel[slot]` is the channel that lies in a slot; at first the identity."""

    def __init__(self, site: Site) -> None:
        rows = site.channels * site.unit
        for weight in (*site.producers, site.consumer, *site.extra):
            if weight.shape[0] != rows:
                raise PruningError(
                    f"site {site.key}: a weight has {weight.shape[0]} rows; valid: "
                    f"{site.channels} channels x {site.unit} = {rows}"
                )
        self.site = site
        self.channel = torch.arange(site.channels, device=site.consumer.device)
        self._blocks = [w.view(site.channels, -1) for w in (*site.producers, site.consumer, *site.extra)]

    def arrange(self, keep: Tensor, kept: int) -> int:
        """Bring the channels of the mask `keep` (C,) into slots 0..kept-1. Returns how many pairs were swapped.

        Slots keep their KV group: a channel moves only to slots of the same residue modulo `site.groups`. All pairs
        are known before the first row moves. Raises PruningError if the mask does not hold `kept` channels evenly.
        """
        pairs = [self._pairs(keep, kept, group) for group in range(self.site.groups)]
        leaving = torch.cat([p[0] for p in pairs])
        entering = torch.cat([p[1] for p in pairs])
        if not len(leaving):
            return 0
        for block in self._blocks:
            _swap(block, leaving, entering)
        _swap(self.channel.view(-1, 1), leaving, entering)
        return len(leaving)

    def to_channels(self, rows: Tensor) -> Tensor:
        """Per-row values in slot order (C * unit,) to channel order."""
        out = torch.empty_like(rows)
        out.view(-1, self.site.unit)[self.channel] = rows.view(-1, self.site.unit)
        return out

    def kept_channels(self, kept: int) -> Tensor:
        """Channels in slots 0..kept-1, sorted: the pattern C^l."""
        return self.channel[:kept].sort().values

    def restore(self) -> None:
        """Every channel back into its own slot."""
        slot_of = self.channel.argsort()
        for block in self._blocks:
            block.copy_(block.index_select(0, slot_of))
        self.channel.copy_(torch.arange(self.site.channels, device=self.channel.device))

    def _pairs(self, keep: Tensor, kept: int, group: int) -> tuple[Tensor, Tensor]:
        wanted = keep[self.channel]  # (C,) by slot
        slots = torch.arange(self.site.channels, device=wanted.device)
        mine = slots % self.site.groups == group
        leaving = slots[mine & (slots < kept) & ~wanted]
        entering = slots[mine & (slots >= kept) & wanted]
        if len(leaving) != len(entering):
            held = int(keep.sum())
            raise PruningError(
                f"site {self.site.key}: a pattern of {held} channels does not fill {kept} slots evenly over "
                f"{self.site.groups} groups"
            )
        return leaving, entering


def _swap(block: Tensor, a: Tensor, b: Tensor) -> None:
    """Exchange rows a and b of (C, W) in place."""
    first = block.index_select(0, a)
    block.index_copy_(0, a, block.index_select(0, b))
    block.index_copy_(0, b, first)
