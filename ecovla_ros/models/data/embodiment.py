"""Which of this arm's cameras fills which image slot of a checkpoint. Never by position: a wrong view says nothing."""

from __future__ import annotations

from collections.abc import Sequence

from ecovla_ros.config import EmbodimentConfig
from ecovla_ros.errors import CheckpointError, unknown
from ecovla_ros.types import CAMERAS


def cameras_by_slot(embodiment: EmbodimentConfig, slots: Sequence[str], needed: bool) -> tuple[str, ...]:
    """Camera names in the order of a checkpoint's `slots`; slots without a camera are left out unless all are `needed`.

    Raises CheckpointError for a mapping that is missing, doubled, or names what is not there.
    """
    where = "policy.embodiment.cameras"
    chosen: dict[str, str] = {}
    for text in embodiment.cameras:
        camera, equals, slot = text.partition("=")
        if not equals:
            raise CheckpointError(f"{where}: '{text}' is not camera=slot")
        if camera not in CAMERAS:
            raise CheckpointError(f"{where}: " + unknown("camera", camera, CAMERAS))
        if slot not in slots:
            raise CheckpointError(f"{where}: " + unknown("slot", slot, slots))
        if slot in chosen or camera in chosen.values():
            raise CheckpointError(f"{where}: '{text}' names a camera or slot a second time")
        chosen[slot] = camera
    missing = [slot for slot in slots if slot not in chosen]
    if not chosen or (needed and missing):
        raise CheckpointError(
            f"{where}: no camera for slot {', '.join(missing)}; valid: camera=slot with one of {', '.join(CAMERAS)}"
        )
    return tuple(chosen[slot] for slot in slots if slot in chosen)
