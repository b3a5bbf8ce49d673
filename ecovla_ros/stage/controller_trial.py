"""The part of `ecovla trial` that strikes at the controller: restarted, frozen, deactivated or switched in mid-motion.

Judged is what the controller commands, cycle by cycle: it comes to rest, stays there until the guard is enabled again,
and nothing it is told is outside limits, before and after. What the controller itself does when it is struck (it stops
dead when it is deactivated, and makes up for the time it stood still when it was frozen) is told, not judged: nobody in
front of a controller can help there. `cut_rad` is the largest step of one cycle, `leap_rad` the way in all.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ecovla_ros.control.limits import Limits, load
from ecovla_ros.errors import EcovlaError
from ecovla_ros.stage.controller_stage import PROFILE, ControllerStage
from ecovla_ros.stage.mock_arm import StateTrace

WAYS = ("restarted", "deactivated", "switched", "frozen")
KINDS = ("own", "ros2_control")
"""Whose controller it is: ours, or the real one."""
MOVE_RAD_S, STILL_RAD_S, REST_S = 0.15, 1e-4, 0.8
"""In motion; at rest; what is asked for: at rest within, s."""
MOTION_S, STRUCK_S, AFTER_S, AGAIN_S = 20.0, 1.6, 1.6, 1.0
"""Motion must come within the first, s; the controller is away for the second; the third is watched, at rest; in the
fourth the guard drives again."""
LATER_S = 0.23
"""Each repetition strikes so much later, s."""
CUT_S = 0.03
"""A strike is between so long before and after the moment of it, s: it is asked for over ROS."""
LEAP_S = 0.3
"""A controller that was frozen makes up for it within this time, s; its own limiter makes many cycles of it."""
GAP_S, CYCLE_S = 0.05, 1e-3
"""Rows further apart are two spans: messages were lost, or nothing was commanded between, s."""
ROUNDING, STEP_ROUNDING = 1e-6, 1e-9


def strike(how: str, seed: int, out: Path, prefix: Path | None) -> dict[str, Any]:
    """One trial: drive, strike, look, enable again, drive. Raises EcovlaError when it cannot be carried out."""
    with ControllerStage(out, prefix) as stage:
        stage.begin()
        stage.recorded.begin()
        try:
            stage.driver.until(lambda: stage.recorded.speed() > MOVE_RAD_S, MOTION_S, "motion")
        except EcovlaError as error:
            raise EcovlaError(f"{error}; the guard says {stage.says}") from error
        stage.driver.spin(LATER_S * seed, lambda: True)
        speed = stage.recorded.speed()
        moments = [time.time()]
        _away(stage, how)
        moments.append(time.time())
        stage.driver.spin(STRUCK_S, lambda: True)
        said = stage.says
        moments.append(time.time())
        _back(stage, how)
        moments.append(time.time())
        stage.driver.spin(AFTER_S, lambda: True)
        quiet = time.time()
        again = _drives_again(stage)
        stage.driver.enable(False)
        stage.driver.spin(REST_S, lambda: True)
        trace = stage.arm.trace()
    leapt_s = moments[3] + (LEAP_S if how == "frozen" else 0.0)
    broken, step, cut_rad = judged(trace, load(PROFILE), [(moments[0], moments[1]), (moments[2], leapt_s)])
    rest_s = rest(trace, (moments[0], moments[2], quiet))
    calm = rest_s <= REST_S and again and not broken
    return {
        "trial": f"controller {how}", "seed": seed, "controller": KINDS[prefix is not None],
        "speed_rad_s": speed, "rest_s": rest_s, "violations": broken, "acceleration_rad_s2": step, "cut_rad": cut_rad,
        "leap_rad": leap(trace, (moments[2], leapt_s)),
        "drove_again": again, "guard": said, "cycles": len(trace.times_s), "reached": calm,
    }  # fmt: skip


def _drives_again(stage: ControllerStage) -> bool:
    """Whether the arm is driven as before, once the guard is enabled anew."""
    stage.drive()
    stage.recorded.begin()
    try:
        stage.driver.until(lambda: stage.recorded.speed() > MOVE_RAD_S, MOTION_S, "motion")
    except EcovlaError:
        return False
    stage.driver.spin(AGAIN_S, lambda: True)
    return True


def _away(stage: ControllerStage, how: str) -> None:
    if how == "restarted":
        stage.arm.kill()
    elif how == "frozen":
        stage.arm.freeze(True)
    elif how == "deactivated":
        stage.arm.activate(False)
    else:
        stage.arm.switch(True)


def _back(stage: ControllerStage, how: str) -> None:
    if how == "restarted":
        stage.arm.start(stage.place)
    elif how == "frozen":
        stage.arm.freeze(False)
    elif how == "deactivated":
        stage.arm.activate(True)
    else:
        stage.arm.switch(False)


def rest(trace: StateTrace, times_s: tuple[float, float, float]) -> float:
    """How long the arm moved after it was struck, or after its controller was back, whichever is longer, s.

    `times_s`: struck, back, looked at until then.
    """
    struck_s, back_s, quiet_s = times_s
    passed = np.diff(trace.times_s, prepend=trace.times_s[:1])
    steps = np.abs(np.diff(trace.positions, axis=0, prepend=trace.positions[:1])).max(axis=1)
    walks = steps > STILL_RAD_S * np.maximum(passed, CYCLE_S) + STEP_ROUNDING  # a limiter moves what says it stands
    moving = trace.times_s[(np.abs(trace.velocities).max(axis=1) > STILL_RAD_S) | walks]
    spans = ((struck_s, back_s), (back_s, quiet_s))
    lasted = [moving[(moving > begin) & (moving < end)].max(initial=begin) - begin for begin, end in spans]
    return float(max(lasted))


def leap(trace: StateTrace, strike_s: tuple[float, float]) -> float:
    """How far the controller went on its own when it came back, rad: from its last command before it to the end."""
    begin_s, end_s = strike_s
    rows = np.flatnonzero((trace.times_s > begin_s - CUT_S) & (trace.times_s < end_s + CUT_S))
    if not len(rows):
        return 0.0
    within = trace.positions[max(rows[0] - 1, 0) : rows[-1] + 1]
    return float(np.ptp(within, axis=0).max())


def judged(trace: StateTrace, limits: Limits, strikes: Sequence[tuple[float, float]]) -> tuple[list[str], float, float]:
    """Limits that were broken, the largest acceleration, rad/s^2, and the largest step of a strike, rad."""
    broken: set[str] = set()
    most = cut = 0.0
    one = 1.0 + ROUNDING
    for rows, struck in _spans(trace.times_s, strikes):
        place, speed = trace.positions[rows], trace.velocities[rows]
        steps = np.abs(np.diff(place, axis=0))
        if struck:
            cut = max(cut, float(steps.max(initial=0.0)))
            continue
        if not (np.isfinite(place).all() and np.isfinite(speed).all()):
            broken.add("finite")
        if (place < limits.lower - 1e-9).any() or (place > limits.upper + 1e-9).any():
            broken.add("position")
        if (np.abs(speed) > limits.velocity * one).any():
            broken.add("velocity")
        passed = np.diff(trace.times_s[rows])[:, None] + CYCLE_S  # a row is of its cycle, stamped within it
        if (steps > limits.velocity * passed * one + ROUNDING).any():
            broken.add("step")
        told = trace.accelerations
        acceleration = np.abs(np.diff(speed, axis=0) / CYCLE_S) if told is None else np.abs(told[rows])
        if (acceleration > limits.acceleration * one + 1e-3).any():
            broken.add("acceleration")
        most = max(most, float(acceleration.max(initial=0.0)))
    return sorted(broken), most, cut


def _spans(times_s: np.ndarray, strikes: Sequence[tuple[float, float]]) -> Iterator[tuple[slice, bool]]:
    """Rows that belong together, and whether they are of a strike."""
    struck = np.zeros(len(times_s), bool)
    for begin, end in strikes:
        struck |= (times_s > begin - CUT_S) & (times_s < end + CUT_S)
    breaks = np.flatnonzero((np.diff(times_s) > GAP_S) | (np.diff(struck.astype(int)) != 0)) + 1
    for rows in np.split(np.arange(len(times_s)), breaks):
        if len(rows):
            first = int(rows[0])
            widened = max(first - 1, 0) if struck[first] else first  # the step into it is the strike's
            yield slice(widened, int(rows[-1]) + 1 + int(struck[first])), bool(struck[first])
