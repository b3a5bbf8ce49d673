"""An arm that is commanded to move and does not: told from one that follows late, and left alone by the guard."""

from __future__ import annotations

import numpy as np
import pytest
from support.guarded_arm import AHEAD, HOME, NS, GuardedArm, moving_arm, stream, wave

from ecovla_ros.control.stall import SPAN_S, WAY_RAD, StallWatch
from ecovla_ros.control.trajectory import TrajectoryController

PERIOD_S, NOISE_RAD = 0.01, 3e-4


def watched(commanded: np.ndarray, measured: np.ndarray) -> list[int | None]:
    """What the watch says of rows that are `PERIOD_S` apart."""
    watch = StallWatch()
    said = [watch.see(c, m, round(k * PERIOD_S * NS)) for k, (c, m) in enumerate(zip(commanded, measured))]
    assert not any(stall.whole for stall in said if stall is not None), "some joint moved"
    return [None if stall is None else stall.joint for stall in said]


@pytest.mark.parametrize("lag_s", [0.0, 0.05, 0.2])
@pytest.mark.parametrize("speed, acceleration", [(0.02, 0.1), (0.3, 1.8), (1.2, 1.8)])
def test_an_arm_that_follows_late_and_noisily_never_stands(lag_s: float, speed: float, acceleration: float) -> None:
    rng = np.random.default_rng(0)
    motion = wave(HOME, speed, acceleration, rise_s=0.5)
    times = np.arange(0.0, 12.0, PERIOD_S)
    commanded = np.array([motion(max(t - 1.0, 0.0)) for t in times])
    measured = np.array([motion(max(t - 1.0 - lag_s, 0.0)) for t in times])
    said = watched(commanded, measured + rng.normal(0.0, NOISE_RAD, measured.shape))
    assert not [joint for joint in said if joint is not None]


def test_a_turn_counted_or_not_is_no_way() -> None:
    """A continuous joint is commanded beyond half a turn, and measured as within."""
    angle = np.zeros((500, 7))
    angle[:, 0] = np.linspace(2.5, 4.5, 500)
    wrapped = (angle + np.pi) % (2 * np.pi) - np.pi
    assert not [joint for joint in watched(angle, wrapped) if joint is not None]


@pytest.mark.parametrize("speed", [0.1, 0.3, 1.0])
def test_one_joint_that_stands_among_seven_is_named_in_time(speed: float) -> None:
    """Though what is commanded keeps near to it: it swings to and fro about the place where the joint stands."""
    rng = np.random.default_rng(1)
    times = np.arange(0.0, 8.0, PERIOD_S)
    swing = 0.03 * np.arcsin(np.sin(speed / 0.03 * times))  # a triangle of this speed
    commanded = HOME + swing[:, None] * np.ones(7)
    measured = commanded + rng.normal(0.0, NOISE_RAD, commanded.shape)
    stuck = times > 3.0
    measured[stuck, 4] = HOME[4] + rng.normal(0.0, NOISE_RAD, int(stuck.sum()))
    said = watched(commanded, measured)
    first = next(k for k, joint in enumerate(said) if joint is not None)
    assert said[first] == 4
    needed = max(SPAN_S[0], WAY_RAD / speed)
    assert needed - 0.2 <= times[first] - 3.0 <= needed + 0.2
    assert {joint for joint in said[: int(3.0 / PERIOD_S)]} == {None}


def test_a_deactivated_controller_ends_the_motion_until_somebody_enables_again() -> None:
    """It drops what it is sent, and says nothing of itself; chunks start from where the arm is, ten times a second."""
    arm = moving_arm()
    stream(arm, 1.0, 0.3)
    arm.plant = TrajectoryController(arm.position)
    hears, arm.plant.accept = arm.plant.accept, lambda *args, **more: None  # type: ignore[method-assign]
    arm.track.clear()
    arm.speed.clear()  # it stopped dead
    for _ in range(20):
        arm.chunk(arm.position + AHEAD * 0.3)
        status = arm.run(0.1).status
    assert status.state == "HELD" and status.counters["standing"] == 1 and "call enable" in status.reason
    arm.plant.accept = hears  # type: ignore[method-assign]
    begin, place = len(arm.sent), arm.position
    for _ in range(10):
        arm.chunk(arm.position + AHEAD * 0.3)
        arm.run(0.1)
    assert len(arm.sent) == begin and (arm.position == place).all(), "active again, nobody asked for motion"
    ok, why = arm.guard.enable(True, arm.clock)
    assert ok, why
    for _ in range(10):
        arm.chunk(arm.position + AHEAD * 0.3)
        arm.run(0.1)
    assert arm.last is not None and arm.last.status.state in ("ARMED", "RUNNING")
    assert np.abs(arm.position - place).max() > 0.05
    arm.assert_law()


@pytest.mark.parametrize("silent_s, state", [(0.6, "RUNNING"), (1.5, "HELD")])
def test_a_controller_that_was_silent_for_long_needs_an_enable(silent_s: float, state: str) -> None:
    arm = GuardedArm(HOME, stamp_commands="auto")
    arm.run(0.3)
    arm.arm()
    stream(arm, 3.0, 0.3)
    assert arm.last is not None and arm.last.status.state == "RUNNING"
    arm.silent = True
    stream(arm, silent_s, 0.3)
    arm.silent = False
    stream(arm, 2.0, 0.3)
    assert arm.last.status.state == state, arm.last.status.reason
    arm.assert_law()
