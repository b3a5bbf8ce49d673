"""What the guard refuses, by the name of the check, and what latches it."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np
import pytest
from support.guarded_arm import AHEAD, HOME, MS, NS, GuardedArm, moving_arm, stream

from ecovla_ros.control import pace
from ecovla_ros.control.limits import Limits
from ecovla_ros.types import ActionChunk, ArmState


def latch(arm: GuardedArm, cause: str) -> None:
    if cause == "e-stop":
        arm.guard.on_estop(True, arm.clock)
    elif cause == "the joint state holds NaN":
        arm.guard.on_joint_state(ArmState(arm.clock, np.full(7, np.nan), np.zeros(7), 0.0), arm.clock)
    elif cause == "the policy is broken":
        arm.chunk(np.full((16, 7), np.inf))
    elif cause == "do not start where the arm is":
        for _ in range(3):
            arm.chunk(np.tile(arm.position + 0.5, (16, 1)))
            arm.run(0.5)
    else:
        for _ in range(4):
            arm.report(np.array([0.0, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0]))
            arm.tick()
    arm.run(0.02)


@pytest.mark.parametrize(
    "cause",
    [
        "e-stop", "the joint state holds NaN", "the policy is broken", "do not start where the arm is",
        "joint_2 is 0.500 rad from where it is commanded",
    ],
)  # fmt: skip
def test_every_latch_says_why_and_only_reset_and_enable_lead_out(cause: str) -> None:
    arm = moving_arm()
    latch(arm, cause)
    assert arm.last is not None
    assert arm.last.status.state == "LATCHED" and cause in arm.last.status.reason
    arm.run(1.0)
    sent = len(arm.sent)
    for _ in range(3):
        arm.chunk(arm.position + AHEAD * 0.1)
        ok, why = arm.guard.enable(True, arm.clock)
        assert not ok and cause in why
        arm.guard.hold(arm.clock)
        arm.guard.enable(False, arm.clock)
        arm.run(0.4)
    assert len(arm.sent) == sent and arm.last.status.state == "LATCHED"
    if cause == "e-stop":
        assert arm.guard.reset(arm.clock) == (False, "release the e-stop first")
        arm.guard.on_estop(False, arm.clock)
    assert arm.guard.reset(arm.clock)[0]
    arm.chunk(arm.position + AHEAD * 0.1)
    arm.run(0.4)
    assert len(arm.sent) == sent and arm.last.status.state == "DISARMED"
    arm.arm()
    stream(arm, 0.8)
    assert len(arm.sent) > sent
    arm.assert_law()


def test_enabling_is_refused_with_the_reason() -> None:
    arm = GuardedArm(HOME)
    assert "no joint state yet" in arm.guard.enable(True, arm.clock)[1]
    arm.report()
    assert "two joint states" in arm.guard.enable(True, arm.clock)[1]
    arm.report(0.3)
    assert "differ by 0.300 rad" in arm.guard.enable(True, arm.clock)[1]
    arm.run(0.3)
    arm.run(0.3, report=False)
    assert "s old; at most 0.1" in arm.guard.enable(True, arm.clock)[1]
    moving = moving_arm()
    moving.guard.hold(moving.clock)
    assert "the arm moves" in moving.guard.enable(True, moving.clock)[1]
    outside = HOME.copy()
    outside[3] = 2.6
    arm = GuardedArm(outside)
    arm.run(0.03)
    assert "joint_4 stands at 2.600 rad, outside its limits" in arm.guard.enable(True, arm.clock)[1]


GOOD = ActionChunk(NS, 0.1, np.zeros((16, 7)), np.zeros(16))


@pytest.mark.parametrize(
    ("name", "change", "match"),
    [
        ("finite", {"joints": np.full((16, 7), np.nan)}, "joints holds NaN"),
        ("finite", {"gripper": np.full(16, np.inf)}, "gripper holds NaN"),
        ("finite", {"joints": np.full((16, 7), 180.0)}, "180 rad; valid: radians"),
        ("finite", {"period_s": float("nan")}, "period_s holds NaN"),
        ("finite", {"stamp_ns": 1.5}, "stamp_ns 1.5 is not a time"),
        ("finite", {"joints": "home"}, "joints is not an array of numbers"),
        ("shape", {"joints": np.zeros((16, 6))}, r"joints \(16, 6\)"),
        ("shape", {"gripper": np.zeros(15)}, r"gripper \(15,\)"),
        ("shape", {"joints": np.zeros((0, 7)), "gripper": np.zeros(0)}, "H from 1 to 500"),
        ("shape", {"period_s": 0.0}, "period 0 s; valid: 0.005 to 1.0"),
        ("age", {"stamp_ns": NS + 600_000_000}, "0.500 s in the future"),
        ("age", {"stamp_ns": NS // 2}, "0.600 s old; at most 0.5"),
        ("age", {"period_s": 0.005}, "all its 16 rows were due"),
        ("order", {"stamp_ns": NS - 1}, "not newer"),
        ("enabled", {}, "DISARMED: disabled"),
    ],
)
def test_a_check_refuses_what_it_is_for_and_is_counted_alone(name: str, change: dict[str, Any], match: str) -> None:
    guard, now = GuardedArm(HOME).guard, GOOD.stamp_ns + 100 * MS
    guard.enable(False, now)
    if name == "order":
        guard.on_chunk(GOOD, now)
    before = guard.tick(now).status
    guard.on_chunk(dataclasses.replace(GOOD, **change), now)
    status = guard.tick(now).status
    changed = {key for key, value in status.counters.items() if value != before.counters[key]}
    assert changed - {"clock_still"} == {name}
    assert status.refusals == before.refusals + 1
    assert status.refusal.startswith(f"{name}: ") and re.search(match, status.refusal)


def test_a_single_jump_is_refused_and_the_next_good_chunk_goes_on() -> None:
    arm = moving_arm()
    for _ in range(4):
        arm.chunk(np.tile(arm.position + 0.3, (16, 1)), age_s=0.12)
        arm.run(0.1)
        assert arm.last is not None and arm.last.status.state != "LATCHED"
        stream(arm, 0.4, 0.1, 0.4)
    assert arm.last is not None and arm.last.status.counters["jump"] == 4
    arm.assert_law()


def test_a_chunk_that_grew_too_old_before_its_turn_came_is_refused() -> None:
    arm = moving_arm(replan_s=0.4, chunk_age_s=0.3)
    arm.chunk(np.tile(arm.position, (16, 1)), 0.0)
    arm.run(0.02)
    before = arm.last.status.counters["age"] if arm.last else 0
    arm.chunk(np.tile(arm.position, (16, 1)), 0.01)  # fresh now, but another runs for 0.4 s
    arm.run(0.1)
    assert arm.last is not None and arm.last.status.counters["age"] == before, "it waits"
    arm.run(0.4)
    assert arm.last.status.counters["age"] == before + 1 and "observation is" in arm.last.status.refusal


@pytest.mark.parametrize("margin_rad", [0.05, 0.3])
def test_a_curve_may_use_half_the_margin_of_a_position_limit_and_no_more(
    margin_rad: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows end at the margin; what joins them from a motion towards the limit may go on by half of it."""
    asked: list[float] = []
    envelope = pace.envelope

    def listening(limits: Limits, share: float, kept: float, *more: Any) -> pace.Envelope:
        asked.append(kept)
        return envelope(limits, share, kept, *more)

    monkeypatch.setattr("ecovla_ros.control.admission.pace.envelope", listening)
    start = np.array([0.0, 1.2, 3.0, -1.6, 0.0, 1.0, 1.57])
    arm = GuardedArm(start, margin_rad=margin_rad, max_jump_rad=1.0)
    arm.arm()
    for _ in range(12):
        arm.chunk(arm.position + np.outer(AHEAD[:, 0], [0, 0.6, 0, 0, 0, 0.6, 0]))
        arm.run(0.4)
    assert asked and set(asked) == {margin_rad / 2.0}
    highest = np.array(arm.track).max(axis=0)
    for joint in (1, 5):
        assert arm.limits.upper[joint] - margin_rad - 0.02 < highest[joint]
        assert highest[joint] <= arm.limits.upper[joint] - margin_rad / 2.0 + 1e-9
