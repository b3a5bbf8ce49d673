"""Data-parallel training on CPU cores: one single-threaded process per core, gradients averaged each step.

Two threads in one process are slower than one on a busy machine (every operation waits for the slower thread); two
processes meet once a step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import Tensor


def spawn(count: int, folder: Path, job: Callable[..., None], *arguments: Any) -> None:
    """Run `job(rank, *arguments)` in `count` processes that can average gradients; returns when all have ended."""
    meeting = folder.resolve() / "rendezvous"  # a relative path in a file URL would be taken for a host
    meeting.unlink(missing_ok=True)
    torch.multiprocessing.spawn(_enter, (count, str(meeting), job, arguments), nprocs=count, join=True)
    meeting.unlink(missing_ok=True)


def _enter(rank: int, count: int, meeting: str, job: Callable[..., None], arguments: Sequence[Any]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=count)
    try:
        job(rank, *arguments)
    finally:
        dist.destroy_process_group()


def average(parameters: Sequence[Tensor]) -> None:
    """Average the gradients of all processes, in place. Does nothing in a single process."""
    if not dist.is_initialized():
        return
    flat = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    at = 0
    for p in parameters:
        if p.grad is not None:
            p.grad.copy_(flat[at : at + p.grad.numel()].view_as(p.grad))
            at += p.grad.numel()


def agree(value: float) -> float:
    """The value of process 0, in every process: clocks differ, and all must stop at the same step."""
    if not dist.is_initialized():
        return value
    shared = torch.tensor([value], dtype=torch.float64)
    dist.broadcast(shared, 0)
    return float(shared)
