"""What the guard cannot know: where a controller commands an arm that stands elsewhere, and that its clock was set."""

from __future__ import annotations

import numpy as np
import pytest
from support.guarded_arm import AHEAD, HOME, NS, TICK, GuardedArm, moving_arm, stream

from ecovla_ros.config import ControlConfig
from ecovla_ros.control.guard import Guard
from ecovla_ros.control.limits import load
from ecovla_ros.control.watch import GripperGate
from ecovla_ros.errors import ConfigError
from ecovla_ros.types import ArmState

STAY = np.zeros((16, 1))


def displaced(off: float) -> tuple[GuardedArm, np.ndarray]:
    """An arm that came to rest and was then pushed `off` rad away in half a second; where it stands."""
    arm = moving_arm(chunk_silence_s=0.42)
    arm.silent = True
    arm.run(1.5)
    away = np.zeros(7)
    away[3] = off
    for share in np.linspace(0.0, 1.0, 50):
        arm.report(away * share)
        arm.tick()
    return arm, arm.position + away


def ask(arm: GuardedArm, place: np.ndarray) -> tuple[bool, str]:
    """Reset, disable and enable, on an arm that stands at `place`; what the guard answers."""
    arm.guard.reset(arm.clock)
    arm.guard.enable(False, arm.clock)
    for _ in range(5):
        arm.report(place - arm.position)
        arm.tick()
    return arm.guard.enable(True, arm.clock)


def allow(arm: GuardedArm, place: np.ndarray) -> None:
    """As `ask`, which must succeed."""
    ok, why = ask(arm, place)
    assert ok, why


def follow(arm: GuardedArm, place: np.ndarray, seconds: float) -> None:
    """The arm stands at `place`, and the policy says: stay."""
    for k in range(round(seconds * NS / TICK)):
        if k % 10 == 0:
            arm.chunk(place + STAY, 0.1)
        arm.report(place - arm.position)
        arm.tick()


@pytest.mark.parametrize("holds", ["its last command", "where the arm stands"])
@pytest.mark.parametrize("off", [0.06, 0.15, 0.3])
def test_an_arm_away_from_its_last_command_is_enabled_slowly_whatever_its_controller_holds(
    off: float, holds: str
) -> None:
    arm, place = displaced(off)
    if holds == "where the arm stands":
        arm.plant.hold(place)
    begin = len(arm.speed)
    allow(arm, place)
    follow(arm, place, 0.2)
    assert arm.last is not None and "is brought from its last command" in arm.last.status.reason
    follow(arm, place, 14.0)
    speed = np.abs(np.array(arm.speed[begin:]))
    jump = np.abs(np.diff(np.array(arm.speed[begin:]), 2, axis=0)) * 1e6
    assert (speed <= arm.limits.ramp_start * arm.limits.velocity).all(), speed.max()
    assert (jump <= arm.limits.jerk).all(), jump.max()
    assert np.allclose(arm.position, place) and arm.last.status.state == "RUNNING"


def test_an_arm_near_its_last_command_goes_on_at_once() -> None:
    arm, place = displaced(0.03)
    allow(arm, place)
    sent = len(arm.sent)
    follow(arm, place, 0.2)
    assert arm.last is not None and len(arm.sent) == sent + 1 and arm.last.status.counters["clock"] == 0


def test_an_arm_that_a_simulator_put_elsewhere_starts_there_at_once() -> None:
    arm = moving_arm(chunk_silence_s=0.42)
    arm.run(1.5)
    assert not arm.guard.forget(arm.clock)[0]
    arm.guard.enable(False, arm.clock)
    place = arm.position + 0.4
    arm.plant.hold(place)
    assert arm.guard.forget(arm.clock)[0]
    allow(arm, place)
    sent = len(arm.sent)
    follow(arm, place, 0.2)
    assert len(arm.sent) > sent and np.abs(arm.speed[-1]).max() < 1e-9


def test_after_a_driver_may_have_been_started_anew_only_enable_goes_on() -> None:
    arm = moving_arm(chunk_silence_s=0.42)
    place = arm.position
    arm.plant.hold(place)  # the new driver starts where the arm is
    for _ in range(300):
        arm.guard.tick(arm.clock)  # what it sends reaches nobody
        arm.now += TICK
    begin = len(arm.speed)
    follow(arm, place, 1.0)
    assert arm.last is not None and arm.last.status.state == "HELD" and "call enable" in arm.last.status.reason
    assert arm.last.status.counters["state_lost"] == 1
    allow(arm, place)
    follow(arm, place, 12.0)
    speed = np.abs(np.array(arm.speed[begin + 1 :]))
    assert (speed <= arm.limits.ramp_start * arm.limits.velocity).all() and arm.last.status.state == "RUNNING"


@pytest.mark.parametrize("step_s", [-0.4, -0.02, -0.003, 0.003, 0.02, 0.1, 0.2, 0.48])
@pytest.mark.parametrize("phase_s", [0.0, 0.13, 0.3])
def test_a_clock_that_is_set_in_mid_motion_breaks_no_limit(step_s: float, phase_s: float) -> None:
    arm = GuardedArm(HOME, second_clock=True, chunk_silence_s=0.42)
    arm.arm()
    stream(arm, 2.4)
    if phase_s:
        arm.run(phase_s)
    arm.skew += round(step_s * NS)
    arm.run(0.01)
    assert arm.last is not None and arm.last.status.state == "HOLD" and "clock jumped" in arm.last.status.reason
    arm.run(0.5)
    stream(arm, 3.0)
    assert arm.last.status.counters["clock_jump"] == 1 and arm.last.status.state == "RUNNING"
    arm.assert_law()


def test_after_a_clock_set_back_the_ramp_begins_anew_and_ends() -> None:
    arm = moving_arm()
    arm.skew -= 60 * NS
    arm.run(1.5)
    stream(arm, 3.0)
    assert arm.last is not None and arm.last.status.state == "RUNNING"


def test_an_arm_within_the_margin_of_a_limit_may_leave_it_and_not_go_further() -> None:
    start = HOME.copy()
    start[3] = -2.49  # limit -2.57
    arm = GuardedArm(start, margin_rad=0.3)
    arm.arm()
    for _ in range(8):
        arm.chunk(arm.position + AHEAD * np.eye(7)[3] * -0.2)
        arm.run(0.4)
    assert arm.last is not None and arm.last.status.counters["jump"] == 0 and arm.position[3] >= -2.49 - 1e-6
    for _ in range(8):
        arm.chunk(arm.position + AHEAD * np.eye(7)[3] * 0.2)
        arm.run(0.4)
    assert arm.position[3] > -2.4
    arm.assert_law()


def test_a_hold_says_what_is_missing_now() -> None:
    arm = moving_arm(chunk_silence_s=0.42)
    arm.run(1.5)
    assert arm.last is not None and "silent" in arm.last.status.reason
    for _ in range(50):
        arm.tick()
    assert arm.last.status.state == "HOLD" and "joint state" in arm.last.status.reason


def test_a_hold_says_that_chunks_are_refused() -> None:
    arm = moving_arm(chunk_silence_s=0.42)
    for k in range(150):
        if k % 10 == 0:
            arm.chunk(arm.position + 0.5 + STAY, 0.1)
        arm.run(0.01)
    assert arm.last is not None
    reasons = arm.last.status.reason
    assert arm.last.status.state == "LATCHED" or "refused" in reasons


def test_states_from_the_future_are_named_when_enabling() -> None:
    arm = GuardedArm(HOME)
    for _ in range(5):
        arm.report(late_ns=-round(0.15 * NS))
        arm.tick()
    ok, why = arm.guard.enable(True, arm.clock)
    assert not ok and "0.150 s ahead" in why


def test_an_arm_too_far_from_its_last_command_is_not_enabled_until_that_is_forgotten() -> None:
    arm, place = displaced(1.2)
    ok, why = ask(arm, place)
    assert not ok and "1.20 rad from its last command" in why
    assert arm.guard.forget(arm.clock)[0] and arm.guard.enable(True, arm.clock)[0]


@pytest.mark.parametrize("wish", ["hold", "estop", "disable"])
def test_nothing_is_sent_after_a_wish_to_stand_that_comes_before_the_seat(wish: str) -> None:
    arm, place = displaced(0.15)
    allow(arm, place)
    {
        "hold": arm.guard.hold,
        "estop": lambda now: arm.guard.on_estop(True, now),
        "disable": lambda now: arm.guard.enable(False, now),
    }[wish](arm.clock)
    sent = len(arm.sent)
    follow(arm, place, 1.0)
    assert len(arm.sent) == sent


def test_a_seat_is_taken_only_by_an_arm_at_rest_within_its_limits() -> None:
    arm, place = displaced(0.15)
    allow(arm, place)
    sent = len(arm.sent)
    beyond = place.copy()
    beyond[3] = arm.limits.lower[3] - 0.1
    follow(arm, beyond, 0.3)
    assert arm.last is not None and len(arm.sent) == sent and arm.last.status.state == "LATCHED"


def test_states_that_stop_on_the_way_to_the_seat_are_told() -> None:
    arm, place = displaced(0.15)
    allow(arm, place)
    follow(arm, place, 0.2)
    for _ in range(30):
        arm.tick()
    assert arm.last is not None and arm.last.status.state == "HOLD" and "joint state" in arm.last.status.reason
    assert "is brought from its last command" in arm.last.status.reason


@pytest.mark.parametrize("step_s", [0.003, -0.3, 0.0])
def test_a_driver_that_was_gone_is_not_forgotten_over_a_clock_that_is_set_or_a_guard_that_was_stopped(
    step_s: float,
) -> None:
    arm = GuardedArm(HOME, second_clock=True, chunk_silence_s=0.42)
    arm.arm()
    stream(arm, 2.4)
    arm.run(1.0)
    place = arm.position + np.eye(7)[3] * 0.15
    arm.plant.hold(place)
    if step_s:
        for k in range(300):
            arm.guard.tick(arm.clock)
            arm.now += TICK
            arm.skew += round(step_s * NS) * (k == 60)
    else:
        arm.now += 3 * NS
    begin = len(arm.speed)
    follow(arm, place, 2.0)
    assert arm.last is not None and arm.last.status.state == "HELD" and "call enable" in arm.last.status.reason
    assert arm.last.status.counters["state_lost"] == 1 and not np.array(arm.speed[begin + 1 :]).any()


def test_a_margin_that_no_chunk_could_leave_is_refused() -> None:
    with pytest.raises(ConfigError, match="margin_rad"):
        Guard(ControlConfig(margin_rad=0.5, max_jump_rad=0.2), load("normal"))


def test_a_slowing_that_would_not_grow_towards_a_singularity_is_refused() -> None:
    with pytest.raises(ConfigError, match="singular_from"):
        Guard(ControlConfig(singular_from=30.0, singular_to=30.0), load("normal"))


def test_states_of_a_stopped_driver_are_no_place_to_start_from() -> None:
    """The first state after a long silence is fresh: that it follows a silence must not be forgotten."""
    guard = Guard(ControlConfig(stamp_commands="always"), load("normal"))
    now = 100 * NS
    for k in (0, 1, 300, 301):
        guard.on_joint_state(ArmState(now + k * TICK, HOME, np.zeros(7), 0.0), now + k * TICK)
        guard.tick(now + k * TICK)
    assert guard.enable(True, now + 302 * TICK)[0]


def test_a_gripper_command_that_did_nothing_is_sent_again_and_not_for_ever() -> None:
    gate = GripperGate()
    gate.start(0.0)
    sent = [k for k in range(1000) if gate.command(1.0, 0.0, k * TICK) is not None]
    assert sent == [0, 100, 200, 300]
    assert [gate.command(1.0, 0.0, 2000 * TICK), gate.command(0.0, 0.9, 2001 * TICK)] == [None, 0.0]
    moved = GripperGate()
    moved.start(0.0)
    assert [k for k in range(1000) if moved.command(1.0, min(0.1 * k, 0.9), k * TICK) is not None] == [0]
