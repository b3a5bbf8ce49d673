"""Kernels that begin before the one ahead of them has ended (programmatic dependent launch, from Hopper on).

A kernel launched early asks for its weights, which nothing ahead of it writes, and then waits until the kernel ahead
has ended and all it wrote is there. So the time between two kernels, and the first bytes' way from memory, pass while
the one ahead still runs. Every kernel waits before it reads or writes anything else, so that order stays what it is.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from typing import Any

import torch
from torch import Tensor

from ecovla_ros.kernels.available import installed

EARLY = [False]
"""Whether kernels of this process are launched early, where the hardware can: as `choose` found it."""

_tried: set[int] = set()
_allowed = [False]


def allow(early: bool) -> None:
    """Whether `choose` may find it; what it has found before stays unless `early` is False."""
    _allowed[0] = early
    EARLY[0] = EARLY[0] and early


def allowed() -> bool:
    """What `allow` was told last."""
    return _allowed[0]


@functools.cache
def _can(index: int) -> bool:
    return torch.cuda.get_device_capability(index) >= (9, 0)


def knows_descriptors(like: Tensor) -> bool:
    """Whether a block can be asked for by descriptor on the device of `like`: from Hopper on, and interpreted; with
    Triton 3.4 or newer."""
    return _triton_knows_descriptors() and (not like.is_cuda or _can(like.get_device()))


@functools.cache
def _triton_knows_descriptors() -> bool:
    return installed() and importlib.util.find_spec("triton.tools.tensor_descriptor") is not None


def timing_stream() -> torch.cuda.Stream:
    """The stream that warm-up times on, one for all: products keep a workspace for each stream they ever ran on."""
    return _timing_stream(torch.cuda.current_device())


@functools.cache
def _timing_stream(index: int) -> torch.cuda.Stream:
    return torch.cuda.Stream(torch.device("cuda", index))


def block_bytes(like: Tensor) -> int:
    """Shared memory that one block may have on the device of `like`; without end where Triton is interpreted."""
    return _block_bytes(like.get_device()) if like.is_cuda else 1 << 30


@functools.cache
def _block_bytes(index: int) -> int:
    return int(getattr(torch.cuda.get_device_properties(index), "shared_memory_per_block_optin", 99 * 1024))


def choose(device: torch.device) -> bool:
    """Let kernels begin early if here that is right and faster, found out once a process; belongs to warm-up."""
    index = torch.cuda.current_device() if device.index is None else device.index
    if _allowed[0] and index not in _tried:
        _tried.add(index)
        if _can(index):
            EARLY[0] = importlib.import_module("ecovla_ros.kernels.launch_trial").wins(device)
    return EARLY[0]


def options(like: Tensor) -> dict[str, Any]:
    """What a launch on the device of `like` is given: the kernel's constant EARLY, and how it is launched."""
    if EARLY[0] and like.is_cuda and _can(like.get_device()):
        return {"EARLY": True, "launch_pdl": True}
    return {"EARLY": False}
