"""Shape of a model of the pi0 family: one frozen value, written to and read from a checkpoint's config.json."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ecovla_ros.errors import CheckpointError, unknown
from ecovla_ros.models.data.resize import FITS
from ecovla_ros.types import CAMERAS

VARIANTS = ("pi0", "pi05")
"""pi0: state and time enter the expert as tokens. pi05: the state is in the prompt, the time modulates the norms."""

VISIONS = ("siglip", "stem")
"""siglip: the patch transformer of pi0. stem: the small convolutional tower of mini."""

STEM_CHANNELS = (32, 64, 128)
"""Channels of the stem's first three levels; the fourth is `vision_width`. Each level halves the image."""


@dataclass(frozen=True)
class PiConfig:
    """Widths, depths and lengths. Layers, heads, KV heads and head_dim are common to LM and expert."""

    cameras: tuple[str, ...] = CAMERAS
    """Camera slots in the order of the prefix."""
    variant: str = "pi0"
    prompt_state: bool = True
    """pi0.5: whether the state is in the prompt; without, the policy does not know it."""
    optional_cameras: bool = False
    """Whether an observation may come without an image of some (not all) cameras."""
    vision: str = "stem"
    fit: str = "area"
    """How images of other shapes become the model's, see models/data/resize.py."""
    image_size: int = 96
    """Height and width of the model's square images, px."""
    patch: int = 16
    """Side of the square of pixels behind one vision token, px."""
    vision_width: int = 192
    vision_layers: int = 0
    """Transformer layers of the SigLIP tower; 0 for the stem."""
    vision_heads: int = 0
    vision_mlp: int = 0
    vocab: int = 64
    max_prompt: int = 12
    """Longest prompt, tokens."""
    lm_width: int = 192
    lm_mlp: int = 768
    layers: int = 6
    heads: int = 8
    kv_heads: int = 1
    head_dim: int = 32
    expert_width: int = 128
    expert_mlp: int = 512
    state_dim: int = 8
    action_dim: int = 8
    horizon: int = 16
    flow_steps: int = 5
    """Euler steps from noise (t = 1) to actions (t = 0)."""
    noise_scale: float = 1.0
    """Scale of the noise the flow starts from: 1 draws one of the demonstrated ways, 0 starts at their centre."""
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-6
    min_period: float = 4e-3
    """Shortest and longest period of the sinusoidal time embedding."""
    max_period: float = 4.0

    def __post_init__(self) -> None:
        """Raises CheckpointError for a combination that is not a model."""
        if self.vision not in VISIONS:
            raise CheckpointError(unknown("vision tower", self.vision, VISIONS))
        if self.fit not in FITS:
            raise CheckpointError(unknown("fit", self.fit, FITS))
        if self.variant not in VARIANTS:
            raise CheckpointError(unknown("variant", self.variant, VARIANTS))
        for name, value in dataclasses.asdict(self).items():
            least = 0 if name in ("vision_layers", "vision_heads", "vision_mlp", "noise_scale") else 1e-12
            if isinstance(value, (int, float)) and not isinstance(value, bool) and value < least:
                raise CheckpointError(f"model configuration: {name} must be positive, got {value}")
        for wrong, why in self._contradictions():
            if wrong:
                raise CheckpointError(f"model configuration: {why}")

    def _contradictions(self) -> tuple[tuple[bool, str], ...]:
        siglip = self.vision == "siglip"
        return (
            (not self.cameras or len(set(self.cameras)) != len(self.cameras), "cameras must be distinct and not empty"),
            (self.image_size % self.patch != 0, f"image_size must be a multiple of patch {self.patch}"),
            (self.heads % self.kv_heads != 0, f"heads must be a multiple of kv_heads {self.kv_heads}"),
            (self.head_dim % 2 != 0, "head_dim must be even (rotary embedding)"),
            (self.expert_width % 2 != 0, "expert_width must be even (time embedding)"),
            (not siglip and self.patch != 2 ** (len(STEM_CHANNELS) + 1), "the stem has patch 16"),
            (not siglip and self.vision_width % 8 != 0, "the stem needs vision_width in multiples of 8"),
            (
                siglip and min(self.vision_layers, self.vision_heads, self.vision_mlp) < 1,
                "the SigLIP tower needs vision_layers, vision_heads and vision_mlp",
            ),
            (
                siglip and self.vision_heads > 0 and self.vision_width % self.vision_heads != 0,
                "vision_width must be a multiple of vision_heads",
            ),
        )

    @property
    def tokens(self) -> int:
        """Vision tokens N of one camera."""
        return (self.image_size // self.patch) ** 2

    @property
    def state_tokens(self) -> int:
        """Tokens between prefix and actions: pi0's state, or none."""
        return 1 if self.variant == "pi0" else 0

    @property
    def max_prefix(self) -> int:
        """Longest prefix S: vision tokens of every camera, then the prompt."""
        return len(self.cameras) * self.tokens + self.max_prompt

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        data = dataclasses.asdict(self)
        data["cameras"] = list(self.cameras)
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> PiConfig:
        """The inverse of `to_dict`. Raises CheckpointError for a key, type or value that is not valid."""
        if not isinstance(data, Mapping):
            raise CheckpointError(f"model configuration: expected a mapping, got {type(data).__name__}")
        hints = typing.get_type_hints(cls)
        return cls(**{key: _typed(key, value, hints) for key, value in data.items()})


def _typed(key: str, value: Any, hints: Mapping[str, Any]) -> Any:
    if key not in hints:
        raise CheckpointError("model configuration: " + unknown("key", key, hints))
    hint = hints[key]
    if key == "cameras" and isinstance(value, (list, tuple)) and all(isinstance(v, str) for v in value):
        return tuple(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if key == "cameras" or not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        kind = "a list of names" if key == "cameras" else hint.__name__
        raise CheckpointError(f"model configuration: {key} must be {kind}, got {value!r}")
    return value


MINI = PiConfig()
"""The built-in policy: two cameras at 96 px (36 tokens each), LM 6 x 192, expert 6 x 128, 8 query heads, 1 KV head."""
