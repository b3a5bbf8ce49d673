"""What a refresh leaves for the host to read once it has ended."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ecovla_ros.engine.timing import JobTimer, job_timer

PHASES = ("prefill", "act")

OUTSTANDING = 3
"""Refreshes whose outcomes have room. Two are outstanding at most: the last frame's, and the one before it where the
device was late; whatever is older has ended, as the last frame waited for it and its chunk is on the host."""


@dataclass(frozen=True)
class RefreshState:
    """What the last refresh that has ended did."""

    swaps: int = 0
    pattern_id: int = 0
    duration_ms: float = 0.0
    fault: str = ""


class Outcome:
    """Of one refresh, by phase: its timer, and what it found. Pinned on CUDA, written there without the host."""

    def __init__(self, device: torch.device, clock: Callable[[], float]) -> None:
        self.timers: dict[str, JobTimer] = {p: job_timer(device, clock) for p in PHASES}
        pinned = device.type == "cuda"
        self._found = {p: torch.zeros(2, dtype=torch.int64, pin_memory=pinned) for p in PHASES}
        self.phases: list[str] = []
        """Those whose jobs have been issued to their end; empty: nothing to read."""

    def end(self, phase: str, found: Tensor) -> None:
        """The last step of a phase's job: `found` (2,) int64 says how many pairs were exchanged, and if energies were
        finite."""
        self._found[phase].copy_(found, non_blocking=True)
        self.timers[phase].end()
        self.phases.append(phase)

    def done(self) -> bool:
        """True once every phase has ended; never waits."""
        return all(self.timers[p].done() for p in self.phases)

    def take(self, before: RefreshState) -> RefreshState:
        """The state after this refresh, which is forgotten. Only once it is done."""
        phases, self.phases = self.phases, []
        swaps = sum(int(self._found[p][0]) for p in phases)
        finite = all(int(self._found[p][1]) for p in phases)
        fault = "" if finite else "the energies of a refresh were not finite: the last pattern stays"
        return RefreshState(swaps, before.pattern_id + bool(swaps), sum(self.timers[p].ms() for p in phases), fault)


class Outcomes:
    """A ring of outcomes, the newest last. Jobs of a refresh hold its outcome; the rest is the inference thread's."""

    def __init__(self, device: torch.device, clock: Callable[[], float]) -> None:
        self._device, self._clock = device, clock
        self._ring = deque(Outcome(device, clock) for _ in range(OUTSTANDING))

    @property
    def newest(self) -> Outcome:
        """That of the refresh that was begun last."""
        return self._ring[-1]

    def spare(self) -> Outcome:
        """One that nobody will read."""
        return Outcome(self._device, self._clock)

    def begin(self) -> None:
        """Another refresh: its outcome must not overwrite one that is yet to be read."""
        if self.newest.phases:
            self._ring.rotate(-1)

    def ended(self) -> Outcome | None:
        """The oldest outcome that is yet to be read, if its refresh is done."""
        oldest = next((o for o in self._ring if o.phases), None)
        return oldest if oldest is not None and oldest.done() else None
