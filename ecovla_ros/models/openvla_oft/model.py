"""OpenVLA-OFT's model: Prismatic without a causal mask, the state as a token, empty slots that actions are read from.

The sequence is: begin, vision tokens of every camera, state, prompt, H * action_dim slots of zeros, end. The head reads
slot i one position before it lies, as a language model predicts the next token, so that it reads the prompt's last
position and never the last slot's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ecovla_ros.models.openvla_oft.head import ActionHead, StateToken
from ecovla_ros.models.prismatic.config import PrismaticConfig
from ecovla_ros.models.prismatic.model import Prismatic


class OftModel(Prismatic):
    """`end`: token id that closes the sequence."""

    def __init__(self, config: PrismaticConfig, end: int) -> None:
        slots = config.horizon * config.action_dim
        super().__init__(config, len(config.cameras) * config.tokens + 1 + config.max_prompt + slots + 1, causal=False)
        self.end, self.slots = end, slots
        self.state_token = StateToken(config.state_dim, config.width)
        self.head = ActionHead(config.width, config.action_dim)

    def sequence(self, vision: Tensor, state: Tensor, prompt: Tensor) -> Tensor:
        """Vision (B, cameras * N, width), state (B, state_dim), prompt (B, T, width) to (B, S, width)."""
        begin, rest = prompt[:, :1], prompt[:, 1:]
        empty = vision.new_zeros(len(vision), self.slots, vision.shape[2])
        end = self.embedding[self.end].expand(len(vision), 1, -1)
        return torch.cat((begin, vision, self.state_token(state), rest, empty, end), 1)

    def rows(self, length: int) -> slice:
        """Positions of a sequence of `length` tokens that the head reads."""
        first = length - 1 - self.slots - 1
        return slice(first, first + self.slots)
