"""How like a frame's vision tokens are to those of the frame before, where Triton runs (paper, Eq. 5)."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

import torch
from torch import Tensor


def renewed(now: Sequence[Tensor], before: Sequence[Tensor], into: Tensor) -> Tensor:
    """Mean cosine similarity, () float32, of all tokens `now` (N, D) with those `before`, camera by camera, which are
    then overwritten with those of now: the next frame is compared with them. Written to `into`, () float32."""
    kernels = importlib.import_module("ecovla_ros.kernels.likeness_triton")
    found = torch.empty(sum(len(tokens) for tokens in now), dtype=torch.float32, device=now[0].device)
    kernels.compare(now, before, found)
    kernels.mean(found, into)
    return into
