"""From a chunk whose turn has come to a trajectory that may be sent, through the checks that need the arm."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ecovla_ros.config import ControlConfig
from ecovla_ros.control import checks, pace, playback
from ecovla_ros.control.checks import Refused
from ecovla_ros.control.curve import Motion
from ecovla_ros.control.limits import Limits
from ecovla_ros.types import ActionChunk, Trajectory


@dataclass(frozen=True)
class Plan:
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


def admit(
    chunk: ActionChunk,
    now_ns: int,
    start: Motion,
    measured: np.ndarray,
    share: float,
    config: ControlConfig,
    limits: Limits,
) -> Plan:
    """Plan for `chunk` from the commanded state `start` on, with `share` of the velocity limit. Raises Refused.

    `measured` (7,): where the arm reports to be.
    """
    checks.age(chunk, now_ns, config.chunk_age_s)
    first = playback.due(chunk, now_ns)
    rows, turned = checks.unwrap(chunk.joints, first, start[0])
    rows, clamped = checks.joint_margin(rows, limits, config.margin_rad)
    checks.jump(rows[first], start[0], measured, config.max_jump_rad)
    route = playback.path(chunk, rows)
    within = pace.envelope(limits, share, config.margin_rad, start[0])
    fitted = pace.fit(route, now_ns, start, within, config.max_horizon_s, pace.MAX_STRETCH / share)
    if fitted.trajectory is None:
        check = next((name for name in ("velocity", "acceleration") if name in fitted.causes), "position")
        what = ", ".join(sorted(fitted.causes)) or "the horizon"
        raise Refused(check, f"no pace down to 1/{pace.MAX_STRETCH:.0f} brings it within limits ({what})")
    changed = {"ramp" if cause == "velocity" and share < 1.0 else cause for cause in fitted.causes}
    changed |= {name for name, was in (("unwrap", turned), ("joint_margin", clamped)) if was}
    return Plan(fitted.trajectory, route, now_ns, fitted.stretch, frozenset(changed))
