"""Scripted observations: calm phases with sensor noise, and phases in which the scene changes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ecovla_ros.models.base import PolicySpec
from ecovla_ros.types import CONTINUOUS, Observation

CALM, CHANGING = "calm", "changing"
CALM_FRAMES, CHANGING_FRAMES = 32, 8
"""The scene stands still so many frames, then becomes another one over so many."""
PERIOD_NS = 100_000_000


@dataclass(frozen=True)
class SceneFrame:
    """One observation and the phase it belongs to."""

    phase: str
    observation: Observation


def stream(spec: PolicySpec, frames: int, seed: int, state: int = 0) -> Iterator[SceneFrame]:
    """`frames` observations of a policy's cameras and first instruction; the same for the same seed. `state`: how many
    numbers the state of another arm has; 0: a policy of this one."""
    rng = np.random.default_rng(seed)
    text = spec.instructions[0] if spec.instructions else "place the apple in the basket"
    other = np.zeros(state) if state else None
    before = after = {c: _scene(hw, rng) for c, hw in spec.cameras.items()}
    for i in range(frames):
        at = i % (CALM_FRAMES + CHANGING_FRAMES)
        if at == CALM_FRAMES:
            before, after = after, {c: _scene(hw, rng) for c, hw in spec.cameras.items()}
        share = max(0.0, (at - CALM_FRAMES + 1) / CHANGING_FRAMES)
        images = {}
        for c in spec.cameras:
            scene = (1 - share) * before[c] + share * after[c] if share else after[c]
            images[c] = np.clip(scene + rng.integers(-4, 5, scene.shape), 0, 255).astype(np.uint8)
        obs = Observation(i * PERIOD_NS + 1, images, np.zeros(len(CONTINUOUS)), 0.0, text, other)
        yield SceneFrame(CHANGING if share else CALM, obs)


def _scene(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Blocks of random colour, float (H, W, 3)."""
    blocks = rng.integers(0, 256, (size[0] // 16 + 1, size[1] // 16 + 1, 3)).astype(float)
    return blocks.repeat(16, 0).repeat(16, 1)[: size[0], : size[1]]
