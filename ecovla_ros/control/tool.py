"""What the tool point may do: stay in its box, keep its speed, and not be near a singularity at full pace."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ecovla_ros.config import ControlConfig
from ecovla_ros.control import curve, kinematics
from ecovla_ros.control.checks import Refused
from ecovla_ros.errors import ConfigError
from ecovla_ros.types import Floats, Trajectory

STEP_S = 0.01
"""A curve is sampled so often, s, and at its knots: at 0.25 m/s the tool moves 2.5 mm between two samples. Twice the
distance was too much for `SPEED_SHARE` in short motions from rest to rest."""
KEEP_M = 0.004
"""Rows are cut this far inside the box, m: the curve between them may use it. A tool that has come to stand there, as
one that holds something from the table, may stay and go on."""
SPEED_SHARE = 0.98
"""Share of the tool's speed limit that samples may reach: the peak lies between two of them."""
SLOWEST = 0.2
"""Share of the velocity limit at a singularity and beyond."""
AXES = "xyz"


@dataclass(frozen=True)
class Box:
    """Where the tool point may be, base frame, m, arrays (3,)."""

    lower: Floats
    upper: Floats

    def outside(self, points: Floats) -> Floats:
        """How far each of `points` (N, 3) lies outside, m, (N,); 0 inside."""
        beyond: Floats = np.maximum(np.maximum(self.lower - points, points - self.upper), 0.0).max(axis=1)
        return beyond


def box(config: ControlConfig) -> Box:
    """Box of a configuration. Raises ConfigError for one that is not three lower below three upper numbers."""
    lower, upper = np.array(config.box_lower), np.array(config.box_upper)
    if lower.shape != (3,) or upper.shape != (3,) or not (upper - lower > 2.0 * KEEP_M).all():
        raise ConfigError(
            f"control.box_lower {list(lower)} and box_upper {list(upper)} m; valid: x, y, z each, lower below upper"
        )
    return Box(lower, upper)


def check_singularity(config: ControlConfig) -> None:
    """Raises ConfigError where the slowing near a singularity would not grow towards it."""
    if not config.singular_from < config.singular_to:
        raise ConfigError(
            f"control.singular_from {config.singular_from} and singular_to {config.singular_to}; valid: from below to"
        )


@dataclass(frozen=True)
class ToolLimits:
    """Limits of the tool point for one chunk."""

    box: Box
    speed: float
    """Largest speed, m/s."""
    outside_m: float
    """A tool that stands so far outside its box may come back, but not go further."""
    at_edge: bool
    """Whether it stands outside, or inside by less than `KEEP_M`."""

    def measure(self, trajectory: Trajectory, start: curve.Motion) -> tuple[float, bool]:
        """Largest speed as a share of the limit, and whether the tool stays in its box, over samples of the curve."""
        points, speeds = kinematics.tool_motion(*curve.samples(trajectory, start, STEP_S))
        inside = bool((self.box.outside(points) <= self.outside_m + 1e-6).all())
        return float(speeds.max()) / (SPEED_SHARE * self.speed), inside


def limits(box: Box, speed: float, commanded: Floats) -> ToolLimits:
    """Limits for an arm commanded to be at `commanded` (7,), rad."""
    points = np.array(kinematics.pose(commanded)[0])[None]
    return ToolLimits(box, speed, float(box.outside(points)[0]), bool(_kept(box).outside(points)[0] > 0.0))


def cut(rows: Floats, first: int, tool: ToolLimits) -> tuple[Floats, bool]:
    """Rows (H, 7) that end where the tool would leave its box; whether any did. Refuses when row `first` already does.

    What follows is replaced by the last row inside: the arm comes to rest there.
    """
    points = kinematics.tool_motion(rows[first:], np.zeros_like(rows[first:]))[0]
    keep = _kept(tool.box)
    beyond = keep.outside(points) > max(tool.outside_m + KEEP_M if tool.at_edge else 0.0, 1e-9)
    if not beyond.any():
        return rows, False
    at = int(beyond.argmax())
    if at == 0 and tool.box.outside(points[:1])[0] > tool.outside_m:
        raise Refused("box", f"the tool would go to {_place(points[0])} m; valid: {_span(tool.box)}")
    at = max(at, 1)
    ended = rows.copy()
    ended[first + at :] = rows[first + at - 1]
    return ended, True


def _kept(box: Box) -> Box:
    return Box(box.lower + KEEP_M, box.upper - KEEP_M)


def singular_share(rows: Floats, config: ControlConfig) -> float:
    """Share of the velocity limit for a path along `rows` (N, 7): 1 far from singularities, `SLOWEST` in one."""
    worst = float(kinematics.condition(rows).max())
    near = (worst - config.singular_from) / (config.singular_to - config.singular_from)
    return 1.0 - (1.0 - SLOWEST) * min(max(near, 0.0), 1.0)


def _place(point: Floats) -> str:
    return "(" + ", ".join(f"{value:.3f}" for value in point) + ")"


def _span(of: Box) -> str:
    return ", ".join(f"{axis} {low:.2f} to {high:.2f}" for axis, low, high in zip(AXES, of.lower, of.upper))
