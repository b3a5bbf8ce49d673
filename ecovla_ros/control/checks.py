"""What a chunk must be before it may move the arm: one function a check, in the order in which the guard asks.

A check returns what the next one needs or raises `Refused` with its own name, by which the guard counts it. Velocity,
acceleration, jerk and tool speed are the business of `pace`: they slow a chunk before they refuse it. Box and
singularity are in `tool`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ecovla_ros.config import ControlConfig
from ecovla_ros.control.limits import Limits
from ecovla_ros.control.playback import NS, due
from ecovla_ros.errors import ConfigError, ControlError
from ecovla_ros.types import CONTINUOUS, JOINTS, ActionChunk, Floats
from ecovla_ros.wire import causes

ORDER = (
    "finite", "shape", "age", "order", "enabled", "clock", "unwrap", "joint_margin", "jump", "box", "singularity",
    "ramp", "late", "velocity", "acceleration", "jerk", "tool_speed", "position", "controller",
)  # fmt: skip
"""Names of the checks of a chunk. From finite to clock, jump and controller count chunks they refused. The others count
chunks they changed; box, velocity, acceleration, jerk, tool_speed and position also those they refused."""

FUTURE_S = 0.02
"""A chunk may be this much younger than now: clocks of two machines differ."""
PERIOD_S = (0.005, 1.0)
"""Valid period of a chunk, s."""
MAX_ROWS = 500
MAX_ANGLE = 100.0
"""No joint target of this arm is larger, rad."""

_TURNING = np.array(CONTINUOUS)


class Refused(ControlError):
    """A chunk that must not reach the arm, and the check that says so."""

    def __init__(self, check: str, message: str) -> None:
        super().__init__(message)
        self.check = check


def finite(chunk: ActionChunk) -> ActionChunk:
    """The chunk with float arrays. Refuses what is not a number, NaN, infinity and angles no joint has."""
    joints, gripper = _array(chunk.joints, "joints"), _array(chunk.gripper, "gripper")
    period = _array(chunk.period_s, "period_s")
    stamp = chunk.stamp_ns
    if isinstance(stamp, bool) or not isinstance(stamp, (int, np.integer)) or not 0 <= stamp < 2**63:
        raise Refused("finite", f"stamp_ns {stamp!r} is not a time in nanoseconds")
    for name, values in (("joints", joints), ("gripper", gripper), ("period_s", period)):
        if not np.isfinite(values).all():
            raise Refused("finite", f"{name} holds NaN or infinity")
    if joints.size and np.abs(joints).max() > MAX_ANGLE:
        raise Refused("finite", f"joint target {np.abs(joints).max():.3g} rad; valid: radians up to {MAX_ANGLE}")
    if period.ndim:
        raise Refused("shape", f"period_s has shape {period.shape}; valid: one number")
    return ActionChunk(int(stamp), float(period), joints, np.clip(gripper, 0.0, 1.0))


def shape(chunk: ActionChunk) -> None:
    """Refuses a chunk that is not (H, 7) joints and (H,) gripper with a period of 5 ms to 1 s."""
    rows = chunk.joints.shape[0] if chunk.joints.ndim else 0
    if not 1 <= rows <= MAX_ROWS or chunk.joints.shape != (rows, len(JOINTS)) or chunk.gripper.shape != (rows,):
        raise Refused(
            "shape",
            f"joints {chunk.joints.shape} and gripper {chunk.gripper.shape}; valid: (H, {len(JOINTS)}) and (H,) with "
            f"H from 1 to {MAX_ROWS}",
        )
    if not PERIOD_S[0] <= chunk.period_s <= PERIOD_S[1]:
        raise Refused("shape", f"period {chunk.period_s:.4g} s; valid: {PERIOD_S[0]} to {PERIOD_S[1]}")


def age(chunk: ActionChunk, now_ns: int, limit_s: float) -> None:
    """Refuses an observation older than `limit_s` or from the future, and a chunk with no row still due."""
    elapsed = (now_ns - chunk.stamp_ns) / NS
    if elapsed < -FUTURE_S:
        raise Refused("age", causes.future("its observation", -elapsed))
    if elapsed > limit_s:
        raise Refused("age", f"its observation is {elapsed:.3f} s old; at most {limit_s} s is valid")
    if due(chunk, now_ns) >= chunk.horizon:
        raise Refused("age", f"all its {chunk.horizon} rows were due before now, {elapsed:.3f} s after the observation")


def order(chunk: ActionChunk, newest_ns: int | None) -> None:
    """Refuses a duplicate, and a chunk that was overtaken by a newer one."""
    if newest_ns is not None and chunk.stamp_ns <= newest_ns:
        late = (newest_ns - chunk.stamp_ns) / NS
        raise Refused("order", f"its observation is not newer than the last one's ({late:.3f} s before it)")


def unwrap(rows: Floats, first: int, commanded: Floats) -> tuple[Floats, bool]:
    """Rows (H, 7) without a turn between them and with row `first` nearest to `commanded` (7,); whether any changed.

    Continuous joints are reported, and so learned, in [-pi, pi]: a step over the seam would be a turn of the arm.
    """
    unwrapped = np.unwrap(rows, axis=0)
    turns = np.round((commanded - unwrapped[first]) / math.tau) * math.tau
    result = np.where(_TURNING, unwrapped + turns, rows)
    return result, bool((np.abs(result - rows) > 1e-6).any())


def margin(config: ControlConfig) -> None:
    """Raises ConfigError for a margin that sends an arm within it further than a chunk may begin from where it is."""
    if config.margin_rad / 2.0 > config.max_jump_rad:
        raise ConfigError(
            f"control.margin_rad {config.margin_rad} with max_jump_rad {config.max_jump_rad}; valid: at most twice that"
        )


def window(config: ControlConfig) -> None:
    """Raises ConfigError where a trajectory would repeat what runs for most of its time."""
    if config.start_window_s > config.max_horizon_s / 2.0:
        raise ConfigError(
            f"control.start_window_s {config.start_window_s} with max_horizon_s {config.max_horizon_s}; valid: half it"
        )


def joint_margin(rows: Floats, limits: Limits, margin_rad: float, commanded: Floats) -> tuple[Floats, bool]:
    """Rows (H, 7) clamped to `margin_rad` inside the position limits; whether any was outside.

    Clamping bends the path, but only where it would end in a limit: the other joints go on, as near an obstacle. An arm
    that stands in the nearer half of a margin, at `commanded` (7,), may stay and come back, but not go further.
    """
    lower, upper = limits.lower + margin_rad, limits.upper - margin_rad
    lower = np.where(commanded < lower - margin_rad / 2.0, np.maximum(commanded, limits.lower), lower)
    upper = np.where(commanded > upper + margin_rad / 2.0, np.minimum(commanded, limits.upper), upper)
    clamped = np.clip(rows, lower, upper)
    return clamped, bool((clamped != rows).any())


def jump(target: Floats, commanded: Floats, measured: Floats, limit_rad: float) -> None:
    """Refuses a first due row (7,) that is further than `limit_rad` from where the arm is commanded or measured."""
    for what, position in (("commanded", commanded), ("measured", measured)):
        off = np.abs(distance(target, position))
        worst = int(off.argmax())
        if off[worst] > limit_rad:
            raise Refused(
                "jump",
                f"{JOINTS[worst]} would jump {off[worst]:.3f} rad from its {what} position; at most {limit_rad} rad",
            )


def distance(to: Floats, start: Floats) -> Floats:
    """`to` minus `start`, rad, the short way round for continuous joints."""
    off = to - start
    return np.where(_TURNING, off - np.round(off / math.tau) * math.tau, off)


def _array(values: Any, name: str) -> Floats:
    try:
        array = np.asarray(values)
    except ValueError:
        raise Refused("finite", f"{name} is not an array of numbers") from None
    if array.dtype.kind not in "fiu":
        raise Refused("finite", f"{name} is not an array of numbers but of {array.dtype}")
    return array.astype(float)
