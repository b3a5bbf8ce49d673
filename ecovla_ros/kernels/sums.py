"""What a call notes of its channels while it runs (paper, Eq. 8)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

PARTS = 8
"""Stretches of tokens that are recorded apart on a GPU: with one, a program would go through all tokens alone."""


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
    parts: Tensor | None = None
    """(kinds, P, R) float32: the buffers above are its part 0; a kernel may add stretches of tokens to parts of their
    own. None: there is one part."""
    gate: Tensor | None = None
    """(2,) float32, what was seen and a bound: nothing is added where a number was seen that is at least the bound.
    None: everything is. For kernels alone; `add` adds."""

    @property
    def stretches(self) -> int:
        """P."""
        return 1 if self.parts is None else self.parts.shape[1]

    @property
    def step(self) -> int:
        """Elements from one part to the next."""
        return 0 if self.parts is None else self.parts.stride(1)

    def add(self, hidden: Tensor) -> None:
        """Add those of X_int (L, k), by torch."""
        rows, wide = hidden.shape[-1], hidden.float()
        squares = wide.square()
        self.energy[:rows] += squares.sum(0) if self.valid is None else self.valid @ squares
        if self.total is not None:
            self.total[:rows] += wide.sum(0) if self.valid is None else self.valid @ wide
        if self.sampled is not None and self.tokens is not None:
            self.sampled[:rows] += squares.index_select(0, self.tokens).sum(0)


def gate(device: torch.device) -> Tensor:
    """A gate that is open: what is recorded is added."""
    return torch.tensor((0.0, torch.inf), device=device)
