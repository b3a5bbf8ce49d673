"""Physics and control of one scene, without pictures and without ROS: what `env` and the sim node share.

500 Hz physics, 100 Hz control ticks. The arm is commanded as the real one is: trajectories go to a model of
joint_trajectory_controller, the gripper to a position with a slew rate. Not thread-safe: one owner calls it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import mujoco
import numpy as np

from ecovla_ros.control.kinematics import TOOL_DOWN, inverse
from ecovla_ros.control.trajectory import TrajectoryController
from ecovla_ros.errors import SimulationError, unknown
from ecovla_ros.sim import placement, scene
from ecovla_ros.sim.gen3 import JAW_STROKE
from ecovla_ros.sim.props import (
    BASKET_HALF,
    BASKET_HEIGHT,
    CABINET_DEPTH,
    CABINET_WIDTH,
    DISTRACTORS,
    GOALS,
    OBJECTS,
    REST_HEIGHT,
)
from ecovla_ros.sim.tasks import Task, find
from ecovla_ros.types import CONTINUOUS, JOINTS, ArmState, ControllerState, Trajectory

TICK_NS = 10_000_000
PERIOD_TICKS = 10
"""Control ticks of one policy period (100 ms)."""
STEPS_PER_TICK = round(TICK_NS * 1e-9 / scene.TIMESTEP_S)
START_NS = 1_000_000_000
"""Clock at reset: never zero, which ROS takes for "no time"."""
GRIPPER_RATE = 2.4
"""Share of the jaws' stroke per second."""
SETTLE_STEPS = 100
FALLEN_HEIGHT = -0.1
"""The table's top is at 0; an object whose centre is below this has left it, m."""
HELD_DISTANCE = 0.05
"""An object nearer to the tool point than this counts as not let go, m."""

HOME, _ = inverse(np.array([0.0, 0.37, 0.0, 1.43, 0.0, 1.33, -math.pi / 2]), np.array([0.46, 0.0, 0.30]), TOOL_DOWN)
"""Start pose: tool straight down in the middle of the workspace, rad, (7,)."""

_LOOKS = (
    "light_diffuse",
    "light_dir",
    "geom_rgba",
    "mat_rgba",
    "tex_data",
    "cam_pos",
    "cam_quat",
    "cam_fovy",
)


class World:
    """One scene with its clock. `model` and `data` are MuJoCo's; looks (colours, lights, cameras) live in `model`."""

    def __init__(self, width: int = 128, height: int = 128) -> None:
        """Compile the scene; `width` and `height` bound the images a GL renderer can draw, px."""
        self.model: Any = scene.build(width, height)
        self.data: Any = mujoco.MjData(self.model)
        self._pristine = {name: getattr(self.model, name).copy() for name in _LOOKS}
        self._headlight = [np.array(getattr(self.model.vis.headlight, k)) for k in ("ambient", "diffuse")]
        joints = [self.model.joint(name) for name in JOINTS]
        self._q = np.array([joint.qposadr[0] for joint in joints])
        self._v = np.array([joint.dofadr[0] for joint in joints])
        self._servos = np.array([self.model.actuator(name).id for name in JOINTS])
        self._jaws = self.model.actuator("gripper").id
        self._finger = self.model.joint("left_finger_joint").qposadr[0]
        self._tcp = self.model.site("tcp").id
        self._bodies = {name: self.model.body(name).id for name in (*OBJECTS, *DISTRACTORS, *GOALS)}
        self.reset("apple", 0)

    def reset(self, task: str, seed: int) -> None:
        """Place everything for `seed` with the plain looks, arm at the start pose, clock at `START_NS`.

        The scene is the same for every task of a seed. Raises SimulationError for an unknown task.
        """
        self.task: Task = find(task)
        self.restore_looks()
        mujoco.mj_resetData(self.model, self.data)
        self.placement = placement.sample(np.random.default_rng(seed))
        for name, (x, y, yaw) in self.placement.poses.items():
            if name not in DISTRACTORS:
                self.place(name, x, y, yaw)
        for i, name in enumerate(DISTRACTORS):
            self.place(name, -2.0, -1.0 - i, 0.0, scene.FLOOR_HEIGHT + REST_HEIGHT[name])
        start = HOME + self.placement.start_offset
        self.data.qpos[self._q] = start
        self.data.ctrl[self._servos] = start
        self._closed = self._closed_target = 0.0
        self._push: tuple[int, int] | None = None
        mujoco.mj_forward(self.model, self.data)
        mujoco.mj_step(self.model, self.data, SETTLE_STEPS)
        self.now_ns = START_NS
        self._controller = TrajectoryController(start)

    def restore_looks(self) -> None:
        """Undo every change of lights, colours, textures and cameras."""
        for name, values in self._pristine.items():
            getattr(self.model, name)[:] = values
        for name, values in zip(("ambient", "diffuse"), self._headlight):
            getattr(self.model.vis.headlight, name)[:] = values

    def tick(self) -> None:
        """Advance one control tick of 10 ms: sample the controller, slew the gripper, five physics steps."""
        self.now_ns += TICK_NS
        self.data.ctrl[self._servos] = self._controller.sample(self.now_ns)[0]
        reach = GRIPPER_RATE * TICK_NS * 1e-9
        self._closed += min(max(self._closed_target - self._closed, -reach), reach)
        self.data.ctrl[self._jaws] = self._closed * JAW_STROKE
        if self._push is not None and self.now_ns > self._push[1]:
            self.data.xfrc_applied[self._push[0]] = 0.0
            self._push = None
        mujoco.mj_step(self.model, self.data, STEPS_PER_TICK)

    def accept(self, trajectory: Trajectory, joint_names: Sequence[str] = JOINTS, stamp_ns: int = 0) -> None:
        """Hand a trajectory to the controller as the command topic would. Raises ControlError when it refuses."""
        self._controller.accept(trajectory, self.now_ns, joint_names, stamp_ns)

    def controller_state(self) -> ControllerState:
        """What the controller commands now."""
        return ControllerState(self.now_ns, *self._controller.sample(self.now_ns))

    def gripper(self, closed: float) -> None:
        """Set the gripper's target: 0 open .. 1 closed. Raises SimulationError outside."""
        if not 0.0 <= closed <= 1.0:
            raise SimulationError(f"gripper target {closed} is outside [0, 1]; 0 is open, 1 is closed")
        self._closed_target = float(closed)

    @property
    def jaws(self) -> tuple[float, float]:
        """Gripper as commanded now and its target, 0 open .. 1 closed: the jaws follow with `GRIPPER_RATE`."""
        return self._closed, self._closed_target

    def step(self, joints: np.ndarray, gripper: float) -> bool:
        """Command joint targets (7,), rad, due in one period of 100 ms, and the gripper; advance that period.

        Returns whether the task is solved. Raises ControlError when the controller refuses the targets.
        """
        self.accept(Trajectory(np.array([PERIOD_TICKS * TICK_NS * 1e-9]), np.asarray(joints, float).reshape(1, -1)))
        self.gripper(gripper)
        for _ in range(PERIOD_TICKS):
            self.tick()
        return self.success()

    def commanded(self) -> np.ndarray:
        """Joint positions the controller commands now, rad, (7,), not wrapped."""
        return self._controller.sample(self.now_ns)[0]

    def arm_state(self) -> ArmState:
        """Measured joints (continuous ones wrapped to [-pi, pi], as the driver reports them) and gripper."""
        joints = self.data.qpos[self._q].copy()
        joints = np.where(CONTINUOUS, np.arctan2(np.sin(joints), np.cos(joints)), joints)
        closed = float(np.clip(self.data.qpos[self._finger] / JAW_STROKE, 0.0, 1.0))
        return ArmState(self.now_ns, joints, self.data.qvel[self._v].copy(), closed)

    def tcp(self) -> tuple[np.ndarray, np.ndarray]:
        """Measured tool point: position (3,), m, rotation (3, 3)."""
        return self.data.site_xpos[self._tcp].copy(), self.data.site_xmat[self._tcp].reshape(3, 3).copy()

    def pose(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Position (3,), m, and rotation (3, 3) of an object, distractor or goal. Raises SimulationError."""
        body = self.body(name)
        return self.data.xpos[body].copy(), self.data.xmat[body].reshape(3, 3).copy()

    def body(self, name: str) -> int:
        """Body id of an object, distractor or goal. Raises SimulationError listing the valid names."""
        if name not in self._bodies:
            raise SimulationError(unknown("body", name, self._bodies))
        return self._bodies[name]

    def place(self, name: str, x: float, y: float, yaw: float = 0.0, z: float | None = None) -> None:
        """Put a body at rest at (x, y), turned by `yaw`; objects stand on the table unless `z` says otherwise."""
        turn = (math.cos(yaw / 2), 0.0, 0.0, math.sin(yaw / 2))
        body = self.body(name)
        if name in GOALS:
            index = self.model.body_mocapid[body]
            self.data.mocap_pos[index], self.data.mocap_quat[index] = (x, y, 0.0), turn
        else:
            joint = self.model.joint(f"{name}_free")
            start, dof = joint.qposadr[0], joint.dofadr[0]
            height = REST_HEIGHT[name] + 0.001 if z is None else z
            self.data.qpos[start : start + 7] = (x, y, height, *turn)
            self.data.qvel[dof : dof + 6] = 0.0
        mujoco.mj_kinematics(self.model, self.data)

    def push(self, name: str, force: Sequence[float], duration_s: float) -> None:
        """Apply a force (3,), N, at the body's centre of mass for `duration_s` from now; replaces a running push."""
        body = self.body(name)
        self.data.xfrc_applied[:] = 0.0
        self.data.xfrc_applied[body, :3] = force
        self._push = (body, self.now_ns + round(duration_s * 1e9))

    def inside(self) -> bool:
        """Whether the task's object is in its goal, held or not."""
        position, _ = self.pose(self.task.object)
        at, axes = self.pose(self.task.goal)
        x, y, z = (position - at) @ axes
        if self.task.goal == "basket":
            return bool(max(abs(x), abs(y)) < BASKET_HALF and 0.0 < z < BASKET_HEIGHT)
        return bool(abs(x) < CABINET_DEPTH and abs(y) < CABINET_WIDTH and 0.0 < z < 0.20)

    def success(self) -> bool:
        """Object in its goal, gripper open and away from it."""
        if self._closed > 0.6 or not self.inside():
            return False
        return bool(np.linalg.norm(self.tcp()[0] - self.pose(self.task.object)[0]) >= HELD_DISTANCE)

    def fallen(self) -> bool:
        """Whether the task's object lies below the table, where no tool can reach it."""
        return bool(self.data.xpos[self.body(self.task.object), 2] < FALLEN_HEIGHT)
