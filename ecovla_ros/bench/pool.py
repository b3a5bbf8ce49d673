"""Processes that share the episodes or cases of one command. One that dies ends the command, in one line."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from ecovla_ros.errors import EcovlaError


@contextlib.contextmanager
def pool(count: int, opens: Callable[..., None] | None = None, *arguments: Any) -> Iterator[ProcessPoolExecutor]:
    """`count` processes, each of which begins with `opens(*arguments)`. Leaving the block waits for what runs, and
    begins no more.

    `opens` must not raise. Raises EcovlaError where a process ended without an answer, as on a machine short of memory:
    `multiprocessing.Pool` would wait for it for ever. A Ctrl-C is for the process that has the pool, alone.
    """
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(count, context, _begin, (opens, arguments))
    try:
        yield executor
    except BrokenProcessPool as error:
        raise EcovlaError(
            f"one of {count} processes ended without an answer, as happens where memory is short; try fewer --processes"
        ) from error
    finally:
        executor.shutdown(cancel_futures=True)


def _begin(opens: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if opens is not None:
        opens(*arguments)
