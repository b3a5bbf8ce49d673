"""What the trigger goes by: how like the last frame's this frame's vision tokens are, measured where they lie."""

from __future__ import annotations

import torch
from torch import Tensor

from ecovla_ros.engine.host_copy import HostCopy
from ecovla_ros.models.base import Seen
from ecovla_ros.prune.similarity import mean_similarity

UNKNOWN = float("nan")


class Sight:
    """Compares each frame with the one before (Eq. 5). `compare` issues the work, `read` waits for its one number."""

    def __init__(self) -> None:
        self._before: Tensor | None = None
        self._shapes: tuple[tuple[str, torch.Size], ...] = ()
        self._copy = HostCopy()
        self._comparable = False

    def reset(self) -> None:
        """Forget the scene: nothing is known of the frame before the next one."""
        self._before, self._shapes, self._comparable = None, (), False

    def compare(self, seen: Seen) -> None:
        """Begin to compare `seen` with the frame before. Nothing is waited for."""
        shapes = tuple((name, tokens.shape) for name, tokens in seen.vision.items())
        now = torch.cat(list(seen.vision.values()))
        self._comparable = self._before is not None and shapes == self._shapes
        if self._before is not None and self._comparable:
            self._copy.start(mean_similarity(now, self._before))
        self._before, self._shapes = now, shapes

    def read(self) -> float:
        """s_t of the frame compared last. NaN if there was no frame before, or a camera appeared, disappeared or changed
        its token count: nothing can be compared, and the caller must treat the scene as changed."""
        return float(self._copy.take()) if self._comparable else UNKNOWN
