"""Where a frame's time goes. The clock is handed in; nothing here waits for a device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch


class Stopwatch:
    """Splits one frame into named stages: `lap(name)` closes the stage that began at the lap before.

    Host time. On CUDA a stage that only issues work is as short as issuing it takes, and the wait lies in the stage
    that needs a result (trigger, post); `total_ms` is the policy call either way.
    """

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


class JobTimer(Protocol):
    """Duration of one job, which may pause between its halves."""

    def begin(self) -> None: ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def end(self) -> None: ...

    def done(self) -> bool:
        """True once the job has ended; never waits."""
        ...

    def ms(self) -> float: ...


class HostJobTimer:
    """By the host's clock."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since = self._sum = 0.0

    def begin(self) -> None:
        self._sum, self._since = 0.0, self._clock()

    def pause(self) -> None:
        self._sum += self._clock() - self._since

    def resume(self) -> None:
        self._since = self._clock()

    def end(self) -> None:
        self.pause()

    def done(self) -> bool:
        return True

    def ms(self) -> float:
        return self._sum * 1e3


class CudaJobTimer:
    """By events of the stream that is current when the job is issued; pauses are none there."""

    def __init__(self) -> None:
        self._begin, self._end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def begin(self) -> None:
        self._begin.record()

    def pause(self) -> None:
        return

    def resume(self) -> None:
        return

    def end(self) -> None:
        self._end.record()

    def done(self) -> bool:
        return bool(self._end.query())

    def ms(self) -> float:
        return float(self._begin.elapsed_time(self._end))


def job_timer(device: torch.device, clock: Callable[[], float]) -> JobTimer:
    """The timer that measures jobs on a device."""
    return CudaJobTimer() if device.type == "cuda" else HostJobTimer(clock)
