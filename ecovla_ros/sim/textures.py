"""Procedural surface patterns, deterministic and grey: what the table and the floor are covered with."""

from __future__ import annotations

import numpy as np

from ecovla_ros.errors import SimulationError, unknown

SIZE = 256
"""Pixels of a side."""

PATTERNS = ("wood", "checker", "stripes", "speckle", "plain")


def pattern(kind: str, seed: int = 0) -> np.ndarray:
    """Grey pattern, uint8 (SIZE, SIZE, 3), that multiplies the material's colour; it tiles without seams.

    Raises SimulationError listing the valid kinds.
    """
    if kind not in PATTERNS:
        raise SimulationError(unknown("texture", kind, PATTERNS))
    rng = np.random.default_rng(seed)
    grey = {"wood": _wood, "checker": _checker, "stripes": _stripes, "speckle": _speckle, "plain": _plain}[kind](rng)
    return np.repeat((255 * np.clip(grey, 0.0, 1.0)).astype(np.uint8)[:, :, None], 3, axis=2)


def _axes() -> tuple[np.ndarray, np.ndarray]:
    turn = np.arange(SIZE) / SIZE * 2 * np.pi
    return turn[None, :], turn[:, None]


def _wood(rng: np.random.Generator) -> np.ndarray:
    """Four planks along the first texture axis, with wavy grain."""
    along, across = _axes()
    phase = rng.uniform(0, 2 * np.pi, 4)
    wave = 0.5 * np.sin(along + phase[0]) + 0.3 * np.sin(2 * along + phase[1])
    grain = 0.5 + 0.25 * np.sin(20 * across + wave + phase[2]) + 0.25 * np.sin(33 * across - wave + phase[3])
    plank = np.arange(SIZE)[:, None] * 4 // SIZE
    tone = rng.uniform(0.86, 1.0, 4)[plank]
    seam = (np.arange(SIZE)[:, None] % (SIZE // 4)) < 2
    return np.where(seam, 0.55, tone - 0.12 * grain)


def _checker(rng: np.random.Generator) -> np.ndarray:
    cell = np.arange(SIZE) * 8 // SIZE + int(rng.integers(2))
    return np.where((cell[:, None] + cell[None, :] % 2) % 2 == 0, 1.0, 0.82)


def _stripes(rng: np.random.Generator) -> np.ndarray:
    _, across = _axes()
    return np.broadcast_to(0.88 + 0.12 * np.sign(np.sin(8 * across + rng.uniform(0, 1))), (SIZE, SIZE))


def _speckle(rng: np.random.Generator) -> np.ndarray:
    return np.repeat(np.repeat(rng.uniform(0.75, 1.0, (SIZE // 4, SIZE // 4)), 4, axis=0), 4, axis=1)


def _plain(rng: np.random.Generator) -> np.ndarray:
    return np.full((SIZE, SIZE), rng.uniform(0.9, 1.0))


class Pyramid:
    """A grey texture at half, quarter ... resolution, so that a far surface shows its average and does not flicker."""

    def __init__(self) -> None:
        self.size = SIZE
        """Pixels of a side at full resolution."""
        self._source = np.empty(0, np.uint8)
        self._levels = np.empty(0, np.float32)
        self._starts: np.ndarray = np.empty(0, np.int32)

    def update(self, pixels: np.ndarray) -> None:
        """Take over a texture, uint8 (S, S, 3), S a power of two; free when it has not changed."""
        if np.array_equal(pixels, self._source):
            return
        self._source = pixels.copy()
        levels = [pixels[:, :, 0].astype(np.float32) / 255.0]
        while len(levels[-1]) > 1:
            fine = levels[-1]
            levels.append((fine[::2, ::2] + fine[1::2, ::2] + fine[::2, 1::2] + fine[1::2, 1::2]) / 4)
        self.size = len(pixels)
        self._levels = np.concatenate([level.ravel() for level in levels])
        self._starts = np.cumsum([0] + [level.size for level in levels[:-1]]).astype(np.int32)

    def read(self, x: np.ndarray, y: np.ndarray, grain: np.ndarray) -> np.ndarray:
        """Values, float32 (N,), 0..1, at columns `x` and rows `y` (N,), int32, for footprints of `grain` pixels."""
        level = np.clip(np.log2(grain + 1e-6) + 0.5, 0.0, len(self._starts) - 1.0).astype(np.int32)
        row = (y >> level) * (self.size >> level)
        return np.take(self._levels, np.take(self._starts, level) + row + (x >> level))
