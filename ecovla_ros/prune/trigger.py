"""When to refresh the pattern: a sliding quantile of scene similarity (paper, Eq. 6 and 7). Knows no model."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass

from ecovla_ros.errors import PruningError


@dataclass(frozen=True)
class Decision:
    """What the trigger says of one frame."""

    fired: bool
    similarity: float
    threshold: float
    """Quantile(H_t, p); NaN while there is no history."""


class Trigger:
    """u_t = 1 iff s_t < Quantile(H_t, p), H_t the last T similarities including s_t.

    A similarity that is not a number (first frame, a camera gone, NaN tokens) fires and stays out of the history:
    nothing is known of such a scene, and one bad frame must not bend the quantile of the next T.
    A constant history never fires: nothing is strictly below its own quantile.
    """

    def __init__(self, p: float, window: int) -> None:
        if not 0.0 <= p <= 1.0:
            raise PruningError(f"trigger quantile p = {p}; valid: 0 to 1")
        if window < 2:
            raise PruningError(f"trigger window T = {window} frames; valid: 2 or more")
        self._p = p
        self._history: deque[float] = deque(maxlen=window)
        self._bound: float | None = None
        """As `bound` found it since the history last changed."""

    def update(self, similarity: float) -> Decision:
        """Take s_t into the history and decide."""
        if not math.isfinite(similarity):
            return Decision(True, similarity, float("nan"))
        self._history.append(similarity)
        self._bound = None
        threshold = quantile(self._history, self._p)
        return Decision(similarity < threshold, similarity, threshold)

    def bound(self) -> float:
        """What the next similarity must be below to fire, but for rounding; one that is not below surely does not.

        Known before it is, since its own quantile is: of n values the one at place (n - 1) p from below, or a mean of
        that and the next. s_t is below it only if it is among the ones before that place, or at it with a larger next.
        """
        if self._bound is None:
            others = sorted(list(self._history)[1 - (self._history.maxlen or 0) :])
            place = len(others) * self._p
            below = math.floor(place)
            first = below if place > below else below - 1
            self._bound = others[first] if 0 <= first < len(others) else -math.inf
        return self._bound

    def reset(self) -> None:
        """Forget the history: a new episode, or a clock that jumped."""
        self._history.clear()
        self._bound = None


def quantile(values: Collection[float], p: float) -> float:
    """What `numpy.quantile` gives, to the bit, in a fraction of the time: the frame of a small model waits for it."""
    ordered = sorted(values)
    place = (len(ordered) - 1) * p
    below = math.floor(place)
    share, low, high = place - below, ordered[below], ordered[min(below + 1, len(ordered) - 1)]
    return low + (high - low) * share if share < 0.5 else high - (high - low) * (1.0 - share)
