"""Data-parallel training on CPU cores: one single-threaded process per core, gradients averaged each step.

Two threads in one process are slower than one on a busy machine (every operation waits for the slower thread); two
processes meet once a step.
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import Tensor

from ecovla_ros.errors import EcovlaError


def everywhere(
    count: int,
    folder: Path,
    report: Callable[[dict[str, Any]], None],
    job: Callable[..., None],
    *arguments: Any,
    stop: Callable[[], bool] | None = None,
) -> None:
    """Run `job(rank, *arguments, report)` in `count` processes that can average gradients, or in this one if it is one.

    What any of them reports comes to `report`, in this process. With `stop`, whoever is asked that in this process, the
    jobs get a `stop` of their own behind `report`, and a Ctrl-C reaches this process alone.
    """
    if count == 1:
        job(0, *arguments, report, *(() if stop is None else (stop,)))
        return
    context, errors = multiprocessing.get_context("spawn"), list[EcovlaError]()
    queue, asked, over = context.SimpleQueue(), context.Event(), threading.Event()
    watchers = [threading.Thread(target=_forward, args=(queue, report, errors), daemon=True)]
    if stop is not None:
        watchers.append(threading.Thread(target=_ask, args=(stop, asked, over), daemon=True))
    for watcher in watchers:
        watcher.start()
    more = () if stop is None else (asked.is_set,)
    folder.mkdir(parents=True, exist_ok=True)
    meeting = folder.resolve() / "rendezvous"  # a relative path in a file URL would be taken for a host
    meeting.unlink(missing_ok=True)
    told = (count, str(meeting), job, (*arguments, queue.put, *more), queue.put, stop is not None)
    ended: Exception | None = None
    try:
        torch.multiprocessing.spawn(_enter, told, nprocs=count, join=True)
    except (torch.multiprocessing.ProcessExitedException, torch.multiprocessing.ProcessRaisedException) as error:
        ended = error  # of the first that ended: where another one said what is wrong, this one only lost its peer
    finally:
        over.set()
        queue.put(None)
        for watcher in watchers:
            watcher.join()
        meeting.unlink(missing_ok=True)
    if ended is not None:
        raise errors[0] if errors else ended


def _forward(queue: Any, report: Callable[[dict[str, Any]], None], errors: list[EcovlaError]) -> None:
    while (told := queue.get()) is not None:
        if isinstance(told, EcovlaError):
            errors.append(told)
        else:
            report(told)


def _ask(stop: Callable[[], bool], asked: Any, over: threading.Event) -> None:
    while not over.wait(0.1):
        if stop():
            asked.set()


def _enter(
    rank: int, count: int, meeting: str, job: Callable[..., None], arguments: Sequence[Any],
    tell: Callable[[EcovlaError], None], deaf: bool,
) -> None:  # fmt: skip
    """`deaf`: a Ctrl-C is not for this process, as another one tells it when to end."""
    if deaf:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=count)
    try:
        dist.barrier()  # one that fails at once is gone while others still look for it
        job(rank, *arguments)
    except EcovlaError as error:  # as one line, and not as the trace of a process
        tell(error)
        sys.exit(1)
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
