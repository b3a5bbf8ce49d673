"""What a call notes of its channels while it runs (paper, Eq. 8)."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Sums(NamedTuple):
    """Buffers of at least k float32, to whose first k a call with k channels adds."""

    energy: Tensor
    """Sum over tokens of X_int^2."""
    total: Tensor | None = None
    """Sum over tokens of X_int."""
    sampled: Tensor | None = None
    """Sum of X_int^2 over the tokens `tokens`, as often as each is named."""
    tokens: Tensor | None = None
    """(m,) int64."""
    valid: Tensor | None = None
    """(L,) float32: 0 for a token that counts in neither energy nor total; None: all count."""

    def add(self, hidden: Tensor) -> None:
        """Add those of X_int (L, k), by torch."""
        rows, wide = hidden.shape[-1], hidden.float()
        squares = wide.square()
        self.energy[:rows] += squares.sum(0) if self.valid is None else self.valid @ squares
        if self.total is not None:
            self.total[:rows] += wide.sum(0) if self.valid is None else self.valid @ wide
        if self.sampled is not None and self.tokens is not None:
            self.sampled[:rows] += squares.index_select(0, self.tokens).sum(0)
