"""Where a frame's time goes. The clock is handed in; nothing here waits for a device."""

from __future__ import annotations

from collections.abc import Callable


class Stopwatch:
    """Splits one frame into named stages: `lap(name)` closes the stage that began at the lap before."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._start = self._last = 0.0
        self.stages_ms: dict[str, float] = {}

    def start(self) -> None:
        """Begin a frame."""
        self._start = self._last = self._clock()
        self.stages_ms = {}

    def lap(self, name: str) -> None:
        """Name the time since the last lap, ms."""
        now = self._clock()
        self.stages_ms[name] = self.stages_ms.get(name, 0.0) + (now - self._last) * 1e3
        self._last = now

    def total_ms(self) -> float:
        """Time since `start`, ms."""
        return (self._clock() - self._start) * 1e3
