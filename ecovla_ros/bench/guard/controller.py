"""A joint trajectory controller for tests and figures: the rules of a release, 1 kHz, and what it made the arm do.

`release` holds the rules; this runs it on clocks that may be wrong and keeps what was commanded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ecovla_ros.bench.guard.judge import Judge
from ecovla_ros.bench.guard.release import CYCLE_NS, RELEASES, ReleasedController, points
from ecovla_ros.control import kinematics
from ecovla_ros.control.limits import Limits
from ecovla_ros.control.pace import STOP_JERK
from ecovla_ros.types import CONTINUOUS, ArmState, ControllerState, Trajectory

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
"""The guard looks at the box every 10 ms: between, the tool may bulge by this, m."""


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
    """Runs what it accepts. `now_ns` is the true time; `run` moves it on. Its own clock is `apart_ns` ahead of that."""

    def __init__(self, positions: np.ndarray, now_ns: int, release: str = "kilted", real: bool = False) -> None:
        """Holds `positions` (7,), rad. `release`: one of `release.RELEASES`; `real`: see `judge`."""
        self.now_ns, self.apart_ns = now_ns, 0
        self._release, self._real = release, real
        self.model = self._holding(positions)
        self._restarts: list[int] = []  # cycles that had been run by then
        self.rate = 0.0
        """By how much its clock is too fast."""
        self._parts: list[tuple[np.ndarray, np.ndarray]] = []
        self._velocity = np.zeros(len(positions))

    def _holding(self, positions: np.ndarray) -> ReleasedController | Judge:
        if self._real:
            return Judge(positions, self._release)
        return ReleasedController(positions, RELEASES[self._release])

    def restart(self) -> None:
        """It is deactivated, or its process is another one: it stops dead, forgets what ran, and holds the arm there.

        That step is its own, so that what comes before and after it is judged apart.
        """
        held = self.position.copy()
        if isinstance(self.model, Judge):
            self.model.close()
        self.model, self._velocity = self._holding(held), np.zeros(len(held))
        self._restarts.append(sum(len(part) for part, _ in self._parts))

    @property
    def clock(self) -> int:
        """The controller's own clock, ns."""
        return self.now_ns + self.apart_ns

    def accept(self, trajectory: Trajectory, stamp_ns: int = 0) -> None:
        """`stamp_ns`, by its clock: when the trajectory begins; 0: now. Raises ControlError for what it would drop."""
        self.model.accept(points(trajectory), self.clock, stamp_ns)

    def run(self, span_ns: int) -> None:
        """Command for so long, one cycle a millisecond."""
        cycles = CYCLE_NS * np.arange(span_ns // CYCLE_NS)
        if len(cycles):
            own = cycles if not self.rate else cycles + np.round(self.rate * cycles).astype(np.int64)
            position, velocity = self.model.run(self.clock + own, self.now_ns + cycles)
            self._parts.append((position, velocity))
            self._velocity = velocity[-1]
        self.now_ns += len(cycles) * CYCLE_NS
        self.apart_ns += round(self.rate * len(cycles) * CYCLE_NS)

    def reported(self, back_ns: int = 0) -> ControllerState:
        """What it said of itself in the last cycle, or `back_ns` before; see `ReleasedController.reported`."""
        assert isinstance(self.model, ReleasedController)
        reference, velocity, place_s, back_ns = self.model.reported(back_ns)
        return ControllerState(self.clock - CYCLE_NS - back_ns, reference, velocity, place_s)

    def state(self, stamp_ns: int) -> ArmState:
        """As the real driver reports it: continuous joints in [-pi, pi]."""
        position = self.position
        wrapped = np.where(CONTINUOUS, (position + math.pi) % math.tau - math.pi, position)
        return ArmState(stamp_ns, wrapped, self._velocity.copy(), 0.0)

    @property
    def position(self) -> np.ndarray:
        """Commanded position now (7,), rad."""
        return self.model.position

    @property
    def velocity(self) -> np.ndarray:
        """Commanded velocity now (7,), rad/s."""
        return self._velocity

    @property
    def moving(self) -> bool:
        """Whether the last command was one of a motion."""
        return bool(self._velocity.any())

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
        """Names of the limits that any command was outside of. `box`: lowest and highest tool point, m.

        An arm that stood outside its box when it was switched on may come back, and never go further.

        step: what the positions of two cycles make for a velocity. felt: the acceleration of positions 10 ms apart: the
        arm is commanded by position, and a step that no velocity shows is felt all the same.
        """
        position, velocity = self.commanded()
        ends = [0, *self._restarts, len(position)]
        found: set[str] = set()
        for begin, end in zip(ends, ends[1:]):
            if end - begin > 2 * JERK_CYCLES:
                found |= _outside(position[begin:end], velocity[begin:end], limits, box)
        return found


def _outside(
    position: np.ndarray, velocity: np.ndarray, limits: Limits, box: tuple[np.ndarray, np.ndarray] | None
) -> set[str]:
    """Names of the limits that commands (T, 7) in a row were outside of, see `FakeController.violations`."""
    acceleration = np.diff(velocity, axis=0) / 1e-3
    span = 1e-3 * JERK_CYCLES
    felt = (
        position[2 * JERK_CYCLES :] - 2.0 * position[JERK_CYCLES:-JERK_CYCLES] + position[: -2 * JERK_CYCLES]
    ) / span**2
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
        "felt": bool((np.abs(felt) > limits.acceleration * one + 1e-4).any()),
        "jerk": bool((np.abs(jerk) > STOP_JERK * limits.jerk * (1.0 + JERK_ROUNDING)).any()),
        "tool_speed": bool((speed > limits.tool_speed * 1.001).any()),
    }
    if box is not None:
        beyond = np.maximum(np.maximum(box[0] - tool, tool - box[1]), 0.0).max(1)
        outside["box"] = bool((beyond > beyond[0] + BOX_M).any())
    return {name for name, found in outside.items() if found}
