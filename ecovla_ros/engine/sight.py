"""What the trigger goes by: how like the last frame's this frame's vision tokens are, measured where they lie."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ecovla_ros.engine.host_copy import HostCopy
from ecovla_ros.models.base import Seen
from ecovla_ros.prune.similarity import scene_similarity


class Sight:
    """Compares each frame with the one before (Eq. 5). `compare` issues the work, `read` waits for its one number."""

    def __init__(self) -> None:
        self._before: Mapping[str, Tensor] | None = None
        self._copy = HostCopy()
        self._compared = False

    def reset(self) -> None:
        """Forget the scene: nothing is known of the frame before the next one."""
        self._before, self._compared = None, False

    def compare(self, seen: Seen) -> None:
        """Begin to compare `seen` with the frame before. Nothing is waited for.

        The tokens are copied, as a captured tower writes the next frame's over them.
        """
        similarity = scene_similarity(seen.vision, self._before)
        self._compared = similarity is not None
        if similarity is not None:
            self._copy.start(similarity)
        parts = torch.cat(list(seen.vision.values())).split([len(tokens) for tokens in seen.vision.values()])
        self._before = dict(zip(seen.vision, parts))

    def read(self) -> float:
        """s_t of the frame compared last; NaN where nothing could be compared (see `scene_similarity`)."""
        return float(self._copy.take()) if self._compared else float("nan")
