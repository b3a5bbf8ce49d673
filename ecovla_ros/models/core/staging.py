"""From the host to the device: images, and the prompt's embeddings, which are kept while the text stays."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor


class Staging:
    """Images on their way to the device, through one pinned buffer on CUDA: the host does not wait for the copy.

    The buffer is written again once the copy before has left it, which by the next frame it has: nothing is waited for.
    """

    def __init__(self, cameras: int, size: int, device: torch.device) -> None:
        shape = (cameras, 1, size, size, 3)
        self._device = device
        self._pinned = torch.empty(shape, dtype=torch.uint8, pin_memory=True) if device.type == "cuda" else None
        self._left = torch.cuda.Event() if device.type == "cuda" else None

    def copy(self, images: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
        """Camera -> uint8 (1, H, W, 3) on the device."""
        if self._pinned is None or self._left is None:
            return {name: torch.from_numpy(image)[None] for name, image in images.items()}
        self._left.synchronize()
        for row, image in zip(self._pinned, images.values()):
            row[0].numpy()[:] = image
        there = self._pinned[: len(images)].to(self._device, non_blocking=True)
        self._left.record()
        return dict(zip(images, there))


class Embedded:
    """The prompt's embeddings, padded to a multiple of `bucket` tokens, at most to `longest`.

    `lead`: tokens before the padding; None: it comes behind all.
    """

    def __init__(
        self,
        ids: Callable[[str], list[int]],
        embed: Callable[[Tensor], Tensor],
        bucket: int,
        longest: int,
        device: torch.device,
        lead: int | None = None,
    ) -> None:
        self._ids, self._embed, self._bucket, self._longest = ids, embed, bucket, longest
        self._device, self._lead = device, lead
        self._kept: tuple[str, Tensor, int] | None = None

    def __call__(self, text: str) -> tuple[Tensor, int]:
        """Embeddings (T, width) and how many of them are padding. Raises ObservationError."""
        if self._kept is None or self._kept[0] != text:
            ids = self._ids(text)
            padding = min(-(-len(ids) // self._bucket) * self._bucket, self._longest) - len(ids)
            lead = len(ids) if self._lead is None else self._lead
            row = torch.tensor([[*ids[:lead], *([0] * padding), *ids[lead:]]], device=self._device)
            self._kept = (text, self._embed(row)[0], padding)
        return self._kept[1:]
