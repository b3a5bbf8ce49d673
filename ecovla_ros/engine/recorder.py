"""Turns work over fixed tensors into something that can be run again: CUDA graphs, or the function itself."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor

WARM_UPS = 3
"""Runs before a capture: libraries choose kernels and allocate workspaces then."""


class Recorder(Protocol):
    """Turns a function without arguments, over fixed tensors, into something that can be run again."""

    def capture(self, run: Callable[[], Any], warm_ups: int = WARM_UPS) -> tuple[Callable[[], None], Any]:
        """Returns what runs it again, and the value it gave, which every run overwrites.

        With `warm_ups` 0 nothing is run: whoever asks has run the same work before.
        """
        ...


@functools.cache
def _workspaces(device: torch.device) -> torch.cuda.MemPool | None:
    """Memory of the workspaces that captured products write to; None where the allocator has no pools of one's own
    (`PYTORCH_CUDA_ALLOC_CONF`: backend cudaMallocAsync, and in some versions of torch expandable segments)."""
    try:
        with torch.cuda.device(device):
            pool = torch.cuda.MemPool()
        with torch.cuda.use_mem_pool(pool, device):
            pass
    except RuntimeError:
        return None
    # For good: its end would give memory back, which on a device that has failed ends the process without a word.
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(pool))
    return pool


@torch.inference_mode()
def claim_workspace(stream: torch.cuda.Stream) -> None:
    """Let the products of a stream have their workspace in memory that nobody else is ever given.

    cuBLAS writes partial sums to a workspace that torch keeps for each stream, and a captured graph bakes its address.
    Whoever compiles a model with CUDA graphs in the same process (`torch.compile`, mode "reduce-overhead") gives all
    workspaces back to torch's allocator, before and after each of its captures
    (torch/_inductor/cudagraph_trees.py, `clear_cublas_manager`): out of the common pool, the memory would then be
    somebody else's, or nobody's, while graphs of ours still write to it.
    """
    pool = _workspaces(stream.device)
    apart = nullcontext() if pool is None else torch.cuda.use_mem_pool(pool, stream.device)
    with torch.cuda.stream(stream), apart:
        square = torch.zeros((16, 16), dtype=torch.bfloat16, device=stream.device)
        torch.addmm(square[0], square, square)  # cuBLASLt, which has a workspace of its own in some versions
        torch.mm(square, square)


class CudaRecorder:
    """CUDA graphs out of one memory pool, captured on one stream, whose priority their kernels keep.

    Graphs of one pool must not run at the same time: they share memory. Captures are thread-local: other threads (a
    camera's pinned copies) may use CUDA meanwhile.
    """

    def __init__(self, device: torch.device, stream: torch.cuda.Stream | None = None) -> None:
        """`stream`: None for a new one of high priority."""
        _, high = torch.cuda.Stream.priority_range()  # type: ignore[call-arg]
        self._device = device
        self._stream = stream or torch.cuda.Stream(device, priority=high)
        self._pool = torch.cuda.graph_pool_handle()
        claim_workspace(self._stream)

    def capture(self, run: Callable[[], Any], warm_ups: int = WARM_UPS) -> tuple[Callable[[], None], Any]:
        self._stream.wait_stream(torch.cuda.current_stream())
        claim_workspace(self._stream)
        with torch.cuda.stream(self._stream):
            for _ in range(warm_ups):
                run()
        torch.cuda.current_stream().wait_stream(self._stream)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            value = run()
        return graph.replay, value


class EagerRecorder:
    """Runs the function itself: what a CPU has in the place of a graph, with the same copies into the same tensors."""

    def capture(self, run: Callable[[], Any], warm_ups: int = WARM_UPS) -> tuple[Callable[[], None], Any]:
        value = run() if warm_ups else None
        tensors = tensors_of(value)

        def replay() -> None:
            for old, new in zip(tensors, tensors_of(run())):
                old.copy_(new)

        return replay, value


def tensors_of(value: Any) -> list[Tensor]:
    """Every tensor of a value, in order: of lists, tuples, mappings and plain objects."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        return [t for part in value.values() for t in tensors_of(part)]
    if isinstance(value, (list, tuple)):
        return [t for part in value for t in tensors_of(part)]
    return [t for part in vars(value).values() for t in tensors_of(part)] if hasattr(value, "__dict__") else []
