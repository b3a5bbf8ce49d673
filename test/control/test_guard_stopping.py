"""How the guard stops the arm: smoothly, once, for a reason, and when it goes on."""

from __future__ import annotations

import numpy as np
import pytest
from support.guarded_arm import AHEAD, NS, jump_clock, moving_arm, rest_within, stream

from ecovla_ros.types import ArmState


def test_a_dead_policy_leaves_the_arm_at_rest_within_the_horizon() -> None:
    arm = moving_arm()
    arm.chunk(arm.position + np.outer(AHEAD[:, 0], arm.speed[-1]))
    arm.tick()
    rest_within(arm, arm.config.max_horizon_s)
    arm.run(0.1)
    assert arm.last is not None and arm.last.status.state == "HOLD" and "no new chunk" in arm.last.status.reason
    sent = len(arm.sent)
    arm.run(1.0)
    assert len(arm.sent) == sent
    stream(arm, 0.8)
    assert arm.last.status.state == "RUNNING"


def test_a_dead_guard_leaves_the_arm_at_rest_within_the_horizon() -> None:
    arm = moving_arm()
    end = arm.plant.sample(arm.now + round(arm.config.max_horizon_s * NS))
    assert not end[1].any()


@pytest.mark.parametrize("wait_s", [0.01, 0.2, 0.38])
def test_a_silent_policy_is_not_waited_for(wait_s: float) -> None:
    """Its last chunk may still be waiting for its turn: the arm is at rest 0.8 s after it came all the same."""
    arm = moving_arm(chunk_silence_s=0.42)
    arm.chunk(arm.position + np.outer(AHEAD[:, 0], arm.speed[-1]))
    arm.run(wait_s)
    arm.chunk(arm.position + np.outer(AHEAD[:, 0], arm.speed[-1]))
    arm.run(0.5)
    assert arm.last is not None and arm.last.status.state == "HOLD" and "is silent" in arm.last.status.reason
    assert arm.last.status.counters["silence"] == 1
    rest_within(arm, 0.3)
    stream(arm, 0.8)
    assert arm.last.status.state in ("RUNNING", "DEGRADED")


@pytest.mark.parametrize("cause", ["hold", "disable", "estop", "nan state", "nan chunk", "stale state"])
def test_every_way_to_stop_is_smooth_short_and_then_silent(cause: str) -> None:
    arm = moving_arm()
    arm.chunk(arm.position + np.outer(AHEAD[:, 0], arm.speed[-1]))
    arm.run(0.1)
    sent, guard, now = len(arm.sent), arm.guard, arm.clock
    if cause == "hold":
        guard.hold(now)
    elif cause == "disable":
        guard.enable(False, now)
    elif cause == "estop":
        guard.on_estop(True, now)
    elif cause == "nan state":
        guard.on_joint_state(ArmState(now, np.full(7, np.nan), np.zeros(7), 0.0), now)
    elif cause == "nan chunk":
        arm.chunk(np.full((16, 7), np.nan))
    arm.run(0.15 if cause == "stale state" else 0.02, report=False)
    assert len(arm.sent) == sent + 1
    rest_within(arm, 0.4)
    arm.run(0.5)
    assert len(arm.sent) == sent + 1 and arm.last is not None
    expected = {"hold": "HELD", "stale state": "HOLD", "disable": "DISARMED"}.get(cause, "LATCHED")
    assert arm.last.status.state == expected


def test_after_hold_only_enable_goes_on() -> None:
    arm = moving_arm()
    arm.guard.hold(arm.clock)
    stream(arm, 0.8)
    assert arm.last is not None and arm.last.status.state == "HELD" and not arm.speed[-1].any()
    arm.arm()
    stream(arm, 0.8)
    assert arm.last.status.state == "ARMED"


def test_fresh_joint_states_end_a_hold_for_stale_ones() -> None:
    arm = moving_arm()
    arm.run(0.5, report=False)
    assert arm.last is not None and arm.last.status.state == "HOLD" and "joint state is" in arm.last.status.reason
    stream(arm, 0.4)
    assert arm.last.status.state == "RUNNING"


@pytest.mark.parametrize("jump_s", [-30.0, -0.3, 2.0])
def test_a_clock_jump_holds_in_silence_until_the_arm_rests(jump_s: float) -> None:
    arm = moving_arm()
    arm.chunk(arm.position + np.outer(AHEAD[:, 0], arm.speed[-1]))
    arm.tick()
    sent = len(arm.sent)
    jump_clock(arm, jump_s)
    assert arm.last is not None and arm.last.status.state == "HOLD" and "clock jumped" in arm.last.status.reason
    while arm.speed[-1].any():
        arm.chunk(arm.position + AHEAD * 0.1)
        arm.run(0.1)
        assert len(arm.sent) == sent or not arm.speed[-1].any()
    assert arm.last.status.counters["clock"] > 0
    stream(arm, 0.8)
    assert arm.last.status.state in ("ARMED", "RUNNING")
    arm.assert_law()


def test_nothing_is_sent_while_the_clock_stands() -> None:
    """The arm goes on while the guard's time does not: a motion from where it is taken to be would be a step."""
    arm = moving_arm()
    arm.run(0.3)
    stood = arm.clock
    for _ in range(20):
        arm.skew = stood - arm.now
        arm.chunk(arm.position + np.outer(AHEAD[:, 0], arm.speed[-1]), age_s=-0.001 * len(arm.speed) % 0.01)
        sent = len(arm.sent)
        arm.tick()
    assert len(arm.sent) == sent and arm.last is not None and arm.last.status.counters["clock_still"] >= 18
    arm.skew = 0
    arm.run(0.5)
    arm.assert_law()


@pytest.mark.parametrize("lost_s", [0.05, 0.15, 0.19])
def test_a_clock_that_lost_time_while_it_stood_is_one_that_jumped(lost_s: float) -> None:
    """Set back unseen: it goes on forward, and yet the arm is further than the clock says."""
    arm = moving_arm()
    arm.chunk(arm.position + np.outer(AHEAD[:, 0], arm.speed[-1]))
    arm.run(0.3)
    stood = arm.clock
    for _ in range(20):
        arm.skew = stood - arm.now
        arm.tick()
    arm.skew = -round(lost_s * 1e9)
    sent = len(arm.sent)
    arm.tick()
    assert arm.last is not None and arm.last.status.state == "HOLD" and "clock jumped" in arm.last.status.reason
    assert "after it stood still for 0.2 s" in arm.last.status.reason, (
        "a step of 0.01 s alone would tell nobody what is wrong"
    )
    arm.guard.hold(arm.clock)
    arm.run(0.8)
    assert len(arm.sent) == sent and not arm.speed[-1].any()
    arm.assert_law()
