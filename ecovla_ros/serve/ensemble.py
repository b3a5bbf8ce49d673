"""Temporal ensembling: averages what the last chunks say of this instant, weighted by their agreement with the newest.

CogACT's adaptive form (arXiv 2411.19650, sec. 3.4): weight of a prediction = exp(alpha * cosine(prediction, newest)),
normalised. alpha 0 is the plain mean. Needs an inference for every action.
"""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from ecovla_ros.errors import ConfigError


class Ensemble:
    """The last `window` chunks of one episode; chunk i steps old says its row i of now."""

    def __init__(self, window: int, alpha: float) -> None:
        """Raises ConfigError for a window below 1 or an alpha that is not finite."""
        if window < 1 or not np.isfinite(alpha):
            raise ConfigError(f"an ensemble of {window} chunks with alpha {alpha}; valid: 1 or more, and a number")
        self._chunks: deque[NDArray[np.float32]] = deque(maxlen=window)
        self._alpha = alpha

    def reset(self) -> None:
        """A new episode."""
        self._chunks.clear()

    def action(self, chunk: NDArray[np.float32]) -> NDArray[np.float32]:
        """The newest chunk (H, D) in, the action of now (D,) out. A chunk shorter than its age is silent."""
        self._chunks.appendleft(chunk)
        said = np.stack([past[age] for age, past in enumerate(self._chunks) if age < len(past)]).astype(np.float64)
        newest = said[0]
        lengths = np.linalg.norm(said, axis=1) * np.linalg.norm(newest)
        weights = np.exp(self._alpha * (said @ newest) / np.maximum(lengths, 1e-7))
        return (weights @ said / weights.sum()).astype(np.float32)
