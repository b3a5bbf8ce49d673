"""The expert's way: tool poses, one after the other, that pick an object and deliver it. Pure geometry."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ecovla_ros.control.kinematics import TOOL_DOWN

TILT = math.radians(35.0)
"""Tool tilt from straight down towards forward for the cabinet: straight down would hit its top."""
CARRY_HEIGHT = 0.22
GRASP_HEIGHT = {"apple": 0.034, "banana": 0.026, "bottle": 0.050}
"""Height of the tool point at the grasp, m."""
CLOSE_PERIODS, OPEN_PERIODS = 6, 4


@dataclass(frozen=True)
class Waypoint:
    """One tool pose to reach with the gripper in one state, then hold for some periods."""

    position: np.ndarray
    """m, (3,)."""
    rotation: np.ndarray
    """(3, 3)."""
    phase: str
    """reach (gripper empty), close, carry, release or leave."""
    tolerance: float
    """Distance at which it counts as reached, m."""
    turn: float
    """Angle at which it counts as reached, rad."""
    hold: int = 0
    """Periods to stay there."""
    through: float = 0.0
    """Speed with which to pass, m/s; 0: come to rest."""
    along: bool = False
    """Whether to get there along the tool's axis: sideways errors are mended before advancing."""

    @property
    def closed(self) -> float:
        """Gripper target: 0 open, 1 closed."""
        return 1.0 if self.phase in ("close", "carry") else 0.0


@dataclass(frozen=True)
class Pick:
    """A grasp: yaw of the jaws, rad, and tool point, m, (3,)."""

    yaw: float
    point: np.ndarray


def turn_z(angle: float) -> np.ndarray:
    """Rotation (3, 3) about z."""
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def _tilted(yaw: float) -> np.ndarray:
    """Tool rotation (3, 3) leaning forward by `TILT` along the heading `yaw`."""
    c, s = math.cos(-TILT), math.sin(-TILT)
    return turn_z(yaw) @ np.array([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]]) @ TOOL_DOWN


def graspable(name: str, position: np.ndarray, rotation: np.ndarray) -> bool:
    """Whether an object lies within reach on the table, and the bottle stands."""
    x, y, z = position
    upright = name != "bottle" or bool(rotation[2, 2] > 0.8)
    return upright and 0.30 < x < 0.75 and abs(y) < 0.45 and z > 0.0


def pick(name: str, position: np.ndarray, rotation: np.ndarray) -> Pick:
    """Grasp for an object of that name at `position` (3,) with `rotation` (3, 3)."""
    point = np.array([position[0], position[1], GRASP_HEIGHT[name]])
    if name == "banana":
        point[:2] += (rotation @ np.array([0.0, -0.016, 0.0]))[:2]  # the flesh lies beside the body's origin
        along = rotation[:, 0]
        yaw = math.atan2(along[1], along[0])
        return Pick((yaw + math.pi / 2) % math.pi - math.pi / 2, point)
    heading = math.atan2(position[1], position[0])
    return Pick(0.9 * heading if name == "bottle" else min(max(heading, -0.5), 0.5), point)


def pick_waypoints(name: str, grasp: Pick) -> list[Waypoint]:
    """Approach, descend, close and lift."""
    tool = _tilted(grasp.yaw) if name == "bottle" else turn_z(grasp.yaw) @ TOOL_DOWN
    lifted = grasp.point + np.array([0.0, 0.0, 0.10])
    if name != "bottle":
        lifted[2] = CARRY_HEIGHT
    return [
        Waypoint(grasp.point - 0.11 * tool[:, 2], tool, "reach", 0.02, 0.10, through=0.08),
        Waypoint(grasp.point, tool, "reach", 0.005, 0.06, along=True),
        Waypoint(grasp.point, tool, "close", 0.02, 0.20, hold=CLOSE_PERIODS),
        Waypoint(lifted, tool, "carry", 0.03, 0.30, through=0.10),
    ]


def clear_waypoints(position: np.ndarray, rotation: np.ndarray, target: np.ndarray) -> list[Waypoint]:
    """Ways out before a new approach to `target` (3,): back along the tool when tilted, then up when low and far."""
    far = math.hypot(*(target - position)[:2]) > 0.06
    waypoints = []
    if far and rotation[2, 2] > -0.95:
        heading = rotation[:2, 2] / math.hypot(*rotation[:2, 2])
        position = position + np.array([-0.20 * heading[0], -0.20 * heading[1], 0.02])
        waypoints.append(Waypoint(position, rotation, "reach", 0.04, 0.2))
    if far and position[2] < CARRY_HEIGHT - 0.04:
        up = np.array([position[0], position[1], CARRY_HEIGHT])
        waypoints.append(Waypoint(up, rotation, "reach", 0.03, 0.3))
    return waypoints


def basket_waypoints(grasp: Pick, centre: np.ndarray) -> list[Waypoint]:
    """Carry over the basket at `centre` (3,), lower, open, retreat upwards."""
    tool = turn_z(min(max(grasp.yaw, -0.6), 0.6)) @ TOOL_DOWN
    above, low, away = (np.array([centre[0], centre[1], z]) for z in (CARRY_HEIGHT, 0.125, 0.24))
    return [
        Waypoint(above, tool, "carry", 0.025, 0.5, through=0.06),
        Waypoint(low, tool, "carry", 0.012, 0.5),
        Waypoint(low, tool, "release", 0.03, 0.5, hold=OPEN_PERIODS),
        Waypoint(away, tool, "leave", 0.03, 0.5),
    ]


def cabinet_waypoints(centre: np.ndarray, yaw: float) -> list[Waypoint]:
    """Enter the cabinet at `centre` (3,), heading `yaw`, set down, open, retreat the way it came."""
    tool = _tilted(yaw)
    inward = np.array([math.cos(yaw), math.sin(yaw), 0.0])
    inside = np.array([centre[0], centre[1], 0.006 + GRASP_HEIGHT["bottle"] + 0.012])
    up, deep = np.array([0.0, 0.0, 0.05]), inside - 0.01 * inward
    down = deep - np.array([0.0, 0.0, 0.010])
    return [
        Waypoint(inside - 0.26 * inward + up, tool, "carry", 0.03, 0.15, through=0.08),
        Waypoint(inside - 0.20 * inward, tool, "carry", 0.015, 0.08, through=0.05),
        Waypoint(deep, tool, "carry", 0.015, 0.08, through=0.04),
        Waypoint(down, tool, "carry", 0.008, 0.1),
        Waypoint(down, tool, "release", 0.02, 0.2, hold=OPEN_PERIODS),
        Waypoint(deep - 0.23 * inward, tool, "leave", 0.03, 0.3),
    ]
