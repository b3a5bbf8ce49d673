"""Where the refresh runs while the frame goes on. One interface, four stand-ins:

`aside(job)` sets a job aside; it may start once everything issued before it on the main stream is done.
`rest()` says the frame is over: what was set aside may use the machine until the next `join`.
`join()` returns, or orders the main stream, only after every job set aside is done. The next frame joins before it
reads a pattern or writes a record. A job that raises is reported by `join` as its error, once, after it has ended.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Protocol

import torch

Job = Callable[[], None]


class Streams(Protocol):
    """See the module docstring."""

    def aside(self, job: Job) -> None: ...

    def rest(self) -> None: ...

    def join(self) -> None: ...

    def close(self) -> None: ...


class Inline:
    """Runs a job at once, on the caller's thread."""

    def aside(self, job: Job) -> None:
        job()

    def rest(self) -> None:
        return

    def join(self) -> None:
        return

    def close(self) -> None:
        return


class Deferred:
    """Runs jobs as late as allowed: at `join`. What differs from `Inline` is an ordering fault."""

    def __init__(self) -> None:
        self._jobs: deque[Job] = deque()

    def aside(self, job: Job) -> None:
        self._jobs.append(job)

    def rest(self) -> None:
        return

    def join(self) -> None:
        while self._jobs:
            self._jobs.popleft()()

    def close(self) -> None:
        self._jobs.clear()


class Worker:
    """CPU: one thread that runs jobs between `rest` and `join`, in the gap between two frames.

    Threads: `aside`, `rest`, `join` and `close` belong to the inference thread; jobs run on the worker alone.
    `join` also releases jobs that were never given a gap, so a frame that comes early waits for its pattern.
    """

    def __init__(self) -> None:
        self._set_aside: deque[Job] = deque()
        self._released: deque[Job] = deque()
        self._wake = threading.Condition()
        self._busy = False
        self._closed = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="ecovla-refresh", daemon=True)
        self._thread.start()

    def aside(self, job: Job) -> None:
        self._set_aside.append(job)

    def rest(self) -> None:
        with self._wake:
            self._released.extend(self._set_aside)
            self._set_aside.clear()
            self._wake.notify_all()

    def join(self) -> None:
        self.rest()
        with self._wake:
            self._wake.wait_for(lambda: not self._released and not self._busy)
            error, self._error = self._error, None
        if error is not None:
            raise error

    def close(self) -> None:
        """Let the running job end and stop the thread. May be called twice."""
        with self._wake:
            self._closed = True
            self._released.clear()
            self._wake.notify_all()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._released or self._closed)
                if self._closed:
                    return
                job = self._released.popleft()
                self._busy = True
            try:
                with torch.inference_mode():
                    job()
            except BaseException as error:  # handed to the inference thread by join, whatever it is
                self._error = error
            finally:
                with self._wake:
                    self._busy = False
                    self._wake.notify_all()


class CudaSide:
    """CUDA: a low-priority stream ordered by events. Jobs must own their buffers: nothing crosses the allocator."""

    def __init__(self, device: torch.device) -> None:
        low, _ = torch.cuda.Stream.priority_range()
        self._side = torch.cuda.Stream(device, priority=low)
        self._done = torch.cuda.Event()
        self._pending = False

    def aside(self, job: Job) -> None:
        self._side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._side):
            job()
            self._done.record(self._side)
        self._pending = True

    def rest(self) -> None:
        return

    def join(self) -> None:
        """Order the main stream after the side stream; the host does not wait."""
        if self._pending:
            torch.cuda.current_stream().wait_event(self._done)
            self._pending = False

    def close(self) -> None:
        self._side.synchronize()


def streams_for(device: torch.device) -> Streams:
    """The stream pair that fits the device."""
    return CudaSide(device) if device.type == "cuda" else Worker()
