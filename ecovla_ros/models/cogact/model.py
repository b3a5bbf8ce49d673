"""CogACT's model: causal Prismatic, read at its last token, and a diffusion transformer on what is read there.

The sequence is: begin, vision tokens, prompt, and the cognition token that closes it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ecovla_ros.errors import CheckpointError
from ecovla_ros.models.cogact.dit import Dit
from ecovla_ros.models.prismatic.config import PrismaticConfig
from ecovla_ros.models.prismatic.model import Prismatic

DIT_SIZES = {"DiT-S": (384, 6, 4), "DiT-B": (768, 12, 12), "DiT-L": (1024, 24, 16)}
"""Published head -> width, layers, attention heads."""


@dataclass(frozen=True)
class CogactConfig(PrismaticConfig):
    """Prismatic and the head. The default is CogACT-Base: one camera, DiT-B, chunks of 16."""

    cameras: tuple[str, ...] = ("third_person",)
    fit: str = "bicubic"
    norm_eps: float = 1e-5
    """CogACT takes Llama 2's own configuration."""
    horizon: int = 16
    dit_width: int = 768
    dit_layers: int = 12
    dit_heads: int = 12
    steps: int = 10
    """DDIM steps."""
    guidance: float = 1.5
    """Scale of classifier-free guidance; 1: the conditional half alone runs."""

    def __post_init__(self) -> None:
        """Raises CheckpointError for a combination that is not a model."""
        super().__post_init__()
        if self.dit_width % self.dit_heads:
            raise CheckpointError("model configuration: dit_width must be a multiple of dit_heads")
        if self.guidance < 1.0:
            raise CheckpointError(f"model configuration: guidance must be at least 1, got {self.guidance}")


class CogactModel(Prismatic):
    """Prismatic with the action head `dit`."""

    config: CogactConfig

    def __init__(self, config: CogactConfig) -> None:
        super().__init__(config, len(config.cameras) * config.tokens + config.max_prompt, causal=True)
        self.dit = Dit(
            config.dit_width, config.dit_layers, config.dit_heads, config.horizon, config.action_dim, config.width
        )

    def sequence(self, vision: Tensor, prompt: Tensor) -> Tensor:
        """Vision (B, cameras * N, width) and prompt (B, T, width) to (B, S, width)."""
        return torch.cat((prompt[:, :1], vision, prompt[:, 1:]), 1)
