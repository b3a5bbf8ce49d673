"""A joint trajectory controller for tests and figures: the real one's rules, 1 kHz, and what it made the arm do.

`control.trajectory` holds the rules (joint names, rising times, last velocity, stale stamps, the wrap at the first
point) and the interpolation; this runs it and keeps what was commanded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ecovla_ros.control import kinematics
from ecovla_ros.control.limits import Limits
from ecovla_ros.control.pace import STOP_JERK
from ecovla_ros.control.trajectory import TrajectoryController
from ecovla_ros.types import CONTINUOUS, ArmState, Trajectory

CYCLE_NS = 1_000_000
REST_RAD_S = 0.01
"""An arm slower than this, in every joint, counts as at rest, rad/s."""
ROUNDING = 1e-6
"""Share by which rounding may exceed a limit."""
JERK_ROUNDING = 1e-2
JERK_CYCLES = 10
"""Jerk is judged over so many cycles: a clock that is off by 0.2 ms makes small steps that no arm feels."""
TOOL_STEP = 10
"""The tool is looked at every so many cycles."""
BOX_M = 0.003
"""The guard looks at the box every 20 ms: between, the tool may bulge by this, m."""


@dataclass(frozen=True)
class Smoothness:
    """What a span of commands was like."""

    rms_acceleration: float
    """rad/s^2, over joints and time."""
    peak_jerk: float
    """Largest change of the commanded acceleration, rad/s^3, from velocities at 1 kHz."""
    rest_share: float
    """Share of the time in which no joint moved, 0 .. 1."""
    rms_error: float
    """Distance from the ideal motion, rad."""


class FakeController:
    """Runs what it accepts. `now_ns` is its clock; `run` moves it on."""

    def __init__(self, positions: np.ndarray, now_ns: int) -> None:
        self.model, self.now_ns = TrajectoryController(positions), now_ns
        self._parts: list[tuple[np.ndarray, np.ndarray]] = []

    def accept(self, trajectory: Trajectory) -> None:
        """Raises ControlError for what the real controller would drop."""
        self.model.accept(trajectory, self.now_ns)

    def run(self, span_ns: int) -> None:
        """Command for so long, one cycle a millisecond."""
        times = self.now_ns + CYCLE_NS * np.arange(span_ns // CYCLE_NS)
        position, velocity, _ = self.model.states(times)
        self._parts.append((position, velocity))
        self.now_ns += span_ns // CYCLE_NS * CYCLE_NS

    def state(self, stamp_ns: int) -> ArmState:
        """As the real driver reports it: continuous joints in [-pi, pi]."""
        position, velocity = self.model.sample(self.now_ns)
        wrapped = np.where(CONTINUOUS, (position + math.pi) % math.tau - math.pi, position)
        return ArmState(stamp_ns, wrapped, velocity, 0.0)

    @property
    def position(self) -> np.ndarray:
        """Commanded position now (7,), rad."""
        return self.model.sample(self.now_ns)[0]

    def commanded(self) -> tuple[np.ndarray, np.ndarray]:
        """Positions and velocities of every cycle so far, (T, 7)."""
        return np.vstack([p for p, _ in self._parts]), np.vstack([v for _, v in self._parts])

    def smoothness(self, ideal: np.ndarray, first: int) -> Smoothness:
        """Against the ideal positions (T, 7) of every cycle, from cycle `first` on."""
        position, velocity = (part[first : len(ideal)] for part in self.commanded())
        acceleration = np.diff(velocity, axis=0) / 1e-3
        return Smoothness(
            float(np.sqrt((acceleration**2).mean())),
            float(np.abs(np.diff(acceleration, axis=0)).max() / 1e-3),
            float((np.abs(velocity).max(axis=1) < REST_RAD_S).mean()),
            float(np.sqrt(((position - ideal[first : first + len(position)]) ** 2).mean())),
        )

    def violations(self, limits: Limits, box: tuple[np.ndarray, np.ndarray] | None = None) -> set[str]:
        """Names of the limits that any command was outside of. `box`: lowest and highest tool point, m."""
        position, velocity = self.commanded()
        acceleration = np.diff(velocity, axis=0) / 1e-3
        jerk = (acceleration[JERK_CYCLES:] - acceleration[:-JERK_CYCLES]) / (1e-3 * JERK_CYCLES)
        steps = np.diff(position, axis=0) / 1e-3
        tool, speed = kinematics.tool_motion(position[::TOOL_STEP], velocity[::TOOL_STEP])
        one, more = 1.0 + ROUNDING, 1e-6
        outside = {
            "finite": not (np.isfinite(position).all() and np.isfinite(velocity).all()),
            "position": bool((position < limits.lower - 1e-9).any() or (position > limits.upper + 1e-9).any()),
            "velocity": bool((np.abs(velocity) > limits.velocity * one).any()),
            "step": bool((np.abs(steps) > limits.velocity * one + more).any()),
            "acceleration": bool((np.abs(acceleration) > limits.acceleration * one + more).any()),
            "jerk": bool((np.abs(jerk) > STOP_JERK * limits.jerk * (1.0 + JERK_ROUNDING)).any()),
            "tool_speed": bool((speed > limits.tool_speed * 1.001).any()),
        }
        if box is not None:
            outside["box"] = bool((tool < box[0] - BOX_M).any() or (tool > box[1] + BOX_M).any())
        return {name for name, found in outside.items() if found}
