"""What the expert attends to: K/V of the prefix, of which later layers may hold fewer tokens (FastV), and its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from ecovla_ros.models.core.cache import Cache
from ecovla_ros.models.core.layers import Extend, Rope, Use, key_mask, run


class PrefixContext(NamedTuple):
    """Layers first..last-1, whose caches begin with `length` tokens of the prefix."""

    first: int
    last: int
    length: int
    valid: Tensor | None
    """(length,) float32, 0 for padding; None: no padding."""
    stay: Tensor | None = None
    """Which positions of the prefix these are, (length,) int64, ascending; None: all."""

    def runner(
        self, blocks: Iterable[nn.Module], caches: Sequence[Cache], offset: int, count: int
    ) -> Callable[[Tensor, Rope, Sequence[Use]], Tensor]:
        """Those of `blocks` that are these layers, over `count` tokens that lie `offset` behind the prefix.

        Takes hidden states (1, count, width), their rotary tables and the uses of all blocks.
        """
        layers = slice(self.first, self.last)
        mine = list(blocks)[layers]
        extends: list[Extend] = [partial(cache.write, self.length + offset) for cache in caches[layers]]
        mask = suffix_mask(self.valid, offset + count)

        def through(x: Tensor, rope: Rope, uses: Sequence[Use]) -> Tensor:
            return run(mine, x, rope, extends, mask, uses[layers])

        return through


def suffix_mask(valid: Tensor | None, more: int) -> Tensor | None:
    """Keys (1, 1, 1, S + more) that may be seen: those of `valid` (S,), and all `more` behind them."""
    return None if valid is None else key_mask(F.pad(valid, (0, more), value=1.0)[None])
