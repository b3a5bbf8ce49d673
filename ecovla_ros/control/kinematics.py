"""Forward and differential kinematics of the Kinova Gen3 (7 joints), from its link offsets. Base frame, SI, radians.

The offsets and limits are the numbers of kortex_description (gen3, 7 dof, BSD-3-Clause, Kinova inc.). Every function
is pure; `test_control_kinematics` compares them with MuJoCo's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ecovla_ros.types import Floats

OFFSETS: tuple[tuple[float, float, float], ...] = (
    (0.0, 0.0, 0.15643),
    (0.0, 0.005375, -0.12838),
    (0.0, -0.21038, -0.006375),
    (0.0, 0.006375, -0.21038),
    (0.0, -0.20843, -0.006375),
    (0.0, 0.00017505, -0.10593),
    (0.0, -0.10593, -0.00017505),
)
"""Origin of each joint in the link before it, m."""

TURNS: tuple[float, ...] = (math.pi, math.pi / 2, -math.pi / 2, math.pi / 2, -math.pi / 2, math.pi / 2, -math.pi / 2)
"""Fixed rotation about x of each joint frame in the link before it, rad. Every joint turns about its own z."""

FLANGE_OFFSET = (0.0, 0.0, -0.061525)
"""Flange in the last link, m; its frame is turned by pi about x, so that z points out of the tool."""

TOOL_LENGTH = 0.135
"""Flange to tool point (tcp), m: between the pads of a 2F-85."""

POSITION_LIMIT = np.array([np.inf, 2.24, np.inf, 2.57, np.inf, 2.09, np.inf])
"""Symmetric position limits, rad, (7,); infinite for the continuous joints."""

VELOCITY_LIMIT = np.full(7, 0.8727)
"""Command velocity limits of kortex' joint_limits.yaml (50 deg/s), rad/s, (7,)."""

DAMPING = 0.03
LIMIT_MARGIN = 0.03
"""Distance from a position limit at which a joint is locked, rad."""

TOOL_DOWN = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])
"""Rotation of a tool that points straight down: columns are the jaw axis x, the camera side y, the approach z."""


def _rotation_x(angle: float) -> Floats:
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[1.0, 0.0, 0.0], [0.0, c, -s], [0.0, s, c]])


def _joint_terms() -> tuple[Floats, Floats, Floats]:
    """Each joint transform is fixed @ Rz(q) = A + cos(q) B + sin(q) C; returns A, B, C, each (7, 4, 4)."""
    fixed = np.tile(np.eye(4), (7, 1, 1))
    for i, (offset, turn) in enumerate(zip(OFFSETS, TURNS)):
        fixed[i, :3, :3], fixed[i, :3, 3] = _rotation_x(turn), offset
    constant, cosine, sine = (np.zeros((4, 4)) for _ in range(3))
    constant[2, 2] = constant[3, 3] = cosine[0, 0] = cosine[1, 1] = sine[1, 0] = 1.0
    sine[0, 1] = -1.0
    return fixed @ constant, fixed @ cosine, fixed @ sine


def _tool_transform() -> Floats:
    transform = np.eye(4)
    transform[:3, :3] = _rotation_x(math.pi)
    transform[:3, 3] = np.array(FLANGE_OFFSET) + transform[:3, :3] @ np.array([0.0, 0.0, TOOL_LENGTH])
    return transform


_CONSTANT, _COSINE, _SINE = _joint_terms()
_TOOL = _tool_transform()
_DAMPED = DAMPING**2 * np.eye(6)


def _frames(q: Floats) -> list[NDArray[np.float64]]:
    """Transforms of the seven joint frames and the tool point in the base frame, eight of (..., 4, 4), q (..., 7)."""
    q = np.asarray(q, float)
    local = _CONSTANT + np.cos(q)[..., None, None] * _COSINE + np.sin(q)[..., None, None] * _SINE
    frames = [local[..., 0, :, :]]
    for i in range(1, 7):
        frames.append(frames[-1] @ local[..., i, :, :])
    frames.append(frames[-1] @ _TOOL)
    return frames


def _geometric(frames: Sequence[Floats]) -> Floats:
    """Column i is (z_i x (tcp - o_i), z_i), z_i and o_i being axis and origin of joint i; (..., 6, 7)."""
    chain = np.stack(frames, axis=-3)
    axis, arm = chain[..., :7, :3, 2], chain[..., 7:, :3, 3] - chain[..., :7, :3, 3]
    jacobian = np.empty((*axis.shape[:-2], 6, 7))
    jacobian[..., 0, :] = axis[..., 1] * arm[..., 2] - axis[..., 2] * arm[..., 1]
    jacobian[..., 1, :] = axis[..., 2] * arm[..., 0] - axis[..., 0] * arm[..., 2]
    jacobian[..., 2, :] = axis[..., 0] * arm[..., 1] - axis[..., 1] * arm[..., 0]
    jacobian[..., 3:, :] = np.swapaxes(axis, -1, -2)
    return jacobian


def tool_motion(q: Floats, velocity: Floats) -> tuple[Floats, Floats]:
    """Tool point (N, 3), m, and its speed (N,), m/s, at joint positions `q` (N, 7) with `velocity` (N, 7), rad/s."""
    frames = _frames(q)
    linear = _geometric(frames)[:, :3]
    return frames[7][:, :3, 3], np.linalg.norm((linear @ velocity[:, :, None])[:, :, 0], axis=1)


def condition(q: Floats) -> Floats:
    """Condition number (N,) of the Jacobian (rows in m/rad and rad/rad) at `q` (N, 7): large near a singularity."""
    squared = np.linalg.eigvalsh((slope := _geometric(_frames(q))) @ np.swapaxes(slope, -1, -2))
    number: Floats = np.sqrt(squared[:, -1] / np.maximum(squared[:, 0], 1e-12))
    return number


def pose(q: Floats) -> tuple[Floats, Floats]:
    """Tool point at joint positions `q` (7,): position (3,) in m and rotation (3, 3), in the base frame."""
    tool = _frames(q)[7]
    return tool[:3, 3].copy(), tool[:3, :3].copy()


def jacobian(q: Floats) -> Floats:
    """Geometric Jacobian (6, 7) of the tool point at `q` (7,): rows are linear (m/rad), then angular (rad/rad)."""
    return _geometric(_frames(q))


def pose_jacobian(q: Floats) -> tuple[Floats, Floats, Floats]:
    """`pose` and `jacobian` for the price of one chain: position (3,), rotation (3, 3), Jacobian (6, 7)."""
    frames = _frames(q)
    return frames[7][:3, 3].copy(), frames[7][:3, :3].copy(), _geometric(frames)


def rotation_vector(rotation: Floats) -> Floats:
    """Axis times angle (3,), rad, of a rotation matrix (3, 3); the angle is in [0, pi]."""
    r = rotation.tolist() if isinstance(rotation, np.ndarray) else rotation
    x, y, z = r[2][1] - r[1][2], r[0][2] - r[2][0], r[1][0] - r[0][1]
    twice_sine = math.sqrt(x * x + y * y + z * z)
    angle = math.atan2(twice_sine, r[0][0] + r[1][1] + r[2][2] - 1.0)
    if twice_sine > 1e-6:
        return np.array([x, y, z]) * (angle / twice_sine)
    if angle < 1.0:
        return np.array([x, y, z]) * 0.5
    symmetric = (np.asarray(rotation) + np.eye(3)) / 2.0  # half a turn: R + I = 2 a a^T
    column = symmetric[:, int(np.argmax(np.diag(symmetric)))]
    return angle * column / np.linalg.norm(column)


def rotation_of(vector: Floats) -> Floats:
    """Rotation matrix (3, 3) of an axis times angle (3,), rad: Rodrigues' formula, the inverse of `rotation_vector`."""
    x, y, z = vector
    angle = math.sqrt(x * x + y * y + z * z)
    skew = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    turned: Floats = np.eye(3) + skew
    if angle >= 1e-9:
        turned = np.eye(3) + math.sin(angle) / angle * skew + (1.0 - math.cos(angle)) / angle**2 * (skew @ skew)
    return turned


def joint_velocity(
    q: Floats,
    twist: Floats,
    posture: Floats | None = None,
    limit: Floats = VELOCITY_LIMIT,
    jacobian: Floats | None = None,
) -> Floats:
    """Joint velocity (7,), rad/s, that moves the tool point with `twist` (6,) (m/s, rad/s), by damped least squares.

    `posture` (7,) is a joint velocity wished for in the null space. A joint about to pass its position limit is
    locked and the rest solved again. The result is scaled as a whole to stay within `limit` (7,). `jacobian` (6, 7)
    at `q` spares computing it. Damping: Wampler, IEEE Trans. SMC 16(1), 1986.
    """
    full = _geometric(_frames(q)) if jacobian is None else jacobian
    wished = np.zeros(7) if posture is None else np.asarray(posture, float)
    free = np.ones(7)
    velocity = np.zeros(7)
    for _ in range(3):
        part, wish = full * free, wished * free
        velocity = wish + part.T.dot(np.linalg.solve(part.dot(part.T) + _DAMPED, twist - part.dot(wish)))
        near = np.abs(q + 0.05 * velocity) > POSITION_LIMIT - LIMIT_MARGIN
        stuck = near & (velocity * q > 0.0) & (free > 0.0)
        if not stuck.any():
            break
        free = free * ~stuck
        velocity = velocity * free
    excess = float(np.max(np.abs(velocity) / limit))
    return velocity / excess if excess > 1.0 else velocity


def inverse(
    start: Floats, position: Floats, rotation: Floats, iterations: int = 200, tolerance: float = 1e-6
) -> tuple[Floats, float]:
    """Joint positions (7,) near `start` (7,) that put the tool point at `position` (3,) and `rotation` (3, 3).

    Returns them with the norm of the error left (m and rad together); position limits are kept.
    """
    q, error = np.array(start, float), np.inf
    for _ in range(iterations):
        at, turned, slope = pose_jacobian(q)
        gap = np.concatenate((position - at, rotation_vector(rotation @ turned.T)))
        error = float(np.linalg.norm(gap))
        if error < tolerance:
            break
        step = slope.T @ np.linalg.solve(slope @ slope.T + 1e-4 * np.eye(6), gap)
        q = np.clip(q + step, -POSITION_LIMIT, POSITION_LIMIT)
    return q, error
