"""The Kinova Gen3 (7 joints) with parallel jaws of the 2F-85's stroke, from primitive shapes: no asset files.

Link offsets, masses, centres of mass, inertias and effort limits are the numbers of kortex_description (gen3, 7 dof,
BSD-3-Clause, Kinova inc.). Servo gains, damping and armature are plausible, not identified.
"""

from __future__ import annotations

import math
from typing import Any

import mujoco
import numpy as np

from ecovla_ros.control.kinematics import FLANGE_OFFSET, OFFSETS, POSITION_LIMIT, TOOL_LENGTH, TURNS
from ecovla_ros.types import JOINTS

JAW_STROKE = 0.0425
"""Travel of one jaw, m: open 0, closed `JAW_STROKE`."""

EFFORT_LIMIT = (39.0, 39.0, 39.0, 39.0, 9.0, 9.0, 9.0)
"""N m."""

_LINKS: tuple[tuple[str, float, tuple[float, ...], tuple[float, ...]], ...] = (
    ("shoulder_link", 1.3773, (-2.3e-5, -0.010364, -0.07336), (0.00488868, 0.00457, 0.00135132)),
    ("half_arm_1_link", 1.1636, (-4.4e-5, -0.09958, -0.013278), (0.0113017, 0.0010253, 0.011088)),
    ("half_arm_2_link", 1.1636, (-4.4e-5, -0.006641, -0.117892), (0.010932, 0.0111633, 0.00100671)),
    ("forearm_link", 0.9302, (-1.8e-5, -0.075478, -0.015006), (0.008147, 0.0005986, 0.008348)),
    ("spherical_wrist_1_link", 0.6781, (1e-6, -0.009432, -0.063883), (0.001596, 0.001659, 0.000347)),
    ("spherical_wrist_2_link", 0.6781, (1e-6, -0.045483, -0.00965), (0.001641, 0.00035, 0.0017)),
    ("bracelet_link", 0.5006, (0.000281, 0.011402, -0.029798), (0.000587, 0.000586, 0.000321)),
)
"""Name, mass in kg, centre of mass in m, principal inertia in kg m^2."""

_SHELLS: tuple[tuple[tuple[float, ...], float], ...] = (
    ((0.0, 0.0, 0.012, 0.0, 0.0, -0.128), 0.046),
    ((0.0, 0.0, -0.006, 0.0, -0.21, -0.006), 0.045),
    ((0.0, 0.0, 0.0, 0.0, 0.0, -0.21), 0.045),
    ((0.0, 0.0, -0.006, 0.0, -0.208, -0.006), 0.042),
    ((0.0, 0.0, 0.0, 0.0, 0.0, -0.106), 0.037),
    ((0.0, 0.0, 0.0, 0.0, -0.106, 0.0), 0.037),
    ((0.0, 0.0, 0.02, 0.0, 0.0, -0.058), 0.037),
)
"""Ends of the axis in the link frame and radius, m."""

_LIGHT, _PALE, _DARK, _JAW, _PAD = (
    [0.88, 0.88, 0.90, 1.0],
    [0.76, 0.77, 0.80, 1.0],
    [0.13, 0.13, 0.14, 1.0],
    [0.20, 0.20, 0.22, 1.0],
    [0.34, 0.34, 0.36, 1.0],
)
_ARM: dict[str, Any] = {"contype": 2, "conaffinity": 0, "mass": 0.0}
"""The arm touches objects, table and furniture, never itself; its mass is given per link."""

_BOX, _CYLINDER, _CAPSULE = mujoco.mjtGeom.mjGEOM_BOX, mujoco.mjtGeom.mjGEOM_CYLINDER, mujoco.mjtGeom.mjGEOM_CAPSULE


def turn_x(angle: float) -> list[float]:
    """Quaternion (w, x, y, z) of a rotation about x, rad."""
    return [math.cos(angle / 2), math.sin(angle / 2), 0.0, 0.0]


def add_arm(spec: Any) -> Any:
    """Add base and seven links to the world of `spec` (MjSpec); returns the flange body, z out of the tool."""
    body = spec.worldbody.add_body(name="base_link")
    body.add_geom(type=_CYLINDER, fromto=[0, 0, 0, 0, 0, 0.14], size=[0.048, 0, 0], rgba=_LIGHT, **_ARM)
    for i, (name, mass, centre, inertia) in enumerate(_LINKS):
        body = body.add_body(name=name, pos=OFFSETS[i], quat=turn_x(TURNS[i]), gravcomp=1.0)
        _inertial(body, mass, centre, inertia)
        _add_joint(spec, body, i)
        ends, radius = _SHELLS[i]
        shape = _CYLINDER if name == "bracelet_link" else _CAPSULE
        body.add_geom(type=shape, fromto=ends, size=[radius, 0, 0], rgba=_LIGHT if i % 2 else _PALE, **_ARM)
    flange = body.add_body(name="end_effector_link", pos=FLANGE_OFFSET, quat=turn_x(math.pi), gravcomp=1.0)
    flange.add_geom(type=_BOX, pos=[0, 0.048, -0.02], size=[0.042, 0.014, 0.022], rgba=_DARK, **_ARM)
    return flange


def _inertial(body: Any, mass: float, centre: tuple[float, ...], inertia: tuple[float, ...]) -> None:
    body.explicitinertial = True
    body.mass, body.ipos, body.inertia = mass, centre, inertia


def _add_joint(spec: Any, body: Any, i: int) -> None:
    """Hinge about z with a position servo, as the trajectory controller of the real arm commands positions."""
    large = i < 4
    joint = body.add_joint(
        name=JOINTS[i],
        type=mujoco.mjtJoint.mjJNT_HINGE,
        axis=[0, 0, 1],
        damping=0.5 if large else 0.2,
        armature=0.1 if large else 0.05,
    )
    if np.isfinite(POSITION_LIMIT[i]):
        joint.limited, joint.range = True, [-POSITION_LIMIT[i], POSITION_LIMIT[i]]
    stiffness = 2000.0 if large else 600.0
    damping = 2.0 * math.sqrt(stiffness * (1.2 if large else 0.06))
    servo = spec.add_actuator(name=JOINTS[i], target=JOINTS[i], trntype=mujoco.mjtTrn.mjTRN_JOINT)
    _position_servo(servo, stiffness, damping, EFFORT_LIMIT[i])


def _position_servo(servo: Any, stiffness: float, damping: float, force: float) -> None:
    servo.gaintype, servo.biastype = mujoco.mjtGain.mjGAIN_FIXED, mujoco.mjtBias.mjBIAS_AFFINE
    servo.gainprm[0], servo.biasprm[1], servo.biasprm[2] = stiffness, -stiffness, -damping
    servo.forcelimited, servo.forcerange = True, [-force, force]


def add_gripper(spec: Any, flange: Any) -> None:
    """Parallel jaws along the flange's x, one servo on both, and the site `tcp` between the pads."""
    palm = flange.add_body(name="gripper_base", gravcomp=1.0)
    _inertial(palm, 0.78, (0.0, 0.0, 0.055), (0.0012, 0.0012, 0.0007))
    palm.add_geom(type=_CYLINDER, fromto=[0, 0, 0, 0, 0, 0.075], size=[0.0375, 0, 0], rgba=_DARK, **_ARM)
    palm.add_geom(type=_BOX, pos=[0, 0, 0.082], size=[0.062, 0.016, 0.012], rgba=_DARK, **_ARM)
    for side, name in ((1.0, "left"), (-1.0, "right")):
        _add_finger(palm, name, side)
    tendon = spec.add_tendon(name="jaws")
    for name in ("left_finger_joint", "right_finger_joint"):
        tendon.wrap_joint(name, 0.5)
    servo = spec.add_actuator(name="gripper", target="jaws", trntype=mujoco.mjtTrn.mjTRN_TENDON)
    _position_servo(servo, 4000.0, 160.0, 60.0)
    servo.ctrllimited, servo.ctrlrange = True, [0.0, JAW_STROKE]
    tie = spec.add_equality(type=mujoco.mjtEq.mjEQ_JOINT, name1="left_finger_joint", name2="right_finger_joint")
    tie.data[1], tie.solref = 1.0, [0.004, 1.0]
    palm.add_site(name="tcp", pos=[0, 0, TOOL_LENGTH], size=[0.004, 0, 0], group=4)


def _add_finger(palm: Any, name: str, side: float) -> None:
    finger = palm.add_body(name=f"{name}_finger", gravcomp=1.0)
    _inertial(finger, 0.06, (side * 0.05, 0.0, 0.11), (4e-5, 4e-5, 1e-5))
    finger.add_joint(
        name=f"{name}_finger_joint",
        type=mujoco.mjtJoint.mjJNT_SLIDE,
        axis=[-side, 0, 0],
        limited=True,
        range=[0.0, JAW_STROKE],
        damping=8.0,
        armature=0.3,
    )
    finger.add_geom(type=_BOX, pos=[side * 0.0545, 0, 0.115], size=[0.006, 0.0105, 0.032], rgba=_JAW, **_ARM)
    finger.add_geom(
        name=f"{name}_pad",
        type=_BOX,
        pos=[side * 0.0455, 0, 0.131],
        size=[0.003, 0.011, 0.019],
        rgba=_PAD,
        friction=[1.2, 0.02, 0.0005],
        condim=4,
        priority=1,
        solref=[0.004, 1.0],
        solimp=[0.95, 0.99, 0.001, 0.5, 2.0],
        **_ARM,
    )
