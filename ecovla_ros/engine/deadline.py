"""Which ratio a frame runs with: as many kept channels as still meet the deadline, by measured times."""

from __future__ import annotations

from collections.abc import Sequence

from ecovla_ros.errors import PruningError

SMOOTHING = 0.2
"""Weight of the newest frame in the load."""
HEADROOM = 0.1
"""A tier with more channels is taken only if it would leave this share of the deadline unused."""
PATIENCE = 5
"""... and only after it would have done so for this many frames in a row."""


class Deadline:
    """Picks a tier per frame; tiers are ordered from the most channels to the fewest.

    `idle_ms` holds the policy time of each tier as measured before the first frame. How much slower the machine is now
    is one factor for all tiers, the load: a moving average of measured over idle time. Towards fewer channels a frame
    changes at once, back only with headroom and patience, so that a time near the deadline does not make it oscillate.
    """

    def __init__(self, deadline_ms: float, idle_ms: Sequence[float]) -> None:
        """Raises PruningError for a deadline or times that are not positive."""
        if not deadline_ms > 0 or not idle_ms or not all(t > 0 for t in idle_ms):
            raise PruningError(f"deadline {deadline_ms} ms with tier times {list(idle_ms)} ms; valid: positive times")
        self._deadline_ms, self._idle_ms = deadline_ms, list(idle_ms)
        self._load, self._patience = 1.0, 0
        self.tier = self._fitting(1.0)

    @property
    def expected_ms(self) -> list[float]:
        """Policy time of every tier at the present load, ms."""
        return [t * self._load for t in self._idle_ms]

    def choose(self) -> int:
        """The tier of the next frame; the last one, if none meets the deadline."""
        if self.expected_ms[self.tier] > self._deadline_ms:
            self.tier, self._patience = self._fitting(1.0), 0
            return self.tier
        better = self._fitting(1.0 - HEADROOM)
        self._patience = self._patience + 1 if better < self.tier else 0
        if self._patience > PATIENCE:
            self.tier, self._patience = better, 0
        return self.tier

    def measured(self, tier: int, policy_ms: float) -> None:
        """Take the time of a frame that ran with a tier; a time that is not positive is left out."""
        if policy_ms > 0:
            self._load += SMOOTHING * (policy_ms / self._idle_ms[tier] - self._load)

    def _fitting(self, share: float) -> int:
        limit = share * self._deadline_ms
        return next((i for i, t in enumerate(self.expected_ms) if t <= limit), len(self._idle_ms) - 1)
