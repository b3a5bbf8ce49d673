"""Which keys the positions of a pass may attend to: said once, as lengths for kernels and as booleans for torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ecovla_ros.kernels import attention


@dataclass(frozen=True)
class Keys:
    """`length` rows over `count` keys, of which one stretch may be padding."""

    length: int
    count: int
    gap: Tensor | None = None
    """(2,) int32: keys gap[0]..gap[1]-1 are padding. None: none is."""
    causal: bool = False
    """Row l sees keys 0..positions[l]."""
    positions: Tensor | None = None
    """(length,) int64; None: 0..length-1."""
    segments: int = 1
    """Rows and keys lie in so many equal parts, which do not see one another."""
    device: torch.device | None = None

    @cached_property
    def mask(self) -> Tensor | None:
        """(length or 1, count) bool, True where a key may be seen; None: everywhere."""
        device = self.device or torch.device("cpu")
        if not self.causal and self.gap is None and self.segments == 1:
            return None
        return attention.mask(self.length, self.count, self.gap, self.causal, self.positions, self.segments, device)

    def of(self, rows: slice) -> Keys:
        """The same keys for the rows `rows` alone."""
        return self.narrowed(rows, keys=False)

    def narrowed(self, index: Tensor | slice, keys: bool) -> Keys:
        """The rows `index`, and with `keys` the same keys: others are not attended to any more (`index` ascending)."""
        places = torch.arange(self.length, device=self.device) if self.positions is None else self.positions
        places = places[index]
        if not keys:
            return replace(self, length=len(places), positions=places if self.causal else None)
        gap = self.gap
        if gap is not None:
            stay = torch.arange(self.count, device=self.device)[index]
            gap = torch.searchsorted(stay, gap.long()).int()
        return replace(self, length=len(places), count=len(places), gap=gap, positions=None)


def gap_of(valid: Tensor) -> Tensor:
    """(2,) int32: where the one stretch of zeros in `valid` (S,) begins and ends; (0, 0) where there is none."""
    empty = valid == 0
    first = empty.int().argmax()
    return torch.stack((first, first + empty.sum())).int()
