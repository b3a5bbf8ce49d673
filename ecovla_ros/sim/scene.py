"""The table-top scene as one compiled MuJoCo model: arm, gripper, props, floor, table, lights and two cameras."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np

from ecovla_ros.sim.gen3 import add_arm, add_gripper
from ecovla_ros.sim.props import DISTRACTORS, GOALS, OBJECTS, SOLID, add_props
from ecovla_ros.sim.textures import SIZE, pattern

TIMESTEP_S = 0.002
FLOOR_HEIGHT = -0.75

CLASSES = ("background", "apple", "banana", "bottle", "basket", "cabinet", "arm", "distractor")
"""Segmentation classes; the index is the id. Table, floor and sky are background."""

SKY_TOP, SKY_BOTTOM = (0.55, 0.58, 0.62), (0.80, 0.82, 0.85)

THIRD_PERSON_AT, THIRD_PERSON_LOOKS = (0.10, -0.86, 0.70), (0.47, -0.04, 0.06)
"""To the right of the robot: from the front one would see the cabinet's back."""
WRIST_AT, WRIST_LOOKS = (0.0, 0.085, 0.0), (0.0, 0.028, 0.19)
"""In the flange frame: beside the tool, tilted to the finger tips."""


def look_at(eye: tuple[float, ...], target: tuple[float, ...], up: tuple[float, ...]) -> np.ndarray:
    """Quaternion (4,) of a camera at `eye` that looks (its -z) at `target`."""
    back = np.subtract(eye, target)
    back /= np.linalg.norm(back)
    right = np.cross(up, back)
    right /= np.linalg.norm(right)
    quaternion = np.zeros(4)
    mujoco.mju_mat2Quat(quaternion, np.stack([right, np.cross(back, right), back], axis=1).ravel())
    return quaternion


def build(width: int = 640, height: int = 480) -> Any:
    """Compile the scene (mujoco.MjModel). `width` and `height` bound what a GL renderer can draw, px."""
    spec = mujoco.MjSpec()
    spec.modelname = "gen3_table"
    spec.compiler.degree = False
    _set_options(spec, width, height)
    _add_room(spec)
    flange = add_arm(spec)
    add_gripper(spec, flange)
    flange.add_camera(name="wrist", pos=WRIST_AT, quat=look_at(WRIST_AT, WRIST_LOOKS, (0, -1, 0)), fovy=62)
    third = look_at(THIRD_PERSON_AT, THIRD_PERSON_LOOKS, (0, 0, 1))
    spec.worldbody.add_camera(name="third_person", pos=THIRD_PERSON_AT, quat=third, fovy=45)
    add_props(spec.worldbody)
    model = spec.compile()
    for name, kind in (("table", "wood"), ("floor", "checker")):
        texture_view(model, name)[:] = pattern(kind)
    return model


def _set_options(spec: Any, width: int, height: int) -> None:
    """Physics for grasping (elliptic cones), and drawing that stays cheap on a software GL."""
    spec.option.timestep = TIMESTEP_S
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    spec.option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    spec.option.impratio = 10
    visual = spec.visual
    visual.global_.offwidth, visual.global_.offheight = width, height
    visual.quality.shadowsize, visual.quality.offsamples = 512, 0
    visual.quality.numslices, visual.quality.numstacks = 16, 8
    visual.headlight.ambient, visual.headlight.diffuse = [0.36] * 3, [0.14] * 3
    visual.headlight.specular = [0.0] * 3
    visual.map.znear, visual.map.zfar = 0.02, 20
    spec.stat.extent, spec.stat.center = 1.0, [0.4, 0, 0.2]


def _add_room(spec: Any) -> None:
    world = spec.worldbody
    for name, repeat in (("table", 2), ("floor", 8)):
        texture = spec.add_texture(name=name, type=mujoco.mjtTexture.mjTEXTURE_2D, width=SIZE, height=SIZE)
        texture.builtin, texture.rgb1 = mujoco.mjtBuiltin.mjBUILTIN_FLAT, [1.0, 1.0, 1.0]
        material = spec.add_material(name=name)
        material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = name
        material.texrepeat, material.specular = [repeat, repeat], 0.1
        material.rgba = [0.74, 0.60, 0.44, 1] if name == "table" else [0.46, 0.48, 0.51, 1]
    sky = spec.add_texture(name="sky", type=mujoco.mjtTexture.mjTEXTURE_SKYBOX, width=64, height=384)
    sky.builtin, sky.rgb1, sky.rgb2 = mujoco.mjtBuiltin.mjBUILTIN_GRADIENT, SKY_BOTTOM, SKY_TOP
    geom = mujoco.mjtGeom
    floor = {"pos": [0, 0, FLOOR_HEIGHT], "size": [3, 3, 0.1], "contype": 0, "conaffinity": 1}
    world.add_geom(name="floor", type=geom.mjGEOM_PLANE, material="floor", **floor)
    table = {"pos": [0.40, 0, -0.02], "size": [0.55, 0.70, 0.02], "friction": [0.9, 0.01, 0.001]}
    world.add_geom(name="table", type=geom.mjGEOM_BOX, material="table", **table, **SOLID)
    lights = (("key", (0.2, -0.8, 2.0), (0.15, 0.35, -1), 0.50), ("fill", (1, 1, 1.8), (-0.4, -0.5, -1), 0.18))
    for name, eye, aim, level in lights:
        light = world.add_light(name=name, pos=eye, dir=aim, diffuse=[level] * 3, castshadow=False)
        light.type, light.specular = mujoco.mjtLightType.mjLIGHT_DIRECTIONAL, [0.1] * 3


def texture_view(model: Any, name: str) -> np.ndarray:
    """The pixels of a texture inside the model, uint8 (H, W, 3): writing to it changes what is drawn."""
    texture = model.texture(name).id
    rows, columns = int(model.tex_height[texture]), int(model.tex_width[texture])
    start = int(model.tex_adr[texture])
    return model.tex_data[start : start + rows * columns * 3].reshape(rows, columns, 3)


def geom_classes(model: Any) -> np.ndarray:
    """Class id of every geom, int32 (ngeom,): the index in `CLASSES`."""
    classes = np.zeros(model.ngeom, np.int32)
    for geom in range(model.ngeom):
        name = model.body(int(model.geom_bodyid[geom])).name
        if name in (*OBJECTS, *GOALS):
            classes[geom] = CLASSES.index(name)
        elif name in DISTRACTORS:
            classes[geom] = CLASSES.index("distractor")
        elif name != "world":
            classes[geom] = CLASSES.index("arm")
    return classes
