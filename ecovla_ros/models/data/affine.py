"""What statistics of training data are: affine maps of state and actions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Affine:
    """raw = mean + std * normalised, per dimension."""

    mean: NDArray[np.float64]
    std: NDArray[np.float64]


@dataclass(frozen=True)
class Statistics:
    """Of state (None: the model takes none) and actions, with how they were used in training."""

    state: Affine | None
    action: Affine
    mode: str
    source: str
    """File they stand in."""
