"""What OpenVLA-OFT adds to Prismatic: the state as one token, and a head that reads actions off the hidden states."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class StateToken(nn.Module):
    """Normalised state to one token of the language model (published name: proprio projector)."""

    def __init__(self, state_dim: int, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(state_dim, width), nn.Linear(width, width)

    def forward(self, state: Tensor) -> Tensor:
        """(B, state_dim) to (B, 1, width)."""
        return self.fc2(F.gelu(self.fc1(state)))[:, None]


class HeadBlock(nn.Module):
    """x + relu(fc(norm(x)))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.fc = nn.LayerNorm(width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(…, width) to the same shape."""
        return x + F.relu(self.fc(self.norm(x)))


class ActionHead(nn.Module):
    """The L1 regression head: hidden states of the `action_dim` slots of one action, side by side, to that action."""

    def __init__(self, width: int, action_dim: int, blocks: int = 2) -> None:
        super().__init__()
        self.action_dim = action_dim
        self.norm1, self.fc1 = nn.LayerNorm(width * action_dim), nn.Linear(width * action_dim, width)
        self.blocks = nn.ModuleList(HeadBlock(width) for _ in range(blocks))
        self.norm2, self.fc2 = nn.LayerNorm(width), nn.Linear(width, action_dim)

    def forward(self, hidden: Tensor) -> Tensor:
        """Hidden states (B, H * action_dim, width) to normalised actions (B, H, action_dim)."""
        x = hidden.unflatten(1, (-1, self.action_dim)).flatten(2)
        x = F.relu(self.fc1(self.norm1(x)))
        for block in self.blocks:
            x = block(x)
        return self.fc2(self.norm2(x))
