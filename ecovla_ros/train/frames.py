"""One recorded frame: pictures, their classes, the arm, and what the expert would do next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from ecovla_ros.sim.env import KinovaEnv
from ecovla_ros.sim.expert import Expert
from ecovla_ros.train.dataset import PLACES
from ecovla_ros.types import CAMERAS


@dataclass(frozen=True)
class DemoSettings:
    """What a data set is made of."""

    episodes: int = 900
    """Over all tasks, in turn."""
    seed: int = 1_000_000
    """Seed of the first episode; evaluation seeds lie below."""
    renderer: str = "ray"
    size: int = 96
    """Policy image size, px."""
    horizon: int = 16
    looks: float = 0.25
    """Share of episodes with randomised looks."""
    push_rad: float = 0.016
    """Largest standard deviation of a push, rad per joint and period; each episode draws its own up to it."""
    push_chance: float = 0.12
    """Chance per period that a push begins."""
    max_steps: int = 160
    tail: int = 6
    """Periods recorded after success: the arm stays where it is."""


def frame_of(env: KinovaEnv, expert: Expert, settings: DemoSettings, task: int, seed: int) -> dict[str, Any]:
    """A row of train.dataset as of now; `task` is the index of the instruction."""
    images, classes = _views(env)
    arm = env.world.arm_state()
    size = (settings.size, settings.size)
    cells = (settings.size // 4, settings.size // 4)
    joints, gripper = expert.rollout(settings.horizon)
    tool, rotation = env.world.tcp()
    return {
        "images": np.stack([cv2.resize(images[c], size, interpolation=cv2.INTER_AREA) for c in CAMERAS]),
        "classes": np.stack(
            [cv2.resize(classes[c].astype(np.uint8), cells, interpolation=cv2.INTER_NEAREST) for c in CAMERAS]
        ),
        "state": np.concatenate([arm.joints, [arm.gripper]]),
        "actions": np.concatenate([joints, gripper[:, None]], axis=1),
        "places": np.stack([env.world.pose(name)[0] for name in PLACES]),
        "tool": np.concatenate([tool, rotation.ravel()]),
        "task": task,
        "episode": seed,
    }


def _views(env: KinovaEnv) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Images and class maps of every camera, of one snapshot."""
    env.renderer.snapshot(env.world.data)
    images, classes = {}, {}
    for camera in CAMERAS:
        images[camera], classes[camera] = env.renderer.render(camera), env.renderer.segmentation(camera)
    return images, classes
