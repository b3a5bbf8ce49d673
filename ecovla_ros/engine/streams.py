"""Where the refresh runs while the frame goes on. One interface, four stand-ins.

A job has two halves: called, it computes and writes nothing that a frame reads; what it returns writes.

`mark()` names the place that the main stream has been issued to.
`aside(job, mark)` sets a job aside; it may start once everything issued before the mark on the main stream is done.
`release(later)` says the rest of the frame has been issued: a device may be given what was set aside, while the host
waits for the answer. `later`: `rest` comes once the answer is on its way; what begins behind the frame waits for that.
`rest()` says the frame is over, its answer on its way: what was set aside may use the machine until the next `join`.
`join(limit_s)` returns, or orders the main stream, only after every job set aside is done. The next frame joins before
it reads a pattern or writes a record. A job that raises is reported by `join` as a PruningError, once, after it has
ended; inference goes on whatever it was. One that has not come to its writing half after `limit_s` is given up: it
will never write, `join` raises PruningError, and until it ends `free` is False and no job may be set aside.
`finish()` follows a `join` where the host itself must know that every job has ended; no frame calls it.
`waited_ms()` is how long a device stood still in joins since it was last asked, once the frame's chunk is on the host;
None where the host itself waits in `join`.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import torch

from ecovla_ros.engine.recorder import CudaRecorder, Recorder
from ecovla_ros.errors import PruningError

Job = Callable[[], Callable[[], None]]

PLACES = 3
"""Marks of one frame: behind the prefill, behind the action head, and behind all of it."""


class Streams(Protocol):
    """See the module docstring."""

    @property
    def free(self) -> bool: ...

    @property
    def recorder(self) -> Recorder | None:
        """Captures jobs where they run; None where they are run as they are."""
        ...

    def mark(self) -> Any: ...

    def aside(self, job: Job, mark: Any = None) -> None: ...

    def release(self, later: bool = False) -> None: ...

    def rest(self) -> None: ...

    def join(self, limit_s: float | None = None) -> None: ...

    def finish(self) -> None: ...

    def waited_ms(self) -> float | None: ...

    def close(self) -> None: ...


class Inline:
    """Runs a job at once, on the caller's thread."""

    free = True
    recorder: Recorder | None = None

    def __init__(self) -> None:
        self._error: Exception | None = None

    def mark(self) -> Any:
        return None

    def aside(self, job: Job, mark: Any = None) -> None:
        try:
            job()()
        except Exception as error:  # whatever a refresh raises, the frame goes on; join reports it
            self._error = error

    def release(self, later: bool = False) -> None:
        return

    def rest(self) -> None:
        return

    def join(self, limit_s: float | None = None) -> None:
        error, self._error = self._error, None
        report(error)

    def finish(self) -> None:
        return

    def waited_ms(self) -> float | None:
        return None

    def close(self) -> None:
        return


class Deferred(Inline):
    """Runs jobs as late as allowed: at `join`. What differs from `Inline` is an ordering fault."""

    def __init__(self) -> None:
        super().__init__()
        self._jobs: deque[Job] = deque()

    def aside(self, job: Job, mark: Any = None) -> None:
        self._jobs.append(job)

    def join(self, limit_s: float | None = None) -> None:
        while self._jobs:
            super().aside(self._jobs.popleft())
        super().join(limit_s)

    def close(self) -> None:
        self._jobs.clear()


class Worker:
    """CPU: one thread that runs jobs.

    `overlap` False: between `rest` and `join`, in the gap between two frames, when the cores are idle. True: from
    `aside` on, beside the action head, on a core that the model leaves free.

    Threads: `aside`, `release`, `rest`, `join` and `close` belong to the inference thread; jobs run on the worker
    alone. `join` also releases jobs that were never given a gap, so a frame that comes early waits for its pattern.
    """

    recorder: Recorder | None = None

    def __init__(self, overlap: bool = False) -> None:
        self._overlap = overlap
        self._set_aside: deque[Job] = deque()
        self._released: deque[Job] = deque()
        self._wake = threading.Condition()
        self._generation = 0  # what belongs to an earlier one has been given up
        self._busy_with: int | None = None
        self._writing = self._closed = False
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="ecovla-refresh", daemon=True)
        self._thread.start()

    @property
    def free(self) -> bool:
        """False while a job that was given up has not ended."""
        with self._wake:
            return self._busy_with is None or self._busy_with == self._generation

    def mark(self) -> Any:
        return None

    def aside(self, job: Job, mark: Any = None) -> None:
        self._set_aside.append(job)
        if self._overlap:
            self.rest()

    def release(self, later: bool = False) -> None:
        return

    def rest(self) -> None:
        with self._wake:
            self._released.extend(self._set_aside)
            self._set_aside.clear()
            self._wake.notify_all()

    def join(self, limit_s: float | None = None) -> None:
        self.rest()
        with self._wake:
            if not self._wake.wait_for(self._idle, limit_s):
                self._wake.wait_for(lambda: not self._writing)  # rows being copied: short, and never left half done
                if not self._idle():
                    self._released.clear()
                    self._generation += 1
                    raise PruningError(f"the refresh has not ended after {limit_s} s and was given up")
            error, self._error = self._error, None
        report(error)

    def finish(self) -> None:
        return

    def waited_ms(self) -> float | None:
        return None

    def close(self) -> None:
        """Let the job at work end, unless it was given up, and stop the thread. May be called twice."""
        with self._wake:
            self._closed = True
            self._released.clear()
            self._wake.notify_all()
        if self.free:
            self._thread.join()

    def _idle(self) -> bool:
        return not self._released and self._busy_with != self._generation

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._released or self._closed)
                if self._closed:
                    return
                job, generation = self._released.popleft(), self._generation
                self._busy_with = generation
            try:
                with torch.inference_mode():
                    self._write(job(), generation)
            except Exception as error:  # whatever a refresh raises, inference goes on; join reports it
                with self._wake:
                    if generation == self._generation:
                        self._error = error
                        self._released.clear()  # the second phase of a refresh that failed makes no sense
            finally:
                with self._wake:
                    self._busy_with, self._writing = None, False
                    self._wake.notify_all()

    def _write(self, write: Callable[[], None], generation: int) -> None:
        with self._wake:
            if generation != self._generation:
                return
            self._writing = True
        write()


class CudaSide:
    """CUDA: a side stream ordered by events. Jobs must own their buffers: nothing crosses the allocator.

    Its priority is the lowest there is, which is 0, the default stream's too: only what runs on a stream of high
    priority goes before the refresh, and that is the captured graphs (`engine/graphs`). Passes that were not captured
    share the device with it as equals.

    A job waits for what the main stream had been given when it was set aside, so that it runs beside the action head
    (paper, sec. 4.2), or, `behind_frame`, for the whole frame, so that it runs while the robot moves, and beside the
    towers of a frame that follows at once. Either way it is issued only after the rest of the frame was: its launches
    cost the host no time before the action head's. Its kernels are fixed in number and wait for nothing but that event,
    so there is nothing here to give up.
    """

    free = True

    def __init__(self, device: torch.device, graphs: bool = True, behind_frame: bool = False) -> None:
        """`graphs`: jobs may be captured, into a memory pool of their own, as they run beside the frame's."""
        self._behind_frame = behind_frame
        low, _ = torch.cuda.Stream.priority_range()  # type: ignore[call-arg]
        self._side = torch.cuda.Stream(device, priority=low)
        self.recorder: Recorder | None = CudaRecorder(device, self._side) if graphs else None
        self._ready = [torch.cuda.Event() for _ in range(2 * PLACES)]
        self._marks = 0
        self._done = torch.cuda.Event()
        self._around = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(2)]
        self._waits = 0  # joins that ordered something since `waited_ms`: a frame's own, and one before a dense answer
        self._jobs: deque[tuple[Job, torch.cuda.Event]] = deque()
        self._pending = False
        self._error: Exception | None = None

    def mark(self) -> torch.cuda.Event:
        """An event on the main stream; good for the frame and the one after it."""
        event = self._ready[self._marks % len(self._ready)]
        self._marks += 1
        event.record()
        return event

    def aside(self, job: Job, mark: Any = None) -> None:
        self._jobs.append((job, self.mark() if mark is None else mark))

    def release(self, later: bool = False) -> None:
        if not (later and self._behind_frame):
            self._issue()

    def _issue(self) -> None:
        if not self._jobs:
            return
        frame = self.mark() if self._behind_frame else None
        with torch.cuda.stream(self._side):
            while self._jobs:
                job, event = self._jobs.popleft()
                self._side.wait_event(event if frame is None else frame)
                try:
                    job()()
                except Exception as error:  # whatever a refresh raises, the frame goes on; join reports it
                    self._error = error
            self._done.record(self._side)
        self._pending = True

    def rest(self) -> None:
        self._issue()

    def join(self, limit_s: float | None = None) -> None:
        """Order the main stream after the side stream; the host does not wait."""
        self._issue()
        if self._pending:
            before, after = self._around[self._waits % len(self._around)]
            before.record()
            torch.cuda.current_stream().wait_event(self._done)
            after.record()
            self._waits, self._pending = self._waits + 1, False
        error, self._error = self._error, None
        report(error)

    def finish(self) -> None:
        """What was waited for until here was in no frame's way."""
        self._side.synchronize()
        self._waits = 0

    def waited_ms(self) -> float | None:
        taken, self._waits = self._around[: self._waits], 0
        return float(sum(before.elapsed_time(after) for before, after in taken))

    def close(self) -> None:
        self._side.synchronize()


def report(error: Exception | None) -> None:
    """Raise what a job raised, as a PruningError that names it."""
    if error is not None:
        raise PruningError(f"the refresh failed: {type(error).__name__}: {error}") from error


def streams_for(device: torch.device, graphs: bool = True, behind_frame: bool = False) -> Streams:
    """The streams that fit the device. `graphs`: on CUDA a refresh is captured. `behind_frame`: see `CudaSide`."""
    return CudaSide(device, graphs, behind_frame) if device.type == "cuda" else Worker()
