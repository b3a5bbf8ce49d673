"""A strip of pictures of one episode: cameras one above the other, moments from left to right."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ecovla_ros.errors import ConfigError
from ecovla_ros.types import Pixels
from ecovla_ros.wire import compressed

KEEP_S = 0.5
"""One picture of a camera is kept in so long, s."""
MOST = 240
"""Pictures of a camera that are kept, two minutes: after that every second one goes, so that an episode may be long."""
MOMENTS = 5
"""Columns of a strip."""


class EpisodeStrip:
    """Keeps pictures of an episode as it goes."""

    def __init__(self, cameras: Sequence[str]) -> None:
        """`cameras`: rows of the strip, from above."""
        self._kept: dict[str, list[tuple[float, Pixels]]] = {name: [] for name in cameras}
        self._apart_s = KEEP_S

    def begin(self) -> None:
        """A new episode."""
        self._apart_s = KEEP_S
        for kept in self._kept.values():
            kept.clear()

    def wants(self, camera: str, seconds: float) -> bool:
        """Whether a picture that is `seconds` old in the episode would be kept: if not, nobody needs to decode it."""
        kept = self._kept[camera]
        return not kept or seconds - kept[-1][0] >= self._apart_s

    def add(self, camera: str, seconds: float, picture: Pixels) -> None:
        """Keep a picture, RGB (H, W, 3) uint8, taken `seconds` after an episode's beginning."""
        if not self.wants(camera, seconds):
            return
        self._kept[camera].append((seconds, picture))
        if len(self._kept[camera]) > MOST:
            self._apart_s *= 2.0
            for kept in self._kept.values():
                del kept[1::2]

    def picture(self) -> Pixels | None:
        """RGB (rows * H, MOMENTS * W, 3) uint8: the first and the last moment and some between; none without pictures
        of every camera. A camera of another size than the first one's is scaled to it.
        """
        if not all(self._kept.values()):
            return None
        first = next(iter(self._kept.values()))
        times = np.linspace(first[0][0], first[-1][0], MOMENTS)
        height, width = first[0][1].shape[:2]
        rows = [[_scaled(_nearest(kept, at), width, height) for at in times] for kept in self._kept.values()]
        return np.vstack([np.hstack(row) for row in rows])

    def write(self, path: Path) -> bool:
        """Write it as PNG, if there is one. Raises ConfigError where it cannot be written."""
        made = self.picture()
        if made is None:
            return False
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(compressed.encode(made))
        except OSError as error:
            raise ConfigError(f"cannot write '{path}': {error.strerror}") from error
        return True


def _nearest(kept: Sequence[tuple[float, Pixels]], seconds: float) -> Pixels:
    return min(kept, key=lambda item: abs(item[0] - seconds))[1]


def _scaled(picture: Pixels, width: int, height: int) -> Pixels:
    """By the nearest pixel."""
    down, right = (np.arange(n) * m // n for n, m in zip((height, width), picture.shape))
    return picture[down[:, None], right]
