"""Jobs for several processes: each must be able to import them."""

from __future__ import annotations

import atexit
import time

import torch

from ecovla_ros.errors import CheckpointError


def tell_rank(rank, report):
    """Report which of the processes this is."""
    report({"rank": rank})


def fail_first_and_end_last(rank, tell):
    """One says what is wrong and goes; the other loses it in the middle of a sum, and is the first to have ended."""
    if rank == 1:
        atexit.register(time.sleep, 3.0)
        raise CheckpointError("the demonstration is broken")
    torch.distributed.all_reduce(torch.ones(1))
