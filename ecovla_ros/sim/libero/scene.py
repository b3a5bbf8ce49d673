"""One LIBERO task, stepped as the benchmark steps it. Cameras are off; a picture is drawn when somebody looks.

Making a scene takes seconds, an episode's start milliseconds: the model is loaded once, and robosuite's soft reset puts
robot, controller and objects back. It leaves two things as they were, which are put back here. A gripper goes on from
how far it was closed when the last episode ended. And fixtures stay: where a thing stands on one, LIBERO adds the place
of the fixture's region in the model to the place that it drew for the fixture, which is right in a model as it was
loaded. What is drawn and what is stepped is the benchmark's own.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecovla_ros.sim.libero import suites
from ecovla_ros.sim.libero.suites import LiberoTask
from ecovla_ros.types import Observation

PERIOD_S = 0.05
"""LIBERO controls at 20 Hz."""
IMAGE_SIZE = 256
"""Side of a picture, px: what vla-eval sends."""
SETTLE_STEPS = 10
"""Steps with an open gripper before an episode begins, while objects settle: as openpi and vla-eval do."""
STAY = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0)
CAMERAS = {"third_person": "agentview", "wrist": "robot0_eye_in_hand"}
"""This package's names of the cameras -> LIBERO's."""
ACTION_WIDTH, STATE_WIDTH = 7, 8

Array = NDArray[np.float64]


class LiberoScene:
    """A task's environment. One thread owns it: OpenGL does."""

    def __init__(self, task: LiberoTask) -> None:
        """Load the task's model. Raises ConfigError where LIBERO is not installed."""
        self.task = task
        made = suites.module("libero.libero.envs").OffScreenRenderEnv
        with suites.quiet():
            outer = made(
                bddl_file_name=str(task.file), camera_heights=IMAGE_SIZE, camera_widths=IMAGE_SIZE,
                hard_reset=False, ignore_done=True, horizon=100_000,
            )  # fmt: skip
        self.env: Any = outer.env
        self._outer = outer
        for name, observable in self.env._observables.items():
            if "image" in name or "_to_robot0_" in name:
                observable.set_enabled(False)
                observable.set_active(False)
        self._states = suites.initial_states(task)
        self._loaded = _poses(self.env)
        self.steps = 0
        """Control steps of this episode, without those in which it settled."""

    def begin(self, initial: int | None, seed: int = 0) -> None:
        """Start an episode from one of the benchmark's initial states, or from one drawn from the task's regions.

        `seed` determines the drawn one, and where fixtures stand, which a state does not say. Raises ConfigError for an
        initial state that the task does not have.
        """
        if initial is not None:
            suites.check_state(self.task, initial)
        self._outer.seed(seed)
        for body, (place, turn) in self._loaded.items():
            self.env.sim.model.body_pos[body], self.env.sim.model.body_quat[body] = place, turn
        for robot in self.env.robots:
            robot.gripper.current_action = np.zeros(robot.gripper.dof)
        with suites.quiet():
            self._outer.reset()
            if initial is not None:
                self._outer.set_init_state(self._states[initial])
        for _ in range(SETTLE_STEPS):
            self.env.step(np.array(STAY))
        self.steps = 0

    def step(self, action: Any) -> bool:
        """One control step (50 ms): tool motion (6,) within -1..1 (1: 5 cm, 0.5 rad), gripper -1 open .. 1 closed.

        Returns whether the task is done.
        """
        _, _, done, _ = self.env.step(np.clip(np.asarray(action, dtype=np.float64), -1.0, 1.0))
        self.steps += 1
        return bool(done)

    def observe(self) -> Observation:
        """Both cameras and the state as LIBERO's clients send them."""
        stamp = 1 + round(self.steps * PERIOD_S * 1e9)
        images = {name: self._picture(camera) for name, camera in CAMERAS.items()}
        return Observation(stamp, images, np.zeros(7), 0.0, self.task.instruction, self.state())

    def state(self) -> Array:
        """Tool position, m, its rotation as axis times angle, rad, and the two fingers' positions, m: (8,)."""
        seen = self.env._get_observations()
        turn = axis_angle(seen["robot0_eef_quat"])
        return np.concatenate((seen["robot0_eef_pos"], turn, seen["robot0_gripper_qpos"]))

    def tool(self) -> tuple[Array, Array]:
        """Position (3,), m, and rotation matrix (3, 3) of the point between the finger tips."""
        at = self.env.sim.model.site_name2id("gripper0_grip_site")
        data = self.env.sim.data
        return np.array(data.site_xpos[at]), np.array(data.site_xmat[at]).reshape(3, 3)

    def fingers(self) -> float:
        """Distance between the fingers, m."""
        left, right = self.env._get_observations()["robot0_gripper_qpos"]
        return float(left - right)

    def close(self) -> None:
        """Free the model and its OpenGL context."""
        self._outer.close()

    def _picture(self, camera: str) -> NDArray[np.uint8]:
        drawn = self.env.sim.render(camera_name=camera, width=IMAGE_SIZE, height=IMAGE_SIZE)
        return np.ascontiguousarray(drawn[::-1, ::-1])


def _poses(env: Any) -> dict[int, tuple[Array, Array]]:
    """Position and quaternion of every fixture in the model as it is loaded, by number of its body."""
    found = {}
    for fixture in env.fixtures_dict.values():
        body = env.model.worldbody.find(f".//body[@name='{fixture.root_body}']")
        place, turn = body.get("pos", "0 0 0"), body.get("quat", "1 0 0 0")
        number = env.sim.model.body_name2id(fixture.root_body)
        found[number] = (np.array(place.split(), dtype=float), np.array(turn.split(), dtype=float))
    return found


def axis_angle(quaternion: Any) -> Array:
    """Rotation (x, y, z, w) as axis times angle (3,), rad, 0 to 2 pi: as robosuite does; no sign jumps at pi."""
    x, y, z, w = (float(v) for v in quaternion)
    w = min(1.0, max(-1.0, w))
    length = math.sqrt(1.0 - w * w)
    if math.isclose(length, 0.0):
        return np.zeros(3)
    return np.array((x, y, z)) * 2.0 * math.acos(w) / length
