"""CogACT's action head: a diffusion transformer over one condition token and the noisy actions.

With guidance the conditional and the unconditional half run as one sequence that a mask cuts in two, so that every
product sees all tokens at once and energies are summed over both halves.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ecovla_ros.models.core.keys import Keys
from ecovla_ros.models.core.layers import LastNorm, Use, run
from ecovla_ros.models.prismatic.layers import UNTURNED, PlainBlock, bare_norm, own

FREQUENCIES, LONGEST = 256, 10_000.0
"""Width and longest period of the sinusoidal time embedding."""


class Dit(nn.Module):
    """`layers` blocks of `width`; conditions come as vectors of `condition_width`."""

    halves: Tensor

    def __init__(
        self, width: int, layers: int, heads: int, horizon: int, action_dim: int, condition_width: int
    ) -> None:
        super().__init__()
        self.action_in = nn.Linear(action_dim, width)
        self.time_in, self.time_out = nn.Linear(FREQUENCIES, width), nn.Linear(width, width)
        self.condition_in = nn.Linear(condition_width, width)
        self.unconditional = nn.Parameter(torch.randn(condition_width) * 0.02)
        self.position = nn.Parameter(torch.randn(1 + horizon, width) * width**-0.5)
        self.blocks = nn.ModuleList(PlainBlock(width, 4 * width, heads, layers) for _ in range(layers))
        self.norm, self.action_out = bare_norm(width), nn.Linear(width, action_dim)

    def times(self, times: Tensor) -> Tensor:
        """Embeddings (n, width) of training times (n,): depend on nothing else."""
        index = torch.arange(FREQUENCIES // 2, dtype=torch.float32, device=times.device)
        frequency = torch.exp(-math.log(LONGEST) * index * 2 / FREQUENCIES)
        angle = times.float()[:, None] * frequency
        waves = torch.cat((angle.cos(), angle.sin()), 1).to(self.time_in.weight.dtype)
        return self.time_out(F.silu(self.time_in(waves)))

    def conditions(self, cognition: Tensor, guided: bool) -> Tensor:
        """Cognition vector (condition_width,) to (1, width); guided: (2, width), the second unconditional."""
        vectors = torch.stack((cognition, self.unconditional)) if guided else cognition[None]
        return self.condition_in(vectors)

    def forward(self, x: Tensor, condition: Tensor, uses: Sequence[Use] | None = None) -> Tensor:
        """Noise (R, H, action_dim) in x (H, action_dim) for each of R <= 2 conditions (R, width), time included."""
        count = len(condition)
        actions = self.action_in(x).expand(count, -1, -1)
        tokens = torch.cat((condition[:, None], actions), 1) + self.position  # (R, 1 + H, width)
        hidden = tokens.flatten(0, 1)[None]
        keys = None if count == 1 else _apart(count, hidden.shape[1], hidden.device)
        hidden = run(self.blocks, hidden, UNTURNED, [own] * len(self.blocks), keys, uses, LastNorm(self.norm))
        return self.action_out(hidden)[0].unflatten(0, (count, -1))[:, 1:]


@functools.cache
def _apart(parts: int, length: int, device: torch.device) -> Keys:
    """`parts` equal stretches of a sequence that do not see one another; made once, as it is the same in every step."""
    return Keys(length, length, segments=parts, device=device)
