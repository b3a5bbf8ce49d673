"""Policies that answer with small motions of the tool (OpenVLA, CogACT: 7-D) become joint targets here.

A row is a translation (m), a rotation vector (rad) and the gripper. Rows are integrated from the measured joints by
damped least squares; joints at a limit are locked, and near a singularity the tool is slowed, not turned aside. The
guard judges what comes out like any other chunk.
"""

from __future__ import annotations

import numpy as np

from ecovla_ros.config import ControlConfig
from ecovla_ros.control import kinematics
from ecovla_ros.errors import ControlError
from ecovla_ros.types import ActionChunk, Floats

STEPS = 5
"""Steps of integration a row: the error left grows with the square of a step."""
SINGULAR = (ControlConfig.singular_from, ControlConfig.singular_to)
"""Condition numbers of the Jacobian from which the tool is slowed, and at which it stands: the guard's defaults."""
FRAMES = ("base", "tool")
LOST_M = 0.01
"""A tool that is left so far behind its goal does not reach it, m."""
Pose = tuple[Floats, Floats]
"""Position (3,) and rotation (3, 3)."""


def chunk(stamp_ns: int, period_s: float, rows: Floats, joints: Floats, frame: str) -> ActionChunk:
    """Joint chunk of a delta-pose chunk `rows` (H, 7) observed at `joints` (7,), rad.

    `frame`: whether translations and rotations are given along the axes of the base or of the tool. The gripper is
    0 open .. 1 closed. Raises ControlError for another shape, frame, or values that are not finite.
    """
    rows, joints = np.asarray(rows, float), np.asarray(joints, float)
    if rows.ndim != 2 or rows.shape[1] != 7 or joints.shape != (7,):
        raise ControlError(f"delta rows {rows.shape} and joints {joints.shape}; valid: (H, 7) and (7,)")
    if not (np.isfinite(rows).all() and np.isfinite(joints).all()):
        raise ControlError("delta rows or joints hold NaN or infinity")
    if frame not in FRAMES:
        raise ControlError(f"frame '{frame}'; valid: {', '.join(FRAMES)}")
    targets, q = [], joints.copy()
    goal = kinematics.pose(q)
    for row in rows:
        q, goal = _moved(q, goal, row[:6], period_s, frame)
        targets.append(q)
    return ActionChunk(stamp_ns, period_s, np.array(targets), np.clip(rows[:, 6], 0.0, 1.0))


def _moved(q: Floats, goal: Pose, delta: Floats, period_s: float, frame: str) -> tuple[Floats, Pose]:
    """Joints (7,) after the tool's goal has made one motion `delta` (6,), and the goal.

    A goal that limits or a singularity keep the tool from is given up: the next motion starts where the tool is.
    """
    position, rotation = goal
    if frame == "tool":
        delta = np.concatenate((rotation @ delta[:3], rotation @ delta[3:]))
    step_s = period_s / STEPS
    for k in range(1, STEPS + 1):
        part = delta * (k / STEPS)
        at, turned, jacobian = kinematics.pose_jacobian(q)
        aim = position + part[:3], kinematics.rotation_of(part[3:]) @ rotation
        gap = np.concatenate((aim[0] - at, kinematics.rotation_vector(aim[1] @ turned.T)))
        q = q + step_s * kinematics.joint_velocity(q, _share(jacobian) * gap / step_s, jacobian=jacobian)
    here = kinematics.pose(q)
    lost = np.abs(aim[0] - here[0]).max() > LOST_M
    return q, here if lost else aim


def _share(jacobian: Floats) -> float:
    """Share of the speed that is left at this Jacobian, 1 .. 0."""
    values = np.linalg.svd(jacobian, compute_uv=False)
    near = (values[0] / max(values[-1], 1e-9) - SINGULAR[0]) / (SINGULAR[1] - SINGULAR[0])
    return 1.0 - min(max(float(near), 0.0), 1.0)
