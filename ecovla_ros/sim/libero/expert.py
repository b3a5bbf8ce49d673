"""A scripted expert for LIBERO's pick-and-place tasks, from privileged state.

Takes an object (across its narrowest side, or a bowl at its rim), lifts it, carries it over its goal, lets go. What it
does next follows from where things are, so that it recovers from pushes and dropped objects. Drawers, the stove's knob
and pushing are not among what it can do: `able` says which goals are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ecovla_ros.errors import ConfigError
from ecovla_ros.sim.libero import objects
from ecovla_ros.sim.libero.scene import LiberoScene

Array = NDArray[np.float64]

OPEN, CLOSED = -1.0, 1.0
GAIN, TURN_GAIN = 10.0, 4.0
"""Action for a distance in m and for an angle in rad; actions are cut off at 1."""
ABOVE_M = 0.10
"""Height above the grasp at which the gripper is turned and aligned."""
LIFT_M = 0.28
"""Height above the table's objects at which things are carried."""
NEAR_M = 0.015
CLOSE_STEPS = 12
STILL_M = 0.0005
"""Fingers and hand that move less than this in a step stand still."""
PATIENCE = 45
"""Steps after which a stage is left even if its point was not reached (something is in the way)."""
DEEP_M = 0.06
"""How far below an object's top it aims at most: then the palm would stand on it."""
FINGER_M = 0.045
"""From the point between the finger tips to an open finger's outside."""
RIM = ("bowl", "plate", "ramekin")
"""Kinds that are taken at the rim."""
LOST_M = 0.09
"""An object that is farther than this from the closed gripper is not held."""
REACH_M = 0.035
"""How far below an object's top the gripper aims at least: a flat one is pressed to the table, and then held."""
WIDEST_M = 0.075
"""What the gripper can span."""


@dataclass(frozen=True)
class Grasp:
    """Where the gripper goes, and along which way its fingers close."""

    offset: Array
    """From the object's position to the point between the finger tips, (3,), m."""
    yaw: float
    """Direction of closing in the horizontal plane, rad."""


def able(scene: LiberoScene) -> str:
    """Empty if the expert can do the task; else what it cannot."""
    wanted = objects.goals(scene)
    for goal in wanted:
        if goal[0] not in ("in", "on") or len(goal) != 3 or goal[1] not in objects.movable(scene):
            return f"'{' '.join(goal)}'"
    return "" if len(wanted) == 1 else f"{len(wanted)} goals"


class LiberoExpert:
    """Acts on one episode. Raises ConfigError for a task that it is not able to do."""

    def __init__(self, scene: LiberoScene, rng: np.random.Generator | None = None) -> None:
        """`rng`: chooses among equal grasps; without one, always the first."""
        reason = able(scene)
        if reason:
            raise ConfigError(f"the expert cannot do {scene.task.name}: {reason}; it takes one thing to one place")
        self._scene = scene
        ((_, self.taken, self.goal),) = objects.goals(scene)
        self._rng = rng
        self._attempt, self._before, self._fingers = 0, math.inf, math.inf
        self._held_at = np.zeros(3)
        self._grasp = self._choose()
        self._to("above")

    @property
    def place(self) -> Array:
        """Where the taken object is to be let go, (3,), m: over the goal."""
        return objects.position(self._scene, self.goal)

    def act(self) -> Array:
        """The action (7,) for the scene as it is now."""
        self._advance()
        target = self._target()
        at, turn = self._scene.tool()
        action = np.zeros(7)
        action[:3] = np.clip((target - at) * GAIN, -1.0, 1.0)
        action[3:6] = np.clip(self._turn_error(turn) * TURN_GAIN, -1.0, 1.0) * (0.3 if self.stage == "descend" else 1.0)
        action[6] = self.gripper
        self._spent += 1
        return action

    @property
    def gripper(self) -> float:
        """-1 open or 1 closed, as the stage wants it."""
        return CLOSED if self.stage in ("close", "lift", "carry", "lower") else OPEN

    def _target(self) -> Array:
        at, _ = self._scene.tool()
        thing = objects.position(self._scene, self.taken)
        grasp = thing + self._grasp.offset
        stage = self.stage
        if stage == "above":
            high = grasp + [0, 0, ABOVE_M]
            far = np.linalg.norm((grasp - at)[:2]) > 0.05
            return np.array([*high[:2], max(high[2], at[2]) if far else high[2]])
        if stage == "descend":
            return grasp
        if stage == "close":
            return self._held_at
        over = self.place + self._hang(at, thing)
        if stage == "lift":
            return np.array([*at[:2], self._carry_z()])
        if stage == "carry":
            return np.array([*over[:2], self._carry_z()])
        if stage == "lower":
            return over + [0, 0, self._drop_height()]
        return np.array([*at[:2], self._carry_z()])  # open: let go, and rise

    def _advance(self) -> None:
        at, turn = self._scene.tool()
        thing = objects.position(self._scene, self.taken)
        target = self._target()
        off, grasp = target - at, thing + self._grasp.offset
        reached = np.linalg.norm(off) < NEAR_M
        turned = abs(self._turn_error(turn)[2]) < 0.12
        held = np.linalg.norm(thing + self._grasp.offset - at) < LOST_M / 2 + 0.02
        late = self._spent > PATIENCE
        fingers = self._scene.fingers()
        stage = self.stage
        if stage == "above" and ((reached and turned) or late):
            self._to("descend")
        elif stage == "descend":
            if np.linalg.norm(off[:2]) > 0.04:
                self._to("above")
            elif np.linalg.norm(off) < 0.008 or late or (self._spent > 12 and abs(at[2] - self._before) < STILL_M):
                self._held_at = np.array([*grasp[:2], max(at[2], grasp[2])])
                self._to("close")
        elif stage == "close" and self._spent >= CLOSE_STEPS and (abs(fingers - self._fingers) < STILL_M or late):
            self._to("lift")
        elif stage in ("lift", "carry", "lower") and not held:
            self._attempt += 1
            self._grasp = self._choose()
            self._to("above")
        elif stage == "lift" and (off[2] < 0.03 or late):
            self._to("carry")
        elif stage == "carry" and (np.linalg.norm(off[:2]) < 0.02 or late):
            self._to("lower")
        elif stage == "lower" and (np.linalg.norm(off) < 0.02 or late):
            self._to("open")
        elif stage == "open" and self._spent > 20:
            self._attempt += 1
            self._grasp = self._choose()
            self._to("above")
        self._before, self._fingers = float(at[2]), fingers

    def _to(self, stage: str) -> None:
        self.stage, self._spent = stage, 0

    def _hang(self, at: Array, thing: Array) -> Array:
        """From the held object's position to the gripper, (3,)."""
        return at - thing

    def _carry_z(self) -> float:
        return self._rest_z + LIFT_M

    def _drop_height(self) -> float:
        """Of the object over its goal when it is let go, m."""
        return 0.10 if "basket" in self.goal else 0.03

    def _choose(self) -> Grasp:
        """The grasp for this attempt: the narrowest side first; a bowl's rim from the side that is most free."""
        points = objects.outline(self._scene, self.taken)
        centre = objects.position(self._scene, self.taken)
        self._rest_z = float(centre[2])
        if any(word in self.taken for word in RIM):
            return self._rim(points, centre)
        yaws = np.pi / 2 + np.linspace(-np.pi / 2, np.pi / 2, 13)[:-1]
        middle = (points.min(0) + points.max(0)) / 2 - centre
        turns = np.abs((yaws - np.pi / 2 + np.pi / 2) % np.pi - np.pi / 2)
        widths = np.array([objects.width_along(points, yaw) for yaw in yaws])
        cost = widths + 0.01 * turns + np.where(widths > WIDEST_M, 1.0, 0.0)
        yaw = float(yaws[np.argsort(cost)[self._attempt // 2 % 3]])
        top = float(points[:, 2].max()) - centre[2]
        low = max(min(middle[2] - (0.01 if self._attempt % 2 else 0.0), top - REACH_M), top - DEEP_M)
        return Grasp(np.array([middle[0], middle[1], low]), yaw)

    def _rim(self, points: Array, centre: Array) -> Grasp:
        radius = (np.ptp(points[:, 0]) + np.ptp(points[:, 1])) / 4
        top = float(points[:, 2].max()) - centre[2]
        middle = (points.min(0) + points.max(0)) / 2 - centre
        boxes = objects.obstacles(self._scene, self.taken)
        angles = np.linspace(-np.pi, np.pi, 17)[:-1]
        free = []
        for angle in angles:
            finger = centre + [(radius + FINGER_M) * np.cos(angle), (radius + FINGER_M) * np.sin(angle), top]
            turn = abs(angle % np.pi - np.pi / 2)
            free.append(min(objects.clearance(finger, boxes), 0.05) - 0.02 * turn)
        angle = float(angles[np.argsort(free)[::-1][self._attempt % 6]])
        reach = radius - 0.008
        return Grasp(
            np.array([middle[0] + reach * np.cos(angle), middle[1] + reach * np.sin(angle), top - 0.022]), angle
        )

    def _turn_error(self, turn: Array) -> Array:
        """Rotation vector (3,), rad, in the world: fingers closing along the grasp's yaw, the hand pointing down."""
        closing, down = turn[:, 0], turn[:, 2]
        tilt = np.cross(down, [0.0, 0.0, -1.0])
        now = float(np.arctan2(closing[1], closing[0]))
        wanted = self._grasp.yaw if self.stage in ("above", "descend") else now
        error = (wanted - now + np.pi / 2) % np.pi - np.pi / 2
        return np.array([tilt[0], tilt[1], error])
