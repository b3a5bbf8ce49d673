"""What can be pruned, and how one pass runs. Weights in, no model names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Site:
    """One group of coupled rows that may be reordered without changing the function (paper, Eq. 1-4).

    Every weight is channel-major: row block c (of `unit` rows) belongs to channel c, so that the layer restricted
    to its first k channels is the layer run on the views `w[: k * unit]`.
    """

    key: str
    """Unique name, e.g. "lm.3.mlp", "expert.0.heads"."""
    group: str
    """What the configuration selects: "lm.mlp", "lm.heads", "expert.mlp", "expert.heads"."""
    phase: str
    """When it runs: "prefill" or "act"."""
    channels: int
    """C: hidden channels of an MLP, or query heads."""
    unit: int
    """Rows per channel: 1 (MLP) or the head dimension."""
    producers: tuple[Tensor, ...]
    """Weights whose out-rows are the channels, each (C * unit, D): gate and up, or query."""
    consumer: Tensor
    """Transposed W_down or W_O, (C * unit, D)."""
    step: int = 32
    """Kept counts are a multiple of this: 32 for MLP channels, the number of KV groups for heads."""
    calls: int = 1
    """How often the site runs in one frame (flow steps for the expert)."""
    extra: tuple[Tensor, ...] = ()
    """Per-row vectors that travel with the rows, each (C * unit,): biases."""

    @property
    def groups(self) -> int:
        """KV groups among which kept heads are spread evenly; slot s belongs to group s mod groups. 1 for an MLP."""
        return self.step if self.unit > 1 else 1


@dataclass(frozen=True)
class Plan:
    """How one pass runs: how many leading channels of each site, and whether energies are recorded."""

    kept: Mapping[str, int] = field(default_factory=dict)
    """Site key -> kept channels k (a prefix). A site not named runs with all its channels."""
    energy: Mapping[str, Tensor] | None = None
    """Site key -> float32 buffer (C * unit,); a pass ADDS sum over the sequence of X_int^2 (Eq. 8) to its first
    k * unit entries, in slot order. None: nothing is recorded."""


DENSE = Plan()
