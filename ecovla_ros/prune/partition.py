"""A mask is a permutation, and the sparse model is a prefix: kept channels live in the first slots, in place.

One channel-major copy of the weights. Slots 0..k-1 hold the kept channels, a layer runs on the views [:k], and a
new pattern swaps rows across the border k. Dense is always available on the same buffers, addresses never change,
every state between two swaps is a valid pattern, and several borders k1 < k2 < ... are nested on one buffer: an
exchange across an inner border moves no channel across an outer one that is not between the two slots.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ecovla_ros.errors import PruningError
from ecovla_ros.kernels.rows import RowSwap
from ecovla_ros.kernels.rows import travel as travel_rows
from ecovla_ros.prune.select import Exchange
from ecovla_ros.prune.site import Site


class Partition:
    """Row order of L sites of one shape. `channel[l, slot]` is the channel in a slot of site l; first the identity."""

    def __init__(self, sites: Sequence[Site], known: Sequence[Tensor] = ()) -> None:
        """`known`: statistics (L, C * unit) by slot that travel with the rows, allocated once.

        Raises PruningError for no sites, sites of different shapes, and weights that do not fit their site.
        """
        if not sites or len({(s.channels, s.unit, s.groups) for s in sites}) != 1:
            raise PruningError("a partition needs sites of one shape: equal channels, rows per channel and groups")
        for site in sites:
            _check(site)
        first = sites[0]
        self.sites, self.unit = list(sites), first.unit
        device = first.consumer.device
        self.channel = torch.arange(first.channels, device=device).repeat(len(sites), 1)
        self._blocks = [[w.view(s.channels, -1) for w in (*s.producers, s.consumer, *s.extra)] for s in sites]
        self._of_site = [[v[site].view(first.channels, -1) for v in known] for site in range(len(sites))]
        self._swap = RowSwap(self._blocks, [self.channel, *known])

    def apply(self, swaps: Exchange) -> None:
        """Exchange the wanted pairs: rows of every weight, the channel map, and what is known of the rows."""
        self._swap.apply(*swaps)

    def by_channel(self, values: Tensor) -> Tensor:
        """Per-row values in slot order (L, C * unit) to channel order."""
        blocks = values.unflatten(1, (-1, self.unit))
        index = self.channel[..., None].expand_as(blocks)
        return torch.empty_like(blocks).scatter_(1, index, blocks).flatten(1)

    def by_slot(self, values: Tensor) -> Tensor:
        """Per-row values in channel order (L, C * unit) to slot order."""
        blocks: Tensor = values.unflatten(1, (-1, self.unit))
        return blocks.gather(1, self.channel[..., None].expand_as(blocks)).flatten(1)

    def kept_channels(self, kept: int) -> Tensor:
        """Channels in slots 0..kept-1, sorted: the patterns C^l, (L, kept)."""
        return self.channel[:, :kept].sort(1).values

    def reorder(self, channel: Tensor) -> int:
        """Bring the rows, and what is known of them, into the order `channel` (L, C). Returns how many blocks moved.

        Only the slots that differ are touched; the host waits to know which.
        """
        source = self.channel.argsort(1).gather(1, channel)  # the slot where the wanted channel lies now
        moved = 0
        for blocks, known, found in zip(self._blocks, self._of_site, source):
            slots = (found != torch.arange(len(found), device=found.device)).nonzero()[:, 0]
            moved += len(slots)
            for block in (*blocks, *known) if len(slots) else ():
                block.index_copy_(0, slots, block.index_select(0, found[slots]))
        self.channel.copy_(channel)
        return moved

    def restore(self) -> None:
        """Every channel back into its own slot."""
        slot_of = self.channel.argsort(1)
        for blocks, index in zip(self._blocks, slot_of):
            for block in blocks:
                block.copy_(block.index_select(0, index))
        self.channel.copy_(torch.arange(self.channel.shape[1], device=self.channel.device).expand_as(self.channel))


def travel(values: Tensor, swaps: Exchange, unit: int) -> None:
    """Exchange the wanted pairs in `values` (L, C * unit), in place: what is known of a channel goes where it goes."""
    travel_rows(values, *swaps, unit)


def _check(site: Site) -> None:
    for weight in (*site.producers, site.consumer, *site.extra):
        if weight.shape[0] != site.rows:
            raise PruningError(
                f"site {site.key}: a weight has {weight.shape[0]} rows; valid: {site.channels} channels x "
                f"{site.unit} = {site.rows}"
            )
        if not (weight.is_contiguous() or (site.unit == 1 and weight.stride(-1) == 1)):
            raise PruningError(f"site {site.key}: a row of a weight is not contiguous: rows cannot be swapped in place")
