"""Finds a camera that sends one picture over and over under new stamps.

Two pictures of a real camera are never the same byte for byte, as it has noise; those of a simulated one are while
nothing moves. So a picture counts as frozen once the arm has moved under it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ecovla_ros.errors import ObservationError
from ecovla_ros.types import Floats, Pixels
from ecovla_ros.wire import causes

MOVED_RAD = 0.3
"""A joint that moves so far changes what every camera sees of the arm, in a simulator without noise as well."""

HEAD = 4096
"""Bytes that are compared first."""


@dataclass
class Stillness:
    """The last picture of each camera, and where the arm was when it first came. Not thread-safe."""

    _seen: dict[str, tuple[Pixels, Floats]] = field(default_factory=dict)

    def look(self, camera: str, data: Any, joints: Floats) -> str:
        """Why this camera is frozen; empty when it is not. `data`: bytes of a picture, raw or compressed; `joints`:
        rad, (7,)."""
        whole = np.frombuffer(data, np.uint8)
        last, at = self._seen.get(camera, (whole[:0], joints))
        # A real camera differs in the first bytes: the whole is compared only where they agree.
        if not (np.array_equal(last[:HEAD], whole[:HEAD]) and np.array_equal(last, whole)):
            self._seen[camera] = (whole, joints.copy())
            return ""
        moved = float(np.abs(joints - at).max())
        return causes.frozen(camera, moved) if moved > MOVED_RAD else ""

    def check(self, image_messages: Mapping[str, Any], joints: Floats) -> None:
        """Raises ObservationError for a frozen camera among these messages of one frame."""
        wrong = [why for name, msg in image_messages.items() if (why := self.look(name, msg.data, joints))]
        if wrong:
            raise ObservationError(wrong[0])

    def clear(self) -> None:
        """Another episode: the arm may have been set elsewhere."""
        self._seen.clear()
