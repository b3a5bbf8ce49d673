"""A scripted expert with privileged knowledge: one joint-space action a period, within the arm's "normal" profile.

It works on the commanded state, so that servo lag does not feed back, and looks at the true object pose. What it
would command over the next periods can be rolled out kinematically, without physics.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field

import numpy as np

from ecovla_ros.control.kinematics import POSITION_LIMIT, joint_velocity, pose_jacobian, rotation_vector
from ecovla_ros.sim.waypoints import (
    Pick,
    Waypoint,
    basket_waypoints,
    cabinet_waypoints,
    clear_waypoints,
    graspable,
    pick,
    pick_waypoints,
)
from ecovla_ros.sim.world import HOME, World

PERIOD_S = 0.1
JOINT_SPEED = np.full(7, 0.52)
"""Cruise limit, rad/s; the "normal" profile allows 0.6."""
JOINT_SPEED_CHANGE = 0.19
"""Largest change of a joint's velocity between two periods, rad/s."""
TOOL_SPEED, TOOL_BRAKING = 0.20, 0.30
"""m/s and m/s^2."""
TURN_SPEED, TURN_BRAKING = 0.9, 1.5
"""rad/s and rad/s^2."""
SETTLE_S = 0.22
"""Time constant of the last approach."""
POSTURE_GAIN = 0.6
"""Pull to the home posture in the null space, 1/s."""
MOVED, TURNED = 0.01, 0.15
"""Changes of an object's pose, m and rad, that call for a new plan."""
LOST = 0.06
"""An object farther than this from the tool point is not in the grasp, m."""
TRIES = 4
ASIDE = 0.010
"""Sideways error from which an advance along the tool slows down, m; at twice that it stops."""
FINE = 0.04
"""Distance below which noise on the commands spoils a grasp or a release, m."""


@dataclass
class Progress:
    """Where in the plan the expert is."""

    waypoint: int = 0
    waited: int = 0
    velocity: np.ndarray = field(default_factory=lambda: np.zeros(7))
    """Joint velocity of the last period, rad/s, (7,)."""


class Expert:
    """Plays one episode of the world's task. Make a new one after each reset."""

    _waypoints: list[Waypoint]
    _deliver: int
    """Index of the first waypoint with the object in the jaws."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._progress = Progress()
        self._tries = 0
        self._replan()

    @property
    def done(self) -> bool:
        """Whether the plan has ended; from then on the expert holds still."""
        return self._progress.waypoint >= len(self._waypoints)

    @property
    def fine(self) -> bool:
        """Whether it is at work where millimetres count: closer than `FINE` to a pose it has to come to rest at."""
        if self.done:
            return False
        waypoint = self._waypoints[self._progress.waypoint]
        tool = pose_jacobian(self._world.commanded())[0]
        return waypoint.through == 0.0 and bool(np.linalg.norm(waypoint.position - tool) < FINE)

    def act(self, noise: np.ndarray | None = None) -> tuple[np.ndarray, float]:
        """Joint targets (7,), rad, due in one period, and gripper target, 0 or 1; moves on in the plan.

        `noise` (7,), rad, is added to the targets: executed, it makes the next state a perturbed one.
        """
        self._look()
        joints, closed = self._next(self._world.commanded(), self._progress)
        if noise is not None:
            joints = np.clip(joints + noise, -POSITION_LIMIT, POSITION_LIMIT)
        return joints, closed

    def rollout(self, horizon: int = 16) -> tuple[np.ndarray, np.ndarray]:
        """What would be commanded over the next `horizon` periods if the object went as planned.

        Joint targets (horizon, 7), rad, and gripper targets (horizon,). Row 0 is what `act` gives.
        """
        self._look()
        progress = copy.copy(self._progress)
        joints, closed = np.empty((horizon, 7)), np.empty(horizon)
        at = self._world.commanded()
        for i in range(horizon):
            at, closed[i] = self._next(at, progress)
            joints[i] = at
        return joints, closed

    def _next(self, at: np.ndarray, progress: Progress) -> tuple[np.ndarray, float]:
        """One period from the commanded joints `at` (7,): new joints and gripper; `progress` is moved on."""
        tool, turned, slope = pose_jacobian(at)
        while True:
            waypoint = self._waypoints[min(progress.waypoint, len(self._waypoints) - 1)]
            gap, angle = _gap(waypoint, tool), rotation_vector(waypoint.rotation @ turned.T)
            distance, turn = float(np.linalg.norm(waypoint.position - tool)), float(np.linalg.norm(angle))
            if progress.waypoint >= len(self._waypoints):
                break
            reached = distance < waypoint.tolerance and turn < waypoint.turn
            if not waypoint.hold and not reached:
                break
            if waypoint.hold and progress.waited < waypoint.hold:
                progress.waited += int(reached)
                break
            progress.waypoint, progress.waited = progress.waypoint + 1, 0
        twist = np.concatenate((_linear(gap, waypoint.through), _angular(angle, turn)))
        posture = POSTURE_GAIN * (HOME - at) if distance > 0.01 else None
        wanted = joint_velocity(at, twist, posture, JOINT_SPEED, slope)
        change = wanted - progress.velocity
        excess = max(float(np.abs(change).max()) / JOINT_SPEED_CHANGE, 1.0)
        progress.velocity = progress.velocity + change / excess
        return np.clip(at + PERIOD_S * progress.velocity, -POSITION_LIMIT, POSITION_LIMIT), waypoint.closed

    def _look(self) -> None:
        """Compare the world with the plan: follow a moved object or goal, start over when the grasp is lost."""
        at, axes = self._world.pose(self._world.task.object)
        phase = "done" if self.done else self._waypoints[self._progress.waypoint].phase
        if phase == "reach":
            astray = self._has_moved(at, axes)
        else:
            gone = phase in ("carry", "done") and np.linalg.norm(at - self._world.tcp()[0]) > LOST
            astray = bool(gone) and not self._world.inside() and self._tries < TRIES
        if astray and graspable(self._world.task.object, at, axes):
            self._tries += int(phase != "reach")
            self._replan()
        elif astray and phase != "done":
            self._give_up()
        if self._goal_has_moved() and self._deliver < len(self._waypoints):
            self._goal = self._world.pose(self._world.task.goal)
            self._waypoints[self._deliver :] = self._deliver_waypoints()

    def _has_moved(self, at: np.ndarray, axes: np.ndarray) -> bool:
        turned = np.linalg.norm(rotation_vector(axes @ self._object[1].T))
        shifted = np.linalg.norm(at - self._object[0]) > MOVED
        return bool(shifted or (turned > TURNED and self._world.task.object == "banana"))

    def _goal_has_moved(self) -> bool:
        at, axes = self._world.pose(self._world.task.goal)
        return bool(np.linalg.norm(at - self._goal[0]) > MOVED or np.abs(axes - self._goal[1]).max() > TURNED)

    def _replan(self) -> None:
        """New plan from the world as it is, from its first waypoint; the commanded velocity carries on."""
        task = self._world.task
        self._object, self._goal = self._world.pose(task.object), self._world.pose(task.goal)
        self._grasp: Pick = pick(task.object, *self._object)
        tool = pose_jacobian(self._world.commanded())[:2]
        waypoints = clear_waypoints(*tool, self._grasp.point) if self._tries else []
        waypoints += pick_waypoints(task.object, self._grasp)
        self._deliver = len(waypoints)
        self._waypoints = waypoints + self._deliver_waypoints()
        self._progress.waypoint = self._progress.waited = 0

    def _give_up(self) -> None:
        """The object cannot be grasped where it is: let go and stay here."""
        position, rotation = pose_jacobian(self._world.commanded())[:2]
        self._object = self._world.pose(self._world.task.object)
        self._waypoints = [Waypoint(position, rotation, "leave", 0.03, 0.3)]
        self._deliver = self._progress.waypoint = len(self._waypoints)

    def _deliver_waypoints(self) -> list[Waypoint]:
        if self._world.task.goal == "basket":
            return basket_waypoints(self._grasp, self._goal[0])
        heading = self._goal[1][:, 0]
        return cabinet_waypoints(self._goal[0], math.atan2(heading[1], heading[0]))


def _speed(distance: float, cruise: float, braking: float, through: float = 0.0) -> float:
    """Speed towards a goal `distance` away: cruise, brake, then settle exponentially (or pass with `through`)."""
    brake = math.sqrt(through * through + 2.0 * braking * distance)
    return min(cruise, brake, max(distance / SETTLE_S, through))


def _gap(waypoint: Waypoint, tool: np.ndarray) -> np.ndarray:
    """Way still to go (3,), m; of one reached along the tool, less of the advance the farther beside it."""
    gap = waypoint.position - tool
    if not waypoint.along:
        return gap
    axis = waypoint.rotation[:, 2]
    ahead = gap.dot(axis) * axis
    aside = gap - ahead
    return aside + ahead * min(max(2.0 - float(np.linalg.norm(aside)) / ASIDE, 0.0), 1.0)


def _linear(gap: np.ndarray, through: float) -> np.ndarray:
    distance = float(np.linalg.norm(gap))
    if distance < 1e-9:
        return np.zeros(3)
    return gap / distance * _speed(distance, TOOL_SPEED, TOOL_BRAKING, through)


def _angular(angle: np.ndarray, turn: float) -> np.ndarray:
    if turn < 1e-9:
        return np.zeros(3)
    return angle / turn * _speed(turn, TURN_SPEED, TURN_BRAKING)
