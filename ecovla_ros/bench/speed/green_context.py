"""A part of a GPU in the place of a small one: the whole process runs on so many of its multiprocessors (SMs).

A green context of the driver holds the process, and the streams it makes afterwards, to a partition of SMs. Arithmetic
is then that of a smaller GPU; memory bandwidth stays that of the large one, so that what is bound by weights looks
better than on a real small GPU. Made before anything else uses CUDA, and kept alive until the process ends: once the
context object is gone, every later call fails.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ecovla_ros.engine.recorder import CudaRecorder
from ecovla_ros.errors import ConfigError

SIZE = 4096
"""Rows and columns of the product whose rate says how much of the GPU runs."""
REPEATS = 8
SLACK = 1.25
"""A captured graph that is this much faster than the same products without it has left the partition."""


class Part(NamedTuple):
    """The multiprocessors this process runs on, and what they were seen to do."""

    sms: int
    """Multiprocessors in use: what the driver gave, which may be more than was asked for."""
    of: int
    """Multiprocessors of the GPU."""
    tflops: float
    """Rate of a bfloat16 product on them, without a graph."""
    graph_tflops: float | None
    """The same out of a captured graph; None where nothing could be captured."""
    note: str
    """How frames run in this part, and why; empty: as on a whole GPU."""

    @property
    def graphs(self) -> bool:
        """Whether captured graphs run, and stay, in this part."""
        return self.graph_tflops is not None and self.graph_tflops < SLACK * self.tflops


def enter(sms: int) -> Part:
    """Hold this process to `sms` multiprocessors from now on, and see whether graphs stay in there.

    Raises ConfigError where there is no CUDA, where torch or the driver knows no green contexts, or for a number that
    the GPU cannot give.
    """
    if not torch.cuda.is_available():
        raise ConfigError("--sms asks for a part of a GPU, and this machine has none that CUDA can use")
    of = torch.cuda.get_device_properties(0).multi_processor_count
    if not 0 < sms < of:
        raise ConfigError(f"--sms {sms}: {torch.cuda.get_device_name(0)} has {of}; valid: 1 to {of - 1}")
    try:
        from torch.cuda.green_contexts import GreenContext

        torch.cuda.synchronize()  # the device's own context comes first
        context: Any = GreenContext.create(num_sms=sms, device_id=0)
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(context))  # for good: not even the end of the process destroys it
        context.set_context()
    except (ImportError, RuntimeError, TypeError) as error:
        raise ConfigError(
            f"--sms {sms}: this torch ({torch.__version__}) or driver makes no such green context: {error}"
        ) from error
    return measured(granted(sms), of)


def granted(sms: int) -> int:
    """What the driver gives for `sms`: a multiple of the smallest partition, which depends on the architecture."""
    major = torch.cuda.get_device_capability(0)[0]
    step = 8 if major >= 9 else 2
    return -(-sms // step) * step


def measured(sms: int, of: int) -> Part:
    """The part with its rates, and what they say of graphs."""
    left, right = (torch.randn(SIZE, SIZE, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    plain = rate(lambda: left @ right)
    try:
        captured: float | None = rate(replayed(left, right), 1)
    except RuntimeError as error:
        why = str(error).splitlines()[0]
        return Part(sms, of, plain, None, f"without graphs: nothing can be captured in a green context here ({why})")
    part = Part(sms, of, plain, captured, "")
    if part.graphs:
        return part
    left_it = f"a captured graph ran at {captured:.0f} TFLOP/s where the part has {plain:.0f}"
    return part._replace(note=f"without graphs: they do not stay in the part ({left_it})")


def rate(run: Callable[[], object], products: int = 1) -> float:
    """TFLOP/s of `run`, called `REPEATS` times, each with `products` products of the size."""
    run()
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(REPEATS):
        run()
    torch.cuda.synchronize()
    return REPEATS * products * 2 * SIZE**3 / (time.perf_counter() - start) / 1e12


def replayed(left: Tensor, right: Tensor) -> Callable[[], None]:
    """One product as a captured graph, as the engine captures."""
    replay, _ = CudaRecorder(left.device).capture(lambda: left @ right)
    return replay
