"""Bodies of a compiled MuJoCo model as SDFormat 1.9: links, joints, collisions and visuals, primitives only.

What Gazebo cannot express is left out: MuJoCo's armature, rolling friction, tendons and textures.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any
from xml.etree import ElementTree

import mujoco
import numpy as np

Element = ElementTree.Element
IDENTITY = (1.0, 0.0, 0.0, 0.0)
CAMERA_TURN = np.array([[0.0, -1.0, 0.0], [0.0, 0.0, 1.0], [-1.0, 0.0, 0.0]])
"""From Gazebo's camera (looks along x, z up) to MuJoCo's (looks along -z, y up)."""
NOISE = 0.007
"""Of a camera's pixels, standard deviation, of 1: about two of 255 steps, as a real camera's in a lit room."""
LIGHT_KG, LIGHT_KG_M2 = 0.01, 1e-5
"""Mass and inertia of a link that has none in the model: Gazebo would take 1 kg for it."""
MOST_EFFORT = 1000.0
"""Effort limit of a joint that no actuator drives, N m or N."""


def child(parent: Element, tag: str, text: object = None, **attributes: str) -> Element:
    """A new last child of `parent`."""
    made = ElementTree.SubElement(parent, tag, attributes)
    if text is not None:
        made.text = text if isinstance(text, str) else numbers(text)
    return made


def numbers(values: Any) -> str:
    """Numbers as SDF writes them: spaces between, as many digits as carry meaning."""
    if isinstance(values, bool):
        return "true" if values else "false"
    return " ".join(f"{float(value) + 0.0:.9g}" for value in np.atleast_1d(values))


def pose(parent: Element, position: Iterable[float], quaternion: Iterable[float] = IDENTITY, frame: str = "") -> None:
    """Position, m, and MuJoCo's quaternion (w, x, y, z) as a `<pose>` of `parent`, in `frame` or its own default."""
    w, x, y, z = quaternion
    relative = {"relative_to": frame} if frame else {}
    child(parent, "pose", [*position, x, y, z, w], rotation_format="quat_xyzw", **relative)


def quaternion(rotation: np.ndarray) -> np.ndarray:
    """Quaternion (w, x, y, z) of a rotation (3, 3)."""
    result = np.zeros(4)
    mujoco.mju_mat2Quat(result, np.asarray(rotation, float).ravel())
    return result


def rotation(quaternion: Iterable[float]) -> np.ndarray:
    """Rotation (3, 3) of a quaternion (w, x, y, z)."""
    result = np.zeros(9)
    mujoco.mju_quat2Mat(result, np.asarray(list(quaternion), float))
    return result.reshape(3, 3)


def lens(parent: Element, model: Any, name: str, topic: str, size: tuple[int, int], rate_hz: float) -> None:
    """Camera `name` of the model as a sensor of a link at the place that it is fixed to. `size`: width, height, px."""
    camera = model.camera(name)
    sensor = child(parent, "sensor", name=name, type="camera")
    pose(sensor, camera.pos, quaternion(rotation(camera.quat) @ CAMERA_TURN))
    child(sensor, "topic", f"{topic}/image")
    child(sensor, "update_rate", rate_hz)
    child(sensor, "always_on", True)
    optics = child(sensor, "camera")
    child(optics, "camera_info_topic", f"{topic}/camera_info")
    width, height = size
    wide = 2.0 * math.atan(math.tan(math.radians(float(camera.fovy[0])) / 2.0) * width / height)
    child(optics, "horizontal_fov", wide)
    image = child(optics, "image")
    for tag, value in (("width", str(width)), ("height", str(height)), ("format", "R8G8B8")):
        child(image, tag, value)
    noise = child(optics, "noise")
    for tag, value in (("type", "gaussian"), ("mean", "0"), ("stddev", numbers(NOISE))):
        child(noise, tag, value)
    clip = child(optics, "clip")
    child(clip, "near", 0.02)
    child(clip, "far", 20.0)


def link(
    parent: Element, model: Any, body: int, position: Sequence[float], turn: Sequence[float], frame: str
) -> Element:
    """Body `body` of the model as a link, with its inertia and all its shapes."""
    made = child(parent, "link", name=model.body(body).name)
    pose(made, position, turn, frame)
    massive = float(model.body_mass[body]) > 0.0
    inertial = child(made, "inertial")
    if massive:
        pose(inertial, model.body_ipos[body], model.body_iquat[body])
    child(inertial, "mass", model.body_mass[body] if massive else LIGHT_KG)
    inertia = child(inertial, "inertia")
    for axis, value in zip(("ixx", "iyy", "izz"), model.body_inertia[body] if massive else [LIGHT_KG_M2] * 3):
        child(inertia, axis, value)
    for index, geom in enumerate(np.flatnonzero(model.geom_bodyid == body)):
        shape(made, model, int(geom), index)
    return made


def shape(parent: Element, model: Any, geom: int, index: int) -> None:
    """One geom as a visual, and as a collision where it touches anything."""
    name = model.geom(geom).name or f"shape_{index}"
    seen = child(parent, "visual", name=f"{name}_seen")
    pose(seen, model.geom_pos[geom], model.geom_quat[geom])
    seen.append(geometry(model, geom))
    material = child(seen, "material")
    for tag in ("ambient", "diffuse"):
        child(material, tag, colour(model, geom))
    child(material, "specular", [0.05, 0.05, 0.05, 1.0])
    if not (model.geom_contype[geom] or model.geom_conaffinity[geom]):
        return
    for number, (solid, along) in enumerate(solids(model, geom)):
        touched = child(parent, "collision", name=f"{name}_{number}" if number else name)
        axis = rotation(model.geom_quat[geom])[:, 2]
        pose(touched, model.geom_pos[geom] + along * axis, model.geom_quat[geom])
        touched.append(solid)
        friction = child(child(child(touched, "surface"), "friction"), "ode")
        for tag in ("mu", "mu2"):
            child(friction, tag, model.geom_friction[geom, 0])


def colour(model: Any, geom: int) -> np.ndarray:
    """RGBA of a geom, (4,): of a texture its mean."""
    material = int(model.geom_matid[geom])
    if material < 0:
        return np.array(model.geom_rgba[geom], float)
    rgba = np.array(model.mat_rgba[material], float)
    texture = int(model.mat_texid[material].max())
    if texture >= 0:
        start = int(model.tex_adr[texture])
        pixels = model.tex_data[start : start + int(model.tex_height[texture] * model.tex_width[texture]) * 3]
        rgba[:3] *= pixels.reshape(-1, 3).mean(axis=0) / 255.0
    return rgba


def solids(model: Any, geom: int) -> list[tuple[Element, float]]:
    """What a geom touches with: forms, and how far along its z axis each lies, m.

    Gazebo makes meshes of capsules and ellipsoids, which cost it many contacts at every step: a capsule becomes a
    cylinder between two balls, which it is, and an ellipsoid a ball of its smallest radius, which it nearly is.
    """
    kinds, size = mujoco.mjtGeom, model.geom_size[geom]
    kind = int(model.geom_type[geom])
    if kind == kinds.mjGEOM_ELLIPSOID:
        return [(_round("sphere", float(min(size))), 0.0)]
    if kind == kinds.mjGEOM_CAPSULE:
        radius, half = float(size[0]), float(size[1])
        balls = [(_round("sphere", radius), end) for end in (-half, half)]
        return [(_round("cylinder", radius, 2.0 * half), 0.0), *balls]
    return [(geometry(model, geom), 0.0)]


def _round(form: str, radius: float, length: float = 0.0) -> Element:
    made = Element("geometry")
    inner = child(made, form)
    child(inner, "radius", radius)
    if length:
        child(inner, "length", length)
    return made


def geometry(model: Any, geom: int) -> Element:
    """The form of a geom. MuJoCo gives half sizes and radii."""
    kinds, size = mujoco.mjtGeom, np.array(model.geom_size[geom], float)
    made = Element("geometry")
    kind = int(model.geom_type[geom])
    if kind == kinds.mjGEOM_BOX:
        child(child(made, "box"), "size", 2.0 * size)
    elif kind == kinds.mjGEOM_SPHERE:
        child(child(made, "sphere"), "radius", size[0])
    elif kind == kinds.mjGEOM_ELLIPSOID:
        child(child(made, "ellipsoid"), "radii", size)
    elif kind == kinds.mjGEOM_PLANE:
        plane = child(made, "plane")
        child(plane, "normal", [0.0, 0.0, 1.0])
        child(plane, "size", 2.0 * size[:2])
    else:
        round_one = child(made, "capsule" if kind == kinds.mjGEOM_CAPSULE else "cylinder")
        child(round_one, "radius", size[0])
        child(round_one, "length", 2.0 * size[1])
    return made


def tree(parent: Element, model: Any, root: int, position: Sequence[float], turn: Sequence[float]) -> None:
    """Body `root` at a pose of the SDF model `parent`, and everything that hangs on it, with the joints between."""
    link(parent, model, root, position, turn, "")
    for body in range(root + 1, model.nbody):
        if int(model.body_rootid[body]) != int(model.body_rootid[root]):
            continue
        above = model.body(int(model.body_parentid[body])).name
        link(parent, model, body, model.body_pos[body], model.body_quat[body], above)
        _joint(parent, model, body, above)


def _joint(parent: Element, model: Any, body: int, above: str) -> None:
    count, first = int(model.body_jntnum[body]), int(model.body_jntadr[body])
    name = model.body(body).name
    if not count:
        made = child(parent, "joint", name=f"{name}_fixed", type="fixed")
        child(made, "parent", above)
        child(made, "child", name)
        return
    slides = model.jnt_type[first] == mujoco.mjtJoint.mjJNT_SLIDE
    limited = bool(model.jnt_limited[first])
    kind = (
        "prismatic" if slides else "revolute"
    )  # without limits it turns on; Fortress' engine fixes a "continuous" one
    made = child(parent, "joint", name=model.joint(first).name, type=kind)
    child(made, "parent", above)
    child(made, "child", name)
    axis = child(made, "axis")
    child(axis, "xyz", model.jnt_axis[first])
    limit = child(axis, "limit")
    if limited:
        for tag, value in zip(("lower", "upper"), model.jnt_range[first]):
            child(limit, tag, value)
    child(limit, "effort", effort(model, first))
    child(child(axis, "dynamics"), "damping", model.dof_damping[model.jnt_dofadr[first]])


def effort(model: Any, joint: int) -> float:
    """The most that an actuator of its own drives a joint with, N m or N."""
    own = (model.actuator_trntype == mujoco.mjtTrn.mjTRN_JOINT) & (model.actuator_trnid[:, 0] == joint)
    found = np.flatnonzero(own)
    return float(model.actuator_forcerange[found[0], 1]) if len(found) else MOST_EFFORT
