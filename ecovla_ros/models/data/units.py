"""Units: between what an arm measures and is commanded, and the numbers a model works with."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ecovla_ros.types import ActionChunk, Observation


class HasUnits(Protocol):
    """A policy of a checkpoint."""

    normaliser: Units


class Units(Protocol):
    """One data set's units. `Normaliser` is this arm's joints, `ToolMotion` moves its tool, `OtherArmUnits` neither."""

    @property
    def widths(self) -> tuple[int, int]:
        """Numbers of a state and of an action."""
        ...

    @property
    def action_mean(self) -> tuple[tuple[float, ...], ...]:
        """The mean action of every row of a chunk: as many rows as the chunk has."""
        ...

    def observed(self, observation: Observation) -> NDArray[np.float64]:
        """Normalised state (D,) of an observation. Raises ObservationError."""
        ...

    def chunk(self, normalised: ArrayLike, observation: Observation, period_s: float) -> ActionChunk:
        """Normalised actions (H, D) as the answer to an observation, in new arrays."""
        ...
