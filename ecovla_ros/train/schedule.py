"""Learning rate over a run whose length is given in time."""

from __future__ import annotations

import math


def cosine(progress: float, step: int, warm_up: int = 200, floor: float = 0.02) -> float:
    """Factor of the learning rate: linear over the first `warm_up` steps, then a cosine from 1 to `floor`."""
    return min(1.0, (step + 1) / warm_up) * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))))
