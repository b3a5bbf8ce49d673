"""Whether a frame is issued before its trigger is read: what being ready to record costs every frame, beside asking.

A frame that goes ahead is one that can record: kernels find on the device whether that is wanted, and what is recorded
without them is recorded whether a refresh follows or not. A frame that asks first lets the device stand still while
the host reads one number and issues the prefill, and records only where a refresh follows. Which costs less is a fact
of the model and the machine, so frames of which nothing is wanted are timed both ways in warm-up.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

ASKING_MS = 0.1
"""What asking takes, an estimate: a wake-up of the host, and the launch of a captured prefill."""
REPEATS = 5


def asks_first(sparse: Callable[[], float], recording: Callable[[], float]) -> bool:
    """Whether asking is cheaper: `sparse` and `recording` run one frame each way, and say how long it took, ms.

    In turn, so that a drift of the machine hits both alike.
    """
    pairs = [(sparse(), recording()) for _ in range(REPEATS)]
    plain, noted = (statistics.median(times) for times in zip(*pairs))
    return bool(noted - plain > ASKING_MS)
