"""Where things stand at the start of an episode: a function of the seed alone, so that methods and tasks pair up."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ecovla_ros.sim.props import CABINET_DEPTH, CABINET_WIDTH, DISTRACTORS, OBJECTS

REGION = ((0.37, -0.165), (0.62, 0.15))
BOTTLE_REGION = ((0.50, -0.16), (0.62, 0.12))
"""The tilted grasp of the bottle folds joint 4 onto its limit when closer to the base."""
SPACING = 0.115
"""Smallest distance between two objects, m."""
CABINET_GAP = 0.09
"""Smallest distance from an object to the cabinet, m: the open gripper has to pass between them."""
BANANA_YAW = 1.2
"""Largest yaw of the banana, rad: keeps the grasp away from the wrap of joint 7."""


@dataclass(frozen=True)
class Placement:
    """Planar poses (x in m, y in m, yaw in rad) by body name, and offsets of the start pose (7,), rad."""

    poses: dict[str, tuple[float, float, float]]
    start_offset: np.ndarray


def sample(rng: np.random.Generator) -> Placement:
    """Draw goals, objects, free spots for the distractors (`cube_0`, `cube_1`) and the start pose."""
    poses = {
        "basket": _jitter(rng, (0.47, -0.37, 0.0), (0.03, 0.03, 0.15)),
        "cabinet": _jitter(rng, (0.68, 0.36, 0.55), (0.02, 0.02, 0.10)),
    }
    names = ("bottle", *(name for name in OBJECTS if name != "bottle"), *DISTRACTORS)
    spots = None
    while spots is None:
        spots = _spots(rng, names, poses["cabinet"])
    for name, spot in zip(names, spots):
        limit = BANANA_YAW if name == "banana" else math.pi
        poses[name] = (float(spot[0]), float(spot[1]), float(rng.uniform(-limit, limit)))
    return Placement(poses, rng.normal(0.0, 0.02, 7))


def cabinet_distance(x: float, y: float, cabinet: tuple[float, float, float]) -> float:
    """Distance in the plane from a point to the cabinet's outline, m."""
    c, s = math.cos(cabinet[2]), math.sin(cabinet[2])
    dx, dy = x - cabinet[0], y - cabinet[1]
    along, across = abs(c * dx + s * dy) - CABINET_DEPTH, abs(c * dy - s * dx) - CABINET_WIDTH
    return math.hypot(max(along, 0.0), max(across, 0.0))


def _jitter(
    rng: np.random.Generator, centre: tuple[float, float, float], spread: tuple[float, float, float]
) -> tuple[float, float, float]:
    x, y, yaw = (c + float(rng.uniform(-s, s)) for c, s in zip(centre, spread))
    return x, y, yaw


def _spots(
    rng: np.random.Generator, names: tuple[str, ...], cabinet: tuple[float, float, float]
) -> list[np.ndarray] | None:
    """One try to place all; None when a body found no room in 50 draws."""
    spots: list[np.ndarray] = []
    for name in names:
        region = BOTTLE_REGION if name == "bottle" else REGION
        for _ in range(50):
            spot = rng.uniform(*region)
            apart = all(np.hypot(*(spot - other)) > SPACING for other in spots)
            if apart and cabinet_distance(spot[0], spot[1], cabinet) > CABINET_GAP:
                spots.append(spot)
                break
        else:
            return None
    return spots
