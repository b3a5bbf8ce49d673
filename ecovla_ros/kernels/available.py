"""Where Triton can run, and how to do without it."""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

_alone, _wanted = [0], [True]


@functools.cache
def installed() -> bool:
    """Whether Triton can be imported."""
    return importlib.util.find_spec("triton") is not None


@functools.cache
def _interpreted() -> bool:
    """Whether Triton's interpreter was asked for: then kernels run on CPU tensors, slowly, for tests."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def triton_runs_on(tensor: Tensor) -> bool:
    """True for a CUDA tensor where Triton is installed; torch brings it along on Linux with CUDA."""
    if _alone[0] or not _wanted[0]:
        return False
    return (tensor.is_cuda or (_interpreted() and tensor.device.type == "cpu")) and installed()


def use_triton(wanted: bool) -> None:
    """Whether this process runs kernels of its own at all, from now on; what was packed for them stays so."""
    _wanted[0] = wanted


@contextmanager
def reference_alone() -> Iterator[None]:
    """Everything runs its torch reference: who counts products as torch dispatches them sees none in a kernel."""
    _alone[0] += 1
    try:
        yield
    finally:
        _alone[0] -= 1
