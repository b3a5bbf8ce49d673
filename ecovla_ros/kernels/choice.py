"""Which of several ways to compute the same runs for a shape: the fastest, as timed on this machine in warm-up.

A way is timed as it will run: in a captured graph, on weights that lie in no cache, since between two calls of a layer
all others have run.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ecovla_ros.kernels import launch

COLD_BYTES = 160 * 2**20
"""More than the last cache of any GPU holds (50 MB on an H100, 128 MB on a B200)."""

CALLS = 24
"""Calls in one captured graph."""

Key = tuple[Any, ...]


class KernelChoice:
    """The process's choice: what is fastest is a fact of the machine, not of a model.

    Outside of `tuning` nothing is timed: a shape that was not timed runs the first of its ways.
    """

    def __init__(self) -> None:
        self.chosen: dict[Key, str] = {}
        self.times_ms: dict[Key, dict[str, float]] = {}
        """What was measured, by way; a way that failed is not there."""
        self._tuning = False

    @contextmanager
    def tuning(self) -> Iterator[None]:
        """Time every shape that comes and is not known yet. Belongs to warm-up."""
        before, self._tuning = self._tuning, True
        try:
            yield
        finally:
            self._tuning = before

    def of(self, key: Key, like: Tensor, ways: Mapping[str, Callable[..., object]], cold: Sequence[Tensor] = ()) -> str:
        """The name of the way to take for `key`, which device and type of `like` are added to.

        A way takes `cold`, tensors that are read once a call: the weights. Timing gives it copies of them.
        """
        key = (*key, str(like.device), like.dtype)
        if key not in self.chosen:
            if not self._tuning or len(ways) < 2 or not like.is_cuda or torch.cuda.is_current_stream_capturing():
                return next(iter(ways))
            launch.choose(like.device)
            self.times_ms[key] = times = measured(ways, cold)
            self.chosen[key] = min(times, key=lambda name: times[name]) if times else next(iter(ways))
        return self.chosen[key]


def measured(ways: Mapping[str, Callable[..., object]], cold: Sequence[Tensor] = ()) -> dict[str, float]:
    """Device time of one call of each way, ms. A way that cannot run here (memory of a block, a type) is left out."""
    size = sum(t.numel() * t.element_size() for t in cold)
    copies = max(2, min(CALLS, COLD_BYTES // max(size, 1) + 1)) if size else 1
    sets = [cold] + [[_copy(t) for t in cold] for _ in range(copies - 1)]
    found = {}
    for name, way in ways.items():
        try:
            found[name] = _replayed_ms(way, sets)
        except Exception as error:  # noqa: BLE001 - what a kernel cannot do here differs by device, driver and version
            if "out of memory" in str(error):
                raise
    return found


def _copy(tensor: Tensor) -> Tensor:
    """Equal values at equal strides."""
    out = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device)
    return out.copy_(tensor)


def _replayed_ms(way: Callable[..., object], sets: Sequence[Sequence[Tensor]]) -> float:
    """Device time of one call, of `CALLS` that were captured one after the other, over sets of weights in turn."""
    side, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):  # libraries choose kernels and Triton compiles
            way(*sets[0])
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
        for i in range(CALLS):
            way(*sets[i % len(sets)])
    graph.replay()
    times = []
    for _ in range(3):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / CALLS)
    return statistics.median(times)


KERNEL_CHOICE = KernelChoice()
