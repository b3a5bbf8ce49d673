"""From the host to the device: images, token ids and the state. On CUDA through pinned memory, without a wait.

Every device buffer is allocated once, so that what reads it can be captured as a graph. A pinned buffer is written
again once the copy before has left it, which by the next frame it has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ecovla_ros.models.data.resize import ON_A_DEVICE, resize, resize_tensor


class Upload:
    """One pinned buffer and its place on a device; on a CPU the tensor itself passes through."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
        pinned = device.type == "cuda"
        self._host = torch.zeros(shape, dtype=dtype, pin_memory=True) if pinned else None
        self._there = torch.zeros(shape, dtype=dtype, device=device) if pinned else None
        self._left = torch.cuda.Event() if pinned else None

    @property
    def place(self) -> Tensor | None:
        """The memory on the device; None on a CPU."""
        return self._there

    def copy(self, values: NDArray[Any]) -> Tensor:
        """`values`, which fill the first rows of the buffer, on the device; always the same memory there."""
        if self._host is None or self._there is None or self._left is None:
            return torch.from_numpy(values)
        self._left.synchronize()
        rows = slice(0, len(values))
        np.copyto(self._host[rows].numpy(), values)  # torch would ask its pool of threads, and wait for them
        out = self._there[rows].copy_(self._host[rows], non_blocking=True)
        self._left.record()
        return out


class Images:
    """Checked images to the square the model takes, on the device.

    The image leaves the host as it is where its filter runs on the device too: no thread of the host's pool is waited
    for. Otherwise, and on a CPU, it is resized here.
    """

    def __init__(self, cameras: int, size: int, fit: str, device: torch.device) -> None:
        self._size, self._fit, self._device = size, fit, device
        self._squares = [Upload((1, size, size, 3), torch.uint8, device) for _ in range(cameras)]
        self._raw: dict[int, tuple[tuple[int, ...], Upload]] = {}

    def copy(self, images: Mapping[str, NDArray[np.uint8]]) -> dict[str, Tensor]:
        """Camera -> (H, W, 3) uint8 to camera -> (1, size, size, 3) uint8 on the device."""
        there = self._device.type == "cuda" and self._fit in ON_A_DEVICE
        rows = [self._filtered(i, im) if there else self._ready(i, im) for i, im in enumerate(images.values())]
        return dict(zip(images, rows))

    def _ready(self, row: int, image: NDArray[np.uint8]) -> Tensor:
        return self._squares[row].copy(resize(image, self._size, self._fit)[None])

    def _filtered(self, row: int, image: NDArray[np.uint8]) -> Tensor:
        if image.shape[:2] == (self._size, self._size) and self._fit != "crop":
            return self._ready(row, image)
        if row not in self._raw or self._raw[row][0] != image.shape:
            self._raw[row] = (image.shape, Upload(image.shape, torch.uint8, self._device))
        raw = self._raw[row][1].copy(image)
        out = resize_tensor(raw, self._size, self._fit)[None]
        there = self._squares[row].place
        return out if there is None else there.copy_(out)


class Words:
    """A prompt's token ids, padded to a multiple of `bucket` tokens, at most to `longest`; kept while the text stays.

    `lead`: tokens before the padding; None: it comes behind all.
    """

    def __init__(
        self,
        ids: Callable[[str], list[int]],
        bucket: int,
        longest: int,
        device: torch.device,
        lead: int | None = None,
    ) -> None:
        self._ids, self._bucket, self._longest, self._lead = ids, bucket, longest, lead
        self._upload = Upload((longest,), torch.int64, device)
        self._kept: tuple[str, Tensor, int] | None = None

    def __call__(self, text: str) -> tuple[Tensor, int]:
        """Token ids (1, T) on the device, and how many of them are padding. Raises ObservationError."""
        if self._kept is None or self._kept[0] != text:
            ids = self._ids(text)
            padding = min(-(-len(ids) // self._bucket) * self._bucket, self._longest) - len(ids)
            lead = len(ids) if self._lead is None else self._lead
            row = np.array([*ids[:lead], *([0] * padding), *ids[lead:]], dtype=np.int64)
            self._kept = (text, self._upload.copy(row)[None], padding)
        return self._kept[1:]
