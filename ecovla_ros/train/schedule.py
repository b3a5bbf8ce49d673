"""Learning rate over a run, and what counts as its time."""

from __future__ import annotations

import math

LONGEST_STEP_S = 5.0
"""A step that took longer was stopped from outside; the rest of it does not count as training time."""


def cosine(progress: float, step: int, warm_up: int = 200, floor: float = 0.02) -> float:
    """Factor of the learning rate: linear over the first `warm_up` steps, then a cosine from 1 to `floor`."""
    return min(1.0, (step + 1) / warm_up) * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))))
