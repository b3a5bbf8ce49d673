"""From a chunk whose turn has come to a trajectory that may be sent, through the checks that need the arm."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ecovla_ros.config import ControlConfig
from ecovla_ros.control import checks, pace, playback, tool
from ecovla_ros.control.checks import Refused
from ecovla_ros.control.curve import Motion
from ecovla_ros.control.limits import Limits
from ecovla_ros.types import ActionChunk, Floats, Trajectory

REFUSING = ("velocity", "acceleration", "jerk", "tool_speed", "box")
"""Checks by which a chunk is refused that no pace brings within limits; the first that holds names it."""


@dataclass(frozen=True)
class AdmittedChunk:
    """The chunk behind the trajectory in flight."""

    trajectory: Trajectory
    route: playback.Path
    begin_ns: int
    stretch: float
    changed: frozenset[str]
    """Names of the checks that changed the chunk."""

    def gripper(self, now_ns: int) -> float:
        """Target (0 open .. 1 closed) of the row that the arm is on its way to, at the pace of the arm."""
        elapsed = (now_ns - self.begin_ns) / playback.NS / self.route.period_s / self.stretch
        row = int(max(self.route.coordinate(self.begin_ns), -1.0) + elapsed + 1.0 + 1e-6)
        return float(self.route.gripper[min(max(row, 0), self.route.rows - 1)])


@dataclass(frozen=True)
class AdmissionRules:
    """What does not change from chunk to chunk."""

    config: ControlConfig
    limits: Limits
    box: tool.Box


def admit(
    chunk: ActionChunk,
    now_ns: int,
    parts_ns: int,
    start: Motion,
    measured: Floats,
    shares: Mapping[str, float],
    rules: AdmissionRules,
) -> AdmittedChunk:
    """The admitted `chunk`, from the commanded state `start` at `parts_ns` on. Raises Refused.

    `measured` (7,): where the arm reports to be. `shares`: name of a check -> share of the velocity limit it leaves.
    """
    config, limits = rules.config, rules.limits
    checks.age(chunk, now_ns, config.chunk_age_s)
    first = min(playback.due(chunk, parts_ns), chunk.horizon - 1)
    rows, turned = checks.unwrap(chunk.joints, first, start[0])
    rows, clamped = checks.joint_margin(rows, limits, config.margin_rad, start[0])
    checks.jump(rows[first], start[0], measured, config.max_jump_rad)
    bounded = tool.limits(rules.box, limits.tool_speed, start[0])
    rows, cut = tool.cut(rows, first, bounded)
    ahead = math.ceil(config.max_horizon_s / chunk.period_s)
    shares = {**shares, "singularity": tool.singular_share(rows[first : first + ahead + 1], config)}
    share = math.prod(shares.values())
    within = pace.envelope(limits, share, config.margin_rad / 2.0, start)
    route = playback.path(chunk, rows)
    course = pace.Course(route, within, bounded, pace.MAX_STRETCH / share)
    fitted = pace.fit(course, parts_ns, start, config.max_horizon_s)
    if fitted.trajectory is None:
        check = next((name for name in REFUSING if name in fitted.causes), "position")
        what = ", ".join(sorted(fitted.causes)) or "the horizon"
        raise Refused(check, f"no pace down to 1/{pace.MAX_STRETCH:.0f} brings it within limits ({what})")
    changed = set(fitted.causes)
    if "velocity" in changed and share < 1.0:
        changed = changed - {"velocity"} | {name for name, left in shares.items() if left < 1.0}
    changed |= {name for name, was in (("unwrap", turned), ("joint_margin", clamped), ("box", cut)) if was}
    return AdmittedChunk(fitted.trajectory, route, parts_ns, fitted.stretch, frozenset(changed))
