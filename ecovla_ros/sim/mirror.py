"""A MuJoCo world put where another simulator says that everything is: judges tasks there, and knows the arm's weight.

Nothing moves in it by itself: no physics step is made.
"""

from __future__ import annotations

from collections.abc import Sequence

import mujoco
import numpy as np

from ecovla_ros.errors import SimulationError, unknown
from ecovla_ros.sim import tasks
from ecovla_ros.sim.gen3 import JAW_STROKE
from ecovla_ros.sim.props import GOALS, OBJECTS
from ecovla_ros.sim.world import World

THINGS = (*OBJECTS, *GOALS)
"""What the other simulator tells the poses of."""


class Mirror(World):
    """`World` by poses from outside. Not thread-safe: one owner calls it."""

    def __init__(self) -> None:
        """Compile the scene; nothing of it is believed before it was told."""
        super().__init__()
        self._told: set[str] = set()
        self._weight = mujoco.MjData(self.model)
        self._torques = np.zeros(self.model.nv)

    def forget(self) -> None:
        """What was told is of a scene that is no more."""
        self._told.clear()

    def follow_arm(self, joints: np.ndarray, closed: float, jaws: float | None = None) -> None:
        """Arm joints (7,), rad; the gripper as it is commanded, 0 open .. 1 closed, and as it is, if that is known."""
        self.data.qpos[self._q] = joints
        self._closed = closed
        self.data.qpos[self._finger] = (closed if jaws is None else jaws) * JAW_STROKE

    def put(self, name: str, position: Sequence[float], quaternion: Sequence[float]) -> None:
        """An object or goal stands at (3,), m, turned by (w, x, y, z). Raises SimulationError for what is no pose."""
        if name not in THINGS:
            raise SimulationError(unknown("thing", name, THINGS))
        pose = np.array([*position, *quaternion], float)
        length = float(np.linalg.norm(pose[3:]))
        if pose.shape != (7,) or not np.isfinite(pose).all() or not length:
            raise SimulationError(f"{name}: valid: a finite position and a turn; told: {pose.round(3).tolist()}")
        pose[3:] /= length
        if name in GOALS:
            index = self.model.body_mocapid[self.body(name)]
            self.data.mocap_pos[index], self.data.mocap_quat[index] = pose[:3], pose[3:]
        else:
            start = self.model.joint(f"{name}_free").qposadr[0]
            self.data.qpos[start : start + 7] = pose
        self._told.add(name)

    @property
    def whole(self) -> bool:
        """Whether the pose of every thing was told."""
        return self._told == set(THINGS)

    def commanded(self) -> np.ndarray:
        """Joint positions (7,), rad, as they were told: what is commanded over there is not known here."""
        return np.array(self.data.qpos[self._q])

    def place_all(self) -> None:
        """Everything stands where it was told to be."""
        mujoco.mj_kinematics(self.model, self.data)

    def solved(self, task: str) -> bool:
        """Whether the task is solved as things stand; False while a thing's pose was never told."""
        self.task = tasks.find(task)
        if not self.whole:
            return False
        self.place_all()
        return self.success()

    def weight(self, joints: np.ndarray) -> np.ndarray:
        """Torques (7,), N m, that hold the arm, with its gripper and nothing in it, at rest at `joints` (7,), rad.

        The Gen3 compensates its weight itself, and so does the built-in simulator (`gravcomp`).
        """
        self._weight.qpos[self._q] = joints
        mujoco.mj_kinematics(self.model, self._weight)
        mujoco.mj_comPos(self.model, self._weight)
        mujoco.mj_rne(self.model, self._weight, 0, self._torques)
        return self._torques[self._v]
