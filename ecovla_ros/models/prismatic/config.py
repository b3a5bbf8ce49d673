"""Shape of a Prismatic vision-language model. Sources: openvla-oft's modeling_prismatic.py, timm 0.9.10, Llama 2."""

from __future__ import annotations

from dataclasses import dataclass, fields

from ecovla_ros.errors import CheckpointError
from ecovla_ros.types import CAMERAS

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class TowerConfig:
    """One vision transformer, read out before its last block: `layers` counts the blocks that run."""

    width: int
    layers: int
    heads: int
    mlp: int
    prefix: int = 0
    """Tokens before the patches that take part in attention and are not read: DINOv2's class token and registers."""
    scaled: bool = False
    """Whether the branches are scaled per channel (DINOv2's LayerScale)."""
    mean: tuple[float, float, float] = HALF
    std: tuple[float, float, float] = HALF
    """Statistics of the pixels in 0..1 that the tower was trained with."""


DINOV2_LARGE = TowerConfig(1024, 23, 16, 4096, prefix=5, scaled=True, mean=IMAGENET_MEAN, std=IMAGENET_STD)
"""vit_large_patch14_reg4_dinov2 without its last block."""
SIGLIP_SO400M = TowerConfig(1152, 26, 16, 4304)
"""vit_so400m_patch14_siglip_224 without its last block. timm 0.9.10 gives it the exact GELU, not the tanh form."""


@dataclass(frozen=True)
class PrismaticConfig:
    """Vision, projector and language model. The default is the published 7B: DINOv2 + SigLIP at 224 px and Llama 2."""

    cameras: tuple[str, ...] = CAMERAS
    """Camera slots in the order of the sequence."""
    fit: str = "crop"
    """How images become the model's, see models/data/resize.py."""
    image_size: int = 224
    patch: int = 14
    towers: tuple[TowerConfig, ...] = (DINOV2_LARGE, SIGLIP_SO400M)
    """Towers whose tokens lie side by side, in the order of the projector's columns."""
    vocab: int = 32064
    max_prompt: int = 64
    """Longest prompt, tokens, with the begin token and those that close it."""
    width: int = 4096
    mlp: int = 11008
    layers: int = 32
    heads: int = 32
    head_dim: int = 128
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-6
    """OpenVLA's config.json names no epsilon, so that transformers' default for Llama holds."""
    horizon: int = 8
    """Actions of one chunk H."""
    action_dim: int = 8
    state_dim: int = 8

    def __post_init__(self) -> None:
        """Raises CheckpointError for a combination that is not a model."""
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, (int, float)) and not value > 0:
                raise CheckpointError(f"model configuration: {f.name} must be positive, got {value}")
        if not self.cameras or len(set(self.cameras)) != len(self.cameras):
            raise CheckpointError("model configuration: cameras must be distinct and not empty")
        if self.image_size % self.patch:
            raise CheckpointError(f"model configuration: image_size must be a multiple of patch {self.patch}")
        if self.head_dim % 2:
            raise CheckpointError("model configuration: head_dim must be even (rotary embedding)")
        if not self.towers or any(t.width % t.heads for t in self.towers):
            raise CheckpointError("model configuration: every vision tower's width must be a multiple of its heads")

    @property
    def optional_cameras(self) -> bool:
        """False: positions in the sequence were trained with an image of every camera."""
        return False

    @property
    def tokens(self) -> int:
        """Vision tokens N of one camera."""
        return (self.image_size // self.patch) ** 2

    @property
    def vision_width(self) -> int:
        """Width of the towers' tokens side by side."""
        return sum(tower.width for tower in self.towers)
