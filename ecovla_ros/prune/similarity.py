"""How much the scene changed between two frames (paper, Eq. 5)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def token_similarity(now: Tensor, before: Tensor) -> Tensor:
    """Cosine similarity of each vision token with the same token one frame earlier.

    s[n] = <f_t[n], f_{t-1}[n]> / (|f_t[n]| |f_{t-1}[n]|), with `now` and `before` (N, D). Returns (N,) float32.
    """
    return torch.cosine_similarity(now.float(), before.float(), dim=-1)


def scene_similarity(now: Mapping[str, Tensor], before: Mapping[str, Tensor] | None) -> Tensor | None:
    """s_t: mean token similarity over all cameras (Eq. 5), () float32. Nobody waits for it here.

    None if there is no frame before, or a camera appeared, disappeared or changed its token count: then nothing
    can be compared, and the caller must treat the scene as changed.
    """
    if before is None or now.keys() != before.keys():
        return None
    if any(now[name].shape != before[name].shape for name in now):
        return None
    return torch.cat([token_similarity(now[name], before[name]) for name in now]).mean()
