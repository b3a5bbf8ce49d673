"""Checks that a checkpoint fits the simulator that it is to drive. A difference is an error, and never adapted to."""

from __future__ import annotations

from ecovla_ros.config import Config
from ecovla_ros.errors import CheckpointError
from ecovla_ros.models.base import PolicySpec
from ecovla_ros.sim.tasks import TASKS
from ecovla_ros.types import CAMERAS, JOINTS


def check(spec: PolicySpec, settings: Config, renderer: str) -> None:
    """Raises CheckpointError: renderer, cameras, image size, actions, horizon or instructions that do not fit."""
    if spec.renderer not in ("any", renderer):
        raise CheckpointError(
            f"the checkpoint was trained on '{spec.renderer}' images and this run draws with '{renderer}'; "
            f"set sim.renderer to '{spec.renderer}'"
        )
    if set(spec.cameras) != set(CAMERAS):
        raise CheckpointError(f"the checkpoint's cameras are {sorted(spec.cameras)}; there are {sorted(CAMERAS)}")
    for name, (height, width) in spec.cameras.items():
        if settings.sim.height < height or settings.sim.width < width:
            raise CheckpointError(
                f"the checkpoint sees {name} at {width} x {height} px and this run draws {settings.sim.width} x "
                f"{settings.sim.height}; set sim.width and sim.height to at least that"
            )
    if spec.action_dim < len(JOINTS) + 1:
        raise CheckpointError(f"the checkpoint's actions have {spec.action_dim} columns; needed: {len(JOINTS) + 1}")
    reach = spec.horizon * spec.period_s
    if reach < settings.control.replan_s:
        raise CheckpointError(
            f"the checkpoint's chunks last {reach:.2f} s and a new one comes every {settings.control.replan_s:.2f} s; "
            "lower control.replan_s"
        )
    unknown = [t.instruction for t in TASKS.values() if spec.instructions and t.instruction not in spec.instructions]
    if unknown:
        raise CheckpointError(
            f"the checkpoint was not trained on {', '.join(map(repr, unknown))}; it knows: "
            + ", ".join(map(repr, spec.instructions))
        )
