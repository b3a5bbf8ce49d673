"""Prefill and act as captured graphs, one per plan and shape. The engine sees an ordinary policy.

A graph bakes addresses, not contents. Weights are swapped in place, records, biases and K/V lie in buffers that are
allocated once, and the inputs of a frame are copied into the tensors that were captured: so a graph stays valid
whatever the pattern, the image or the noise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from ecovla_ros.models.base import Plan, Policy, PolicySpec, Seen, Site
from ecovla_ros.types import ActionChunk, Observation

INPUTS = ("prefix", "state", "valid", "reuse")
"""Fields of an encoded frame that a pass reads."""

WARM_UPS = 3
"""Runs before a capture: libraries choose kernels and allocate workspaces then."""


class Recorder(Protocol):
    """Turns a function without arguments, over fixed tensors, into something that can be run again."""

    def capture(self, run: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        """Returns what runs it again, and the value it gave, which every run overwrites."""
        ...


class CudaRecorder:
    """CUDA graphs out of one memory pool, captured on a stream of high priority, which their kernels keep.

    Captures are thread-local: other threads (a camera's pinned copies) may use CUDA meanwhile.
    """

    def __init__(self, device: torch.device) -> None:
        _, high = torch.cuda.Stream.priority_range()
        self._stream = torch.cuda.Stream(device, priority=high)
        self._pool = torch.cuda.graph_pool_handle()

    def capture(self, run: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            for _ in range(WARM_UPS):
                run()
        torch.cuda.current_stream().wait_stream(self._stream)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            value = run()
        return graph.replay, value


class EagerRecorder:
    """Runs the function itself: what a CPU has in the place of a graph, with the same copies into the same tensors."""

    def capture(self, run: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        value = run()
        tensors = _tensors(value)

        def replay() -> None:
            for old, new in zip(tensors, _tensors(run())):
                old.copy_(new)

        return replay, value


@dataclass
class Captured:
    """Graphs of one plan and shape, and the tensors they read."""

    seen: Seen
    noise: Tensor
    prefill: Callable[[], None] | None = None
    act: Callable[[], None] | None = None
    handoff: Any = None
    actions: Any = None


class Graphed:
    """A policy whose `prefill` and `act` are replayed. Capturing belongs to `warm_up`: see `Engine.warm_up`.

    A shape that was not captured then (free text of an unforeseen length) is captured when it first comes; that frame
    takes longer. `encode` and `to_chunk` run as they are.
    """

    def __init__(self, policy: Policy, recorder: Recorder) -> None:
        self.inner = policy
        self._recorder = recorder
        self._captured: dict[tuple[Plan, int, bool], Captured] = {}

    @property
    def spec(self) -> PolicySpec:
        """The policy's."""
        return self.inner.spec

    @property
    def sites(self) -> Sequence[Site]:
        """The policy's."""
        return self.inner.sites

    @property
    def graphs(self) -> int:
        """How many graphs were captured."""
        return sum((c.prefill is not None) + (c.act is not None) for c in self._captured.values())

    def examples(self) -> Iterator[Observation]:
        """The policy's."""
        return self.inner.examples()

    def encode(self, obs: Observation) -> Seen:
        """The policy's."""
        return self.inner.encode(obs)

    def to_chunk(self, seen: Seen, actions: Tensor) -> ActionChunk:
        """The policy's."""
        return self.inner.to_chunk(seen, actions)

    def warm_up(self) -> None:
        """The policy's."""
        self.inner.warm_up()

    def mark(self, seen: Seen) -> None:
        """The policy's."""
        self.inner.mark(seen)

    @torch.inference_mode()
    def prefill(self, seen: Seen, plan: Plan) -> Any:
        """Copy the frame in and replay; the hand-off is the same object every time."""
        graphs = self._of(seen, plan)
        for there, here in zip(_inputs(graphs.seen), _inputs(seen)):
            there.copy_(here, non_blocking=True)
        if graphs.prefill is None:
            kept = _saved(plan)
            run = self._recorder.capture(lambda: self.inner.prefill(graphs.seen, plan))
            graphs.prefill, graphs.handoff = run
            _restore(plan, kept)
        graphs.prefill()
        self.inner.mark(seen)
        return graphs.handoff

    @torch.inference_mode()
    def act(self, seen: Seen, handoff: Any, plan: Plan, noise: Tensor) -> Tensor:
        """Copy the noise in and replay; the actions lie in the same tensor every time."""
        graphs = self._of(seen, plan)
        graphs.noise.copy_(noise, non_blocking=True)
        if graphs.act is None:
            kept = _saved(plan)
            run = self._recorder.capture(lambda: self.inner.act(graphs.seen, handoff, plan, graphs.noise))
            graphs.act, graphs.actions = run
            _restore(plan, kept)
        graphs.act()
        out: Tensor = graphs.actions
        return out

    def _of(self, seen: Seen, plan: Plan) -> Captured:
        key = (plan, len(seen.prefix), seen.reuse is not None)
        if key not in self._captured:
            spec = self.inner.spec
            own = replace(seen, **{n: t.clone() for n in INPUTS if (t := getattr(seen, n)) is not None})
            noise = torch.zeros((spec.horizon, spec.action_dim), device=seen.prefix.device)
            self._captured[key] = Captured(own, noise)
        return self._captured[key]


def _inputs(seen: Seen) -> list[Tensor]:
    return [t for n in INPUTS if (t := getattr(seen, n)) is not None]


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, (list, tuple)):
        return [t for part in value for t in _tensors(part)]
    return [t for part in vars(value).values() for t in _tensors(part)] if hasattr(value, "__dict__") else []


def _saved(plan: Plan) -> list[Tensor]:
    """What the runs of a capture would add to the records twice."""
    return [t.clone() for record in (plan.record or {}).values() for t in record[:3] if t is not None]


def _restore(plan: Plan, kept: list[Tensor]) -> None:
    buffers = [t for record in (plan.record or {}).values() for t in record[:3] if t is not None]
    for buffer, value in zip(buffers, kept):
        buffer.copy_(value)
