"""The actions on their way to the host: the copy is under way while the host issues what is left of the frame."""

from __future__ import annotations

import torch
from torch import Tensor


class HostCopy:
    """One pinned buffer on CUDA, which the next `start` overwrites; on a CPU the tensor itself passes through.

    What `take` gives is read before the next `start`: a chunk is made of new arrays.
    """

    def __init__(self) -> None:
        self._host: Tensor | None = None
        self._landed: torch.cuda.Event | None = None

    def start(self, actions: Tensor) -> None:
        """Copy `actions` (H, action_dim) without waiting. The buffer is allocated by the first, in `warm_up`."""
        if not actions.is_cuda:
            self._host = actions
            return
        if self._landed is None:
            self._host = torch.empty_like(actions, device="cpu", pin_memory=True)
            self._landed = torch.cuda.Event()
        assert self._host is not None
        self._host.copy_(actions, non_blocking=True)
        self._landed.record()

    def take(self) -> Tensor:
        """The actions on the host; waits for them, and for nothing that was issued after `start`."""
        assert self._host is not None, "start comes first"
        if self._landed is not None:
            self._landed.synchronize()
        return self._host
