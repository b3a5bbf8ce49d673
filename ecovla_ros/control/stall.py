"""Whether the arm moves at all while it is commanded to.

A controller that was deactivated, or an arm that no longer listens, drops what it is sent. Chunks start from where the
arm is, so that such an arm never is far from where it is commanded; but the way it is told to go grows, and the way it
goes does not. Without this the guard would drive on, and the controller would leap once it is active again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ecovla_ros.control.checks import distance
from ecovla_ros.control.playback import NS
from ecovla_ros.types import JOINTS, Floats

WAY_RAD = 0.1
"""A joint is judged when it was told to go so far, all turns to and fro added, rad."""
SPAN_S = (0.4, 4.0)
"""Within at most the second time, s; an arm that follows late has at least the first to begin."""
LATELY_S = 0.2
"""Whether the other joints stand too is told by so much of the end of that time, s."""
SHARE = 0.1
"""A joint that went less of its way than this share stands."""
STEP_S = 0.05
"""Ways are added up in steps so long, s, or the noise of a standing arm would count as a way."""
KEPT = round(SPAN_S[1] / STEP_S)


@dataclass(frozen=True)
class Stall:
    """What stands."""

    joint: int
    """The first joint that was told to move and did not."""
    whole: bool
    """Whether no joint at all moved: then nothing of what was sent runs."""


class StallWatch:
    """Commanded and measured positions in, what stands out. Time is handed in, nanoseconds."""

    def __init__(self) -> None:
        self._ways = np.zeros((KEPT, 2, len(JOINTS)))  # told and gone so far, rad; a ring
        self._times_ns = np.zeros(KEPT, np.int64)
        self._count = 0
        self._before: tuple[Floats, Floats] | None = None

    def forget(self) -> None:
        """The clock jumped, or the arm was enabled anew: what was seen is not continued."""
        self._count, self._before = 0, None

    def see(self, commanded: Floats, measured: Floats, now_ns: int) -> Stall | None:
        """Both (7,), rad. None when every joint that was told to move does, or there is nothing to judge.

        What is commanded and what is measured need not be of one time: ways are compared, not places.
        """
        newest = (self._count - 1) % KEPT
        if self._before is None:
            way: Floats = np.zeros((2, len(JOINTS)))
        elif now_ns - self._times_ns[newest] < STEP_S * NS:
            return None
        else:
            pairs = zip((commanded, measured), self._before, strict=True)
            way = self._ways[newest] + np.array([np.abs(distance(here, there)) for here, there in pairs])
        self._before = commanded.copy(), measured.copy()
        slot = self._count % KEPT
        self._ways[slot], self._times_ns[slot] = way, now_ns
        self._count += 1
        return self._standing(way, now_ns)

    def _standing(self, way: Floats, now_ns: int) -> Stall | None:
        kept = slice(min(self._count, KEPT))
        ages_s = (now_ns - self._times_ns[kept]) / NS
        told, gone = np.moveaxis(way - self._ways[kept], 1, 0)
        judged = (told.max(axis=1) >= WAY_RAD) & (ages_s >= SPAN_S[0]) & (ages_s <= SPAN_S[1])
        if not judged.any():
            return None
        since = int(np.flatnonzero(judged)[ages_s[judged].argmin()])
        stands = (told[since] >= WAY_RAD) & (gone[since] < SHARE * told[since])
        if not stands.any():
            return None
        lately = gone[ages_s <= LATELY_S].max(axis=0, initial=0.0)
        return Stall(int(stands.argmax()), bool((lately < SHARE * WAY_RAD).all()))
