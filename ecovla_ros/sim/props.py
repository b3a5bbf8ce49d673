"""What stands on the table: the three objects, the distractor cubes, the basket and the cabinet. Primitives only."""

from __future__ import annotations

import math
from typing import Any

import mujoco
import numpy as np

OBJECTS = ("apple", "banana", "bottle")
DISTRACTORS = ("cube_0", "cube_1")
GOALS = ("basket", "cabinet")

REST_HEIGHT = {"apple": 0.031, "banana": 0.0165, "bottle": 0.045, "cube_0": 0.02, "cube_1": 0.02}
"""Height of each body's origin when it rests upright on the table, m."""

BASKET_HALF, BASKET_HEIGHT = 0.105, 0.07
CABINET_DEPTH, CABINET_WIDTH, CABINET_HEIGHT = 0.10, 0.13, 0.26
"""Half depth, half width and height of the cabinet, m; its opening faces its own -x."""
WALL = 0.006

SOLID: dict[str, Any] = {"contype": 1, "conaffinity": 3}
PAINT: dict[str, Any] = {"contype": 0, "conaffinity": 0, "mass": 0.0}

_GEOM = mujoco.mjtGeom
_GRIP: dict[str, Any] = {"friction": [0.9, 0.01, 0.001], "condim": 4, **SOLID}


def add_props(world: Any) -> None:
    """Add objects, distractors and goals to the world body of an MjSpec."""
    for name, add in (("apple", _add_apple), ("banana", _add_banana), ("bottle", _add_bottle)):
        add(_free_body(world, name))
    for name in DISTRACTORS:
        cube = _free_body(world, name)
        cube.add_geom(type=_GEOM.mjGEOM_BOX, size=[0.02] * 3, rgba=[0.45, 0.20, 0.60, 1], mass=0.05, **_GRIP)
    _add_basket(world.add_body(name="basket", mocap=True))
    _add_cabinet(world.add_body(name="cabinet", mocap=True))


def _free_body(world: Any, name: str) -> Any:
    body = world.add_body(name=name)
    body.add_freejoint(name=f"{name}_free")
    return body


def _add_apple(body: Any) -> None:
    body.add_geom(
        type=_GEOM.mjGEOM_ELLIPSOID,
        size=[0.034, 0.034, 0.031],
        rgba=[0.80, 0.06, 0.05, 1],
        mass=0.12,
        friction=[0.9, 0.01, 0.004],  # rolling friction keeps it where it was put
        condim=6,
        **SOLID,
    )
    stem = {"fromto": [0, 0, 0.028, 0, 0, 0.040], "size": [0.003, 0, 0], "rgba": [0.25, 0.15, 0.05, 1]}
    body.add_geom(type=_GEOM.mjGEOM_CYLINDER, **stem, **PAINT)


def _add_banana(body: Any) -> None:
    """Four capsules along an arc of 0.1 m radius, long axis x, with two dark tips."""
    arc = [(0.075 * math.sin(a), 0.10 * (1 - math.cos(a)) - 0.02, 0.0) for a in np.linspace(-1.0, 1.0, 5)]
    for start, end in zip(arc[:-1], arc[1:]):
        flesh = {"fromto": [*start, *end], "size": [0.0165, 0, 0], "rgba": [0.95, 0.80, 0.08, 1], "mass": 0.03}
        body.add_geom(type=_GEOM.mjGEOM_CAPSULE, **flesh, **_GRIP)
    for tip, inner in ((arc[0], arc[1]), (arc[4], arc[3])):
        outward = np.subtract(tip, inner)
        far = np.add(tip, 0.012 * outward / np.linalg.norm(outward))
        dark = {"fromto": [*tip, *far], "size": [0.009, 0, 0], "rgba": [0.35, 0.25, 0.06, 1]}
        body.add_geom(type=_GEOM.mjGEOM_CAPSULE, **dark, **PAINT)


def _add_bottle(body: Any) -> None:
    """White bottle and cap, blue label. The cap is white: a blue one looks like a cube from above."""
    grip = {"friction": [0.9, 0.01, 0.003], "condim": 6, **SOLID}  # fallen over, it rolls to a stop
    parts: tuple[tuple[float, float, float, list[float], dict[str, Any]], ...] = (
        (-0.045, 0.025, 0.024, [0.96, 0.96, 0.96, 1], {"mass": 0.07, **grip}),
        (0.025, 0.045, 0.022, [0.93, 0.93, 0.90, 1], {"mass": 0.01, **grip}),
        (-0.025, 0.012, 0.0244, [0.10, 0.35, 0.75, 1], PAINT),
    )
    for low, high, radius, rgba, more in parts:
        ends = [0, 0, low, 0, 0, high]
        body.add_geom(type=_GEOM.mjGEOM_CYLINDER, fromto=ends, size=[radius, 0, 0], rgba=rgba, **more)


Boxes = list[tuple[list[float], list[float]]]
"""Centre and half sizes of each, m."""


def _add_boxes(body: Any, boxes: Boxes, rgba: list[float], more: dict[str, Any]) -> None:
    for centre, half in boxes:
        body.add_geom(type=_GEOM.mjGEOM_BOX, pos=centre, size=half, rgba=rgba, **more)


def _add_basket(body: Any) -> None:
    """Open box, origin at the centre of its floor, with a lighter rim that is only seen."""
    half, height, thin = BASKET_HALF, BASKET_HEIGHT, WALL / 2
    walls: Boxes = [([0, 0, thin], [half, half, thin])]
    rim: Boxes = []
    for side in (half, -half):
        walls += [([side, 0, height / 2], [thin, half + thin, height / 2])]
        walls += [([0, side, height / 2], [half + thin, thin, height / 2])]
        rim += [([side, 0, height], [0.8 * WALL, half + WALL, 0.8 * WALL])]
        rim += [([0, side, height], [half + WALL, 0.8 * WALL, 0.8 * WALL])]
    _add_boxes(body, walls, [0.55, 0.35, 0.16, 1], {"friction": [0.8, 0.01, 0.001], **SOLID})
    _add_boxes(body, rim, [0.70, 0.47, 0.24, 1], PAINT)


def _add_cabinet(body: Any) -> None:
    """Floor, top, back and two sides; origin at the centre of the floor plate."""
    depth, width, height, thin = CABINET_DEPTH, CABINET_WIDTH, CABINET_HEIGHT, WALL / 2
    plates: Boxes = [
        ([0, 0, thin], [depth, width, thin]),
        ([0, 0, height], [depth, width, thin]),
        ([depth, 0, height / 2], [thin, width, height / 2]),
        ([0, width, height / 2], [depth, thin, height / 2]),
        ([0, -width, height / 2], [depth, thin, height / 2]),
    ]
    _add_boxes(body, plates, [0.42, 0.50, 0.58, 1], {"friction": [0.8, 0.01, 0.001], **SOLID})
