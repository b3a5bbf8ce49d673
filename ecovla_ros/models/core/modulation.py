"""pi0.5's adaptive RMS norm: a flow step's time, and nothing else, scales, shifts and gates the expert's branches."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Modulation(NamedTuple):
    """What a time makes of one norm and of the branch behind it: x + gate * branch(gain * rms_norm(x) + shift).

    Each (B or 1, 1, width); gain and shift float32, gate in the dtype of the model.
    """

    gain: Tensor
    shift: Tensor
    gate: Tensor


class Modulator(nn.Module):
    """One linear layer for each of `norms` norms, in one product."""

    def __init__(self, width: int, norms: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(norms, 3 * width, width) * width**-0.5)
        self.bias = nn.Parameter(torch.zeros(norms, 3 * width))

    def forward(self, condition: Tensor) -> list[Modulation]:
        """Embedded times (B, width) to the modulation of every norm, in order."""
        width = condition.shape[-1]
        out = torch.einsum("bw,now->nbo", condition, self.weight) + self.bias[:, None]
        parts = out[:, :, None].split(width, -1)  # scale, shift, gate, each (norms, B, 1, width)
        gain, shift = 1.0 + parts[0].float(), parts[1].float()
        return [Modulation(*each) for each in zip(gain, shift, parts[2])]
