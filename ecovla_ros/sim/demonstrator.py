"""The expert where another simulator moves everything: by what that one tells, it says what it would do from there.

It is the teacher of the corrections (`sim.teacher`), with a mirror of the other simulator for a world. So the way that
a policy's chunks go, over topics and through the guard, can be gone by demonstrations, to be recorded as those of a
person would be.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ecovla_ros.sim import tasks
from ecovla_ros.sim.expert import PERIOD_S
from ecovla_ros.sim.mirror import Mirror
from ecovla_ros.sim.teacher import Teacher
from ecovla_ros.sim.world import GRIPPER_RATE, HOME
from ecovla_ros.types import CONTINUOUS, ActionChunk, ArmState

HORIZON = 16
"""Actions of a chunk."""
SLACK_S = 0.005
"""Joint states come at 100 Hz: one this much before the end of a period is at its end."""
LONGEST_S = 3 * PERIOD_S
"""An arm that was not heard of for longer may have been moved: the expert begins anew, from where it is."""


class Demonstrator:
    """One chunk a period, from what it was told. Not thread-safe: one owner calls it."""

    def __init__(self) -> None:
        """Nothing is done before a task was begun and every thing's pose was told."""
        self._mirror = Mirror()
        self._teacher: Teacher | None = None
        self._begun = False
        self._closed = self._target = 0.0
        self._joints, self._stamp_ns = HOME.copy(), 0

    def begin(self, task: str) -> None:
        """A scene was laid for this task: what was told before is of another one. Raises SimulationError."""
        self._mirror.task = tasks.find(task)
        self._mirror.forget()
        self._teacher, self._begun = None, True

    def put(self, name: str, position: Sequence[float], quaternion: Sequence[float]) -> None:
        """A thing stands there, as `Mirror.put`. Raises SimulationError."""
        self._mirror.put(name, position, quaternion)

    @property
    def lost(self) -> bool:
        """Whether it has given up: the object lies where it cannot be grasped."""
        return self._teacher is not None and self._teacher.lost

    def answer(self, state: ArmState, still: bool = False) -> ActionChunk | None:
        """What it would do from `state` on; None before a period has passed, or while a thing's pose is not known.

        `still`: it does nothing, and begins to when it is no longer asked to.
        """
        passed_s = (state.stamp_ns - self._stamp_ns) * 1e-9
        if not self._begun or 0.0 <= passed_s < PERIOD_S - SLACK_S:
            return None
        if not 0.0 <= passed_s <= LONGEST_S:
            self._teacher = None
        self._stamp_ns = state.stamp_ns
        turned = (state.joints - self._joints + np.pi) % (2.0 * np.pi) - np.pi
        self._joints = np.where(CONTINUOUS, self._joints + turned, state.joints)
        self._follow_gripper(state.gripper, passed_s)
        self._mirror.follow_arm(self._joints, self._closed, state.gripper)
        if not self._mirror.whole:
            return None
        if still:
            self._teacher = None
            return ActionChunk(
                state.stamp_ns, PERIOD_S, np.tile(self._joints, (HORIZON, 1)), np.full(HORIZON, self._target)
            )
        self._mirror.place_all()
        if self._teacher is None:
            self._teacher = Teacher(self._mirror)
        else:
            self._teacher.follow(passed_s)
        joints, gripper = self._teacher.rollout(HORIZON)
        self._target = float(gripper[0])
        self._mirror.gripper(self._target)
        return ActionChunk(state.stamp_ns, PERIOD_S, joints, gripper)

    def _follow_gripper(self, measured: float, passed_s: float) -> None:
        """The jaws as they are commanded by now. One that stands open after a long silence was opened by others."""
        if self._teacher is None:
            self._closed = self._target = float(measured)
        reach = GRIPPER_RATE * passed_s
        self._closed += min(max(self._target - self._closed, -reach), reach)
