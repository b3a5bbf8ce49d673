"""Where Triton can run."""

from __future__ import annotations

import functools
import importlib.util

from torch import Tensor


@functools.cache
def _installed() -> bool:
    return importlib.util.find_spec("triton") is not None


def triton_runs_on(tensor: Tensor) -> bool:
    """True for a CUDA tensor where Triton is installed; torch brings it along on Linux with CUDA."""
    return tensor.is_cuda and _installed()
