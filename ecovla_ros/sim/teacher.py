"""The expert as a teacher: another policy drives, and the expert says at every moment what it would do from there.

This is what data-set aggregation needs (S. Ross, G. Gordon, D. Bagnell, AISTATS 2011, DAgger): the states are those
the policy gets into, the labels are the expert's. A policy gets into states the expert's own episodes never show:
jaws that close beside the object, an arm that hovers over it, an object that was pushed.
"""

from __future__ import annotations

import copy

import numpy as np

from ecovla_ros.control.kinematics import pose_jacobian, rotation_vector
from ecovla_ros.sim.expert import PERIOD_S, Expert
from ecovla_ros.sim.world import World

IN_LINE, OUT_OF_LINE = 0.012, 0.020
"""Sideways errors, m: below the first the tool may advance to the grasp, above the second it has to rise first."""
LOW = 0.05
"""Way left along the tool, m, below which the jaws are beside the object."""
GOOD_GRASP = 0.012
"""Jaws that close nearer than this to the planned grasp, m, are right to do so."""
LEFT_GRASP = 0.025
"""Jaws that close farther away than this, m, close on nothing."""
EMPTY = 0.85
"""Jaws that come to rest beyond this share of their stroke hold nothing; the banana stops them at 0.6."""


class Teacher(Expert):
    """An expert whose place in the plan is found from the world once a period. Make a new one after each reset."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._before = world.commanded()

    def follow(self, passed_s: float = PERIOD_S) -> None:
        """A period has passed, whoever drove: find the place in the plan. `rollout` then gives the way on from here.

        `passed_s`: how long the arm took from where it was at the last call, s.
        """
        at = self._world.commanded()
        self._look()
        self._tries = min(self._tries, 1)
        if not self.done:
            self._relocate(at)
            self._next(at, self._progress)  # what is reached is left behind
        self._progress.velocity = (at - self._before) / passed_s
        self._before = at

    @property
    def lost(self) -> bool:
        """Whether it has given up: the object lies where it cannot be grasped."""
        return self.done and not self._world.inside()

    def held(self) -> bool:
        """Whether the jaws have closed on something near the tool point."""
        closed, target = self._world.jaws
        near = np.linalg.norm(self._world.pose(self._world.task.object)[0] - self._world.tcp()[0]) < 0.045
        return bool(near) and target > 0.5 and closed > 0.95 and self._world.arm_state().gripper < EMPTY

    def _relocate(self, at: np.ndarray) -> None:
        progress, waypoint = self._progress, self._waypoints[self._progress.waypoint]
        closed, target = self._world.jaws
        tool, turned, _ = pose_jacobian(at)
        gap = waypoint.position - tool
        close = next((i for i, s in enumerate(self._waypoints) if s.phase == "close"), None)
        if close is None:
            return
        if waypoint.phase == "reach" and self.held():
            self._go(close + 1)
        elif waypoint.phase == "reach" and progress.waypoint == close - 1:
            aside, ahead = _parts(gap, waypoint.rotation[:, 2])
            if target > 0.5 and np.linalg.norm(gap) < GOOD_GRASP:
                self._go(close)
            elif aside > OUT_OF_LINE and ahead < LOW:
                self._go(close - 2)
        elif waypoint.phase == "reach" and progress.waypoint == close - 2:
            goal = self._waypoints[close - 1]
            aside, ahead = _parts(goal.position - tool, goal.rotation[:, 2])
            turn = np.linalg.norm(rotation_vector(goal.rotation @ turned.T))
            if aside < IN_LINE and turn < 0.15 and ahead < 0.115:
                self._go(close - 1)
        elif waypoint.phase == "close" and not self.held() and np.linalg.norm(gap) > LEFT_GRASP:
            self._go(close - 1)
        elif waypoint.phase == "carry" and closed > 0.99 and not self.held() and not self._world.inside():
            self._tries = 1
            self._replan()

    def _go(self, waypoint: int) -> None:
        self._progress = copy.copy(self._progress)
        self._progress.waypoint, self._progress.waited = waypoint, 0


def _parts(gap: np.ndarray, axis: np.ndarray) -> tuple[float, float]:
    """Length of a way (3,) across a unit axis (3,), and along it, m."""
    ahead = float(gap @ axis)
    return float(np.linalg.norm(gap - ahead * axis)), ahead
