"""What the expert attends to: K/V of the prefix, of which later layers may hold fewer tokens (FastV), and its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from torch import Tensor, nn

from ecovla_ros.models.core.cache import Cache
from ecovla_ros.models.core.keys import Keys
from ecovla_ros.models.core.layers import Extend, LastNorm, Rope, Use, run


class PrefixContext(NamedTuple):
    """Layers first..last-1, whose caches begin with `length` tokens of the prefix."""

    first: int
    last: int
    length: int
    valid: Tensor | None
    """(length,) float32, 0 for padding; None: no padding."""
    gap: Tensor | None = None
    """(2,) int32: where in these tokens the padding lies; None: no padding."""
    stay: Tensor | None = None
    """Which positions of the prefix these are, (length,) int64, ascending; None: all."""

    def runner(
        self, blocks: Iterable[nn.Module], caches: Sequence[Cache], offset: int, count: int
    ) -> Callable[[Tensor, Rope, Sequence[Use], LastNorm | None], Tensor]:
        """Those of `blocks` that are these layers, over `count` tokens that lie `offset` behind the prefix.

        Takes hidden states (1, count, width), their rotary tables, the uses of all blocks, and the norm behind them.
        """
        layers = slice(self.first, self.last)
        mine = list(blocks)[layers]
        extends: list[Extend] = [cache.at(self.length + offset) for cache in caches[layers]]
        keys = self.keys(count, offset + count)

        def through(x: Tensor, rope: Rope, uses: Sequence[Use], last: LastNorm | None) -> Tensor:
            return run(mine, x, rope, extends, keys, uses[layers], last)

        return through

    def keys(self, length: int, more: int) -> Keys | None:
        """What `length` rows see of these tokens and of `more` behind them: all but padding."""
        return None if self.gap is None else Keys(length, self.length + more, self.gap, device=self.gap.device)
