"""A guard, the controller it commands, and the arm: what leaves the guard is run at 1 kHz and kept."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ecovla_ros.config import ControlConfig
from ecovla_ros.control import kinematics
from ecovla_ros.control.clocks import PlanClock
from ecovla_ros.control.flight import BACK_S
from ecovla_ros.control.guard import Guard
from ecovla_ros.control.limits import Limits, load
from ecovla_ros.control.pace import STOP_JERK
from ecovla_ros.control.status import Command
from ecovla_ros.control.trajectory import TrajectoryController
from ecovla_ros.types import CONTINUOUS, ActionChunk, ArmState, ControllerState, Trajectory

WIDE = {
    "box_lower": (-2.0, -2.0, -2.0), "box_upper": (2.0, 2.0, 2.0), "singular_from": 1e5, "singular_to": 1e6,
    "chunk_silence_s": 10.0, "stamp_commands": "always",
}  # fmt: skip
"""No box, no singularity and no watch over silence, but where a test asks for one."""
Motion = Callable[[float], np.ndarray]
"""Seconds to joint positions (7,)."""
MS = 1_000_000
NS = 1_000_000_000
TICK = 10 * MS
START = 100 * NS
"""Time of the first tick."""


class GuardedArm:
    """`now` is the true time, which the controller has; the guard sees `clock`, which may jump."""

    def __init__(
        self, start: np.ndarray, profile: str = "normal", tool_speed: float | None = 5.0, jerk: float = 0.0,
        second_clock: bool = False, **settings: Any,
    ) -> None:  # fmt: skip
        """`tool_speed`, m/s: by default no limit for these motions; None: the profile's. `jerk`, rad/s^3, also.

        `second_clock`: the guard is told when its clock was set, as by a node where time is not simulated.
        """
        loaded = load(profile)
        changes: dict[str, Any] = {} if tool_speed is None else {"tool_speed": tool_speed}
        changes |= {"jerk": np.full(7, jerk)} if jerk else {}
        self.limits: Limits = dataclasses.replace(loaded, **changes)
        self.config = ControlConfig(profile=profile, **{**WIDE, **settings})
        self.guard = Guard(self.config, self.limits, steady=second_clock)
        self.plant = TrajectoryController(start)
        self.now, self.skew = START, 0
        self.plan = PlanClock() if second_clock else None
        self.silent = False
        """Whether the controller says nothing of itself."""
        self.enabled = False
        self.sent: list[Trajectory] = []
        self.grips: list[float] = []
        self.last: Command | None = None
        self.track: list[np.ndarray] = []
        self.speed: list[np.ndarray] = []

    @property
    def clock(self) -> int:
        if self.plan is None:
            return self.now + self.skew
        clock, set_s = self.plan.now(self.now + self.skew, self.now, self.guard.resting)
        if set_s:
            self.guard.on_clock_set(set_s, clock)
        return clock

    @property
    def skewed(self) -> int:
        """What the guard's clock says more than the controller's, ns."""
        return self.clock - self.now

    @property
    def position(self) -> np.ndarray:
        return self.plant.sample(self.now)[0]

    def report(self, offset: np.ndarray | float = 0.0, late_ns: int = 0) -> None:
        """The arm says where it is, continuous joints in [-pi, pi] as the real one does."""
        position, velocity = self.plant.sample(self.now)
        position = position + offset
        wrapped = np.where(CONTINUOUS, (position + math.pi) % math.tau - math.pi, position)
        self.guard.on_joint_state(ArmState(self.clock - late_ns, wrapped, velocity, 0.0), self.clock)
        if not self.silent:
            self.guard.on_controller_state(ControllerState(self.clock, *self.plant.sample(self.now)), self.clock)

    def tick(self) -> Command:
        command = self.guard.tick(self.clock)
        if command.trajectory is not None:
            self.plant.accept(
                command.trajectory, self.now, stamp_ns=command.begin_ns and command.begin_ns - self.skewed
            )
            self.sent.append(command.trajectory)
        if command.gripper is not None:
            self.grips.append(command.gripper)
        for _ in range(TICK // MS):
            position, velocity = self.plant.sample(self.now)
            self.track.append(position)
            self.speed.append(velocity)
            self.now += MS
        self.last = command
        return command

    def run(self, seconds: float, report: bool = True) -> Command:
        for _ in range(max(1, round(seconds * NS / TICK))):
            if report:
                self.report()
            command = self.tick()
        return command

    def arm(self) -> None:
        """Enable, which must succeed, on an arm at rest."""
        self.run(0.03)
        ok, why = self.guard.enable(True, self.clock)
        assert ok, why

    def chunk(self, rows: np.ndarray, age_s: float = 0.0, period_s: float = 0.1, gripper: float = 0.0) -> None:
        stamp = self.clock - round(age_s * NS)
        self.guard.on_chunk(ActionChunk(stamp, period_s, rows, np.full(len(rows), gripper)), self.clock)

    def acceleration(self) -> np.ndarray:
        """From the commanded velocities at 1 kHz, rad/s^2, (T, 7)."""
        return np.diff(np.array(self.speed), axis=0) * 1000.0

    def assert_law(self) -> None:
        """Everything that ran was within position, velocity and acceleration limits, and everything sent was sound."""
        track, speed = np.array(self.track), np.array(self.speed)
        assert np.isfinite(track).all() and np.isfinite(speed).all()
        assert (track >= self.limits.lower - 1e-9).all() and (track <= self.limits.upper + 1e-9).all()
        assert (np.abs(speed) <= self.limits.velocity * (1 + 1e-6)).all(), np.abs(speed).max(axis=0)
        steps = np.abs(np.diff(track, axis=0)) * 1000.0
        assert (steps <= self.limits.velocity * (1 + 1e-6) + 1e-9).all(), steps.max(axis=0)
        acceleration = np.abs(self.acceleration())
        assert (acceleration <= self.limits.acceleration * (1 + 1e-6) + 1e-6).all(), acceleration.max(axis=0)
        jerk = np.abs(np.diff(speed, 2, axis=0)) * 1e6
        assert (jerk <= STOP_JERK * self.limits.jerk * (1 + 1e-3)).all(), jerk.max(axis=0)
        _, tool = kinematics.tool_motion(track[::20], speed[::20])
        assert (tool <= self.limits.tool_speed * (1 + 1e-3)).all(), tool.max()
        for trajectory in self.sent:
            assert (np.diff(trajectory.times_s) > 0).all() and trajectory.times_s[0] >= 0
            assert trajectory.times_s[-1] <= self.config.max_horizon_s + BACK_S + 2e-3
            assert trajectory.velocities is not None and not trajectory.velocities[-1].any()
        assert all(0.0 <= grip <= 1.0 for grip in self.grips)


def wave(start: np.ndarray, speed: float = 0.5, acceleration: float = 1.8, rise_s: float = 4.0) -> Motion:
    """A smooth motion of all joints from rest at `start`, with these peak values."""
    rate, size = acceleration / speed, speed**2 / acceleration
    phase = np.arange(7.0)

    def motion(t: float) -> np.ndarray:
        warped = t - rise_s / 2 if t >= rise_s else max(t, 0.0) ** 2 / (2 * rise_s)
        return start + size * (np.sin(rate * warped + phase) - np.sin(phase))

    return motion


HOME = np.array([0.3, 0.26, 3.0, -2.0, 0.4, 0.95, 1.57])
EDGE = np.array([3.1, 2.17, -3.1, -2.5, 0.0, 2.03, 0.0])
AHEAD = np.arange(1, 17)[:, None] * 0.1
"""Due times of 16 rows after their observation, s, (16, 1)."""


def stream(arm: GuardedArm, seconds: float, speed: float = 0.5, acceleration: float = 1.8) -> None:
    """A policy that follows a smooth motion from where the arm is, 0.12 s of age, every 0.4 s."""
    motion, begin = wave(arm.position, speed, acceleration, rise_s=2.0), arm.now
    while arm.now - begin < seconds * NS:
        observed = (arm.now - begin) / NS - 0.12
        arm.chunk(np.array([motion(observed + (i + 1) * 0.1) for i in range(16)]), 0.12)
        arm.run(0.4)


def moving_arm(**settings_: float) -> GuardedArm:
    arm = GuardedArm(HOME, **settings_)
    arm.arm()
    stream(arm, 2.4)
    assert arm.last is not None and arm.last.status.state == "RUNNING" and np.abs(arm.speed[-1]).max() > 0.2
    return arm


def rest_within(arm: GuardedArm, seconds: float) -> None:
    arm.run(seconds)
    assert not arm.speed[-1].any()
    arm.assert_law()


def jump_clock(arm: GuardedArm, seconds: float) -> None:
    arm.skew += round(seconds * NS)
    arm.tick()
