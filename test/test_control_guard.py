"""The guard's law: whatever comes in, in any order, the arm stays within limits, and the guard never raises."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np
import pytest
from guarded_arm import MS, NS, START, GuardedArm, wave
from hypothesis import given, settings
from hypothesis import strategies as st

from ecovla_ros.types import ActionChunk, ArmState

HOME = np.array([0.3, 0.26, 3.0, -2.0, 0.4, 0.95, 1.57])
EDGE = np.array([3.1, 2.17, -3.1, -2.5, 0.0, 2.03, 0.0])
FUTURE_ROWS = np.arange(1, 17)[:, None] * 0.1


def stream(arm: GuardedArm, seconds: float, speed: float = 0.5, acceleration: float = 1.8) -> None:
    """A policy that follows a smooth motion from where the arm is, 0.12 s of age, every 0.4 s."""
    motion, begin = wave(arm.position, speed, acceleration, rise_s=2.0), arm.now
    while arm.now - begin < seconds * NS:
        observed = (arm.now - begin) / NS - 0.12
        arm.chunk(np.array([motion(observed + (i + 1) * 0.1) for i in range(16)]), 0.12)
        arm.run(0.4)


def moving_arm(**settings_: float) -> GuardedArm:
    arm = GuardedArm(HOME, **settings_)
    arm.arm()
    stream(arm, 2.4)
    assert arm.last is not None and arm.last.status.state == "RUNNING" and np.abs(arm.speed[-1]).max() > 0.2
    return arm


def rest_within(arm: GuardedArm, seconds: float) -> None:
    arm.run(seconds)
    assert not arm.speed[-1].any()
    arm.assert_law()


# -- the law --------------------------------------------------------------------------------------------------------

ROWS = ("smooth", "smooth", "sine", "noisy", "toward_limit", "far", "jump", "wild", "wrapped", "nan", "huge", "bad")


def rows(arm: GuardedArm, kind: str, rng: np.random.Generator) -> Any:
    here, n = arm.position, int(rng.choice([1, 2, 16, 40]))
    ahead = np.arange(1, n + 1)[:, None] * 0.1
    line = here + ahead * rng.uniform(-0.6, 0.6, 7)
    if kind == "sine":
        rate = rng.uniform(0.5, 4.0, 7)
        return here + rng.uniform(0.0, 0.6, 7) / rate * np.sin(rate * ahead)
    if kind == "noisy":
        return line + rng.normal(0.0, 0.02, (n, 7))
    if kind == "toward_limit":
        return here + ahead * rng.choice([-1.0, 1.0], 7) * rng.uniform(0.0, 2.0)
    if kind in ("far", "jump"):
        return np.tile(here + rng.uniform(-1.0, 1.0, 7) * (0.19 if kind == "far" else 1.0), (n, 1))
    if kind == "wild":
        return here + rng.uniform(-3.0, 3.0, (n, 7)) * rng.choice([0.05, 0.2, 1.0])
    if kind == "wrapped":
        return (line + np.pi) % (2 * np.pi) - np.pi
    if kind == "nan":
        return np.where(rng.random((n, 7)) < 0.2, rng.choice([np.nan, np.inf, -np.inf]), line)
    if kind == "huge":
        return line * rng.choice([50.0, 1e6, 1e300])
    if kind == "bad":
        odd = [None, "x", np.zeros(7), np.zeros((n, 6)), np.zeros((0, 7)), [[1.0], [1.0, 2.0]], np.zeros((n, 7), bool)]
        return odd[int(rng.integers(len(odd)))]
    return line


def send(arm: GuardedArm, kind: str, age_s: float, period_s: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    targets = rows(arm, kind, rng)
    gripper = rng.uniform(-0.5, 1.5, len(targets) if hasattr(targets, "__len__") else 1)
    arm.guard.on_chunk(ActionChunk(arm.clock - round(age_s * NS), period_s, targets, gripper), arm.clock)


def arm_again(arm: GuardedArm) -> None:
    for _ in range(12):
        arm.run(0.1)
        arm.guard.reset(arm.clock)
        if arm.guard.enable(True, arm.clock)[0]:
            return


def misreport(arm: GuardedArm, kind: str, seed: int) -> None:
    offset = np.random.default_rng(seed).uniform(-3.0, 3.0, 7)
    if kind == "outlier":
        arm.report(offset)
        arm.tick()
        arm.report()
    elif kind == "displaced":
        for _ in range(4):
            arm.report(offset)
            arm.tick()
        arm.run(0.02)
    elif kind == "future":
        arm.report(0.0, late_ns=-NS)
    else:
        values: Any = {"nan": np.full(7, np.nan), "six": np.zeros(6), "none": None}[kind]
        arm.guard.on_joint_state(ArmState(arm.clock, values, np.zeros(7), float("nan")), arm.clock)


def jump_clock(arm: GuardedArm, seconds: float) -> None:
    arm.skew += round(seconds * NS)
    arm.tick()


ages = st.sampled_from([0.0, 0.05, 0.1, 0.1, 0.2, 0.45, 0.7, -0.01, -0.5])
periods = st.sampled_from([0.1] * 6 + [0.02, 0.5, -1.0, 0.0, float("nan")])
seeds = st.integers(0, 2**31)
acts = st.one_of(
    st.tuples(st.just(send), st.sampled_from(ROWS), ages, periods, seeds),
    st.tuples(st.just(send), st.sampled_from(ROWS[:8]), st.just(0.1), st.just(0.1), seeds),
    st.tuples(st.just(stream), st.sampled_from([0.4, 0.8, 1.6]), st.sampled_from([0.1, 0.5, 0.8])),
    st.tuples(st.just(GuardedArm.run), st.sampled_from([0.01, 0.1, 0.4, 1.0])),
    st.tuples(st.just(GuardedArm.run), st.sampled_from([0.05, 0.3]), st.just(False)),
    st.tuples(st.just(arm_again)),
    st.tuples(st.just(misreport), st.sampled_from(["nan", "six", "none", "future", "outlier", "displaced"]), seeds),
    st.tuples(st.just(jump_clock), st.sampled_from([-5.0, -0.5, -0.05, 0.7, 3.0])),
    st.tuples(st.just(lambda arm, on: arm.guard.on_estop(on, arm.clock)), st.booleans()),
    st.tuples(st.just(lambda arm, on: arm.guard.enable(on, arm.clock)), st.booleans()),
    st.tuples(st.just(lambda arm: arm.guard.hold(arm.clock))),
    st.tuples(st.just(lambda arm: arm.guard.reset(arm.clock))),
)


@given(
    st.lists(acts, min_size=8, max_size=20),
    st.sampled_from([HOME, EDGE]),
    st.sampled_from(["gentle", "normal", "fast"]),
    st.sampled_from([0.02, 0.1, 0.4]),
    st.sampled_from([0.3, 0.8, 1.5]),
)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_whatever_comes_in_the_arm_stays_within_limits(
    script: list[tuple[Any, ...]], start: np.ndarray, profile: str, replan_s: float, horizon_s: float
) -> None:
    arm = GuardedArm(start, profile, replan_s=replan_s, max_horizon_s=horizon_s)
    arm_again(arm)
    for act, *arguments in script:
        act(arm, *arguments)
        arm.run(0.05)
    rest_within(arm, 1.6)
    assert arm.last is not None and arm.last.status.reason
    assert arm.last.status.commands == len(arm.sent)


@given(st.lists(st.tuples(st.sampled_from(ROWS), ages, seeds), max_size=8), st.booleans())
@settings(max_examples=30, deadline=None, derandomize=True)
def test_nothing_leaves_a_guard_that_is_not_enabled(script: list[tuple[str, float, int]], stopped: bool) -> None:
    arm = GuardedArm(HOME)
    if stopped:
        arm.guard.on_estop(True, arm.clock)
    for kind, age_s, seed in script:
        send(arm, kind, age_s, 0.1, seed)
        arm.run(0.1)
    assert not arm.sent and not arm.grips
    assert arm.last is None or arm.last.status.refusals == len(script)


# -- following ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(2))
def test_chunks_track_a_smooth_motion_under_random_delays(seed: int) -> None:
    """At the trained policy's speed nothing is slowed, nothing rests, and the acceleration is that of the motion."""
    rng = np.random.default_rng(seed)
    motion = wave(HOME, speed=0.55, acceleration=1.9)
    arm = GuardedArm(HOME)
    arm.arm()
    for _ in range(5):  # the ramp passes on the spot
        arm.chunk(np.tile(HOME, (16, 1)))
        arm.run(0.4)
    begin = arm.now
    while arm.now - begin < 10 * NS:
        observed = (arm.now - begin) / NS
        delay_s = 0.1 + abs(rng.normal(0.0, 0.03))
        arm.run(delay_s)
        arm.chunk(np.array([motion(observed + (i + 1) * 0.1) for i in range(16)]), (arm.now - begin) / NS - observed)
        arm.run(0.3)
        assert arm.last is not None and arm.last.status.stretch == 1.0
    first = (begin - START) // MS
    steady = slice(first + 4500, None)
    wanted = np.array([motion((t - first) / 1000.0) for t in range(len(arm.track))])
    off = (np.array(arm.track) - wanted)[steady]
    ideal = np.diff(wanted, 2, axis=0)[steady] * 1e6
    assert np.sqrt((arm.acceleration()[steady] ** 2).mean()) <= 1.05 * np.sqrt((ideal**2).mean())
    assert (np.abs(np.array(arm.speed)[steady]).max(axis=1) > 0.05).all()
    assert np.sqrt((off**2).mean()) < 0.003
    arm.assert_law()


def test_the_first_motion_ramps_up() -> None:
    arm = GuardedArm(HOME)
    arm.arm()
    speeds = []
    for _ in range(6):
        begin = len(arm.speed)
        arm.chunk(arm.position + FUTURE_ROWS * 0.5)
        arm.run(0.4)
        assert arm.last is not None
        speeds.append((arm.last.status.state, np.abs(arm.speed[begin:]).max()))
    for (state, speed), share in zip(speeds, (0.1, 0.34, 0.58, 0.82, 1.0, 1.0)):
        assert speed <= share * 0.6 + 1e-9
        assert state == ("ARMED" if share < 1.0 else "RUNNING")
    assert speeds[-1][1] > 0.45


def test_a_ramp_cut_short_by_a_hold_starts_again() -> None:
    arm = GuardedArm(HOME)
    arm.arm()
    stream(arm, 0.8)
    arm.run(2.0)
    assert arm.last is not None and arm.last.status.state == "HOLD"
    arm.chunk(arm.position + FUTURE_ROWS * 0.5)
    assert arm.run(0.1).status.reason == "first motion, at 10% of the velocity limit"
    arm.assert_law()


def test_a_chunk_too_fast_is_slowed_along_its_own_path() -> None:
    arm = moving_arm()
    rest_within(arm, 1.2)
    start = arm.position
    direction = np.array([1.0, 0.5, -1.0, 0.2, 1.0, -0.5, 0.8])
    arm.chunk(start + FUTURE_ROWS * direction * 1.5)
    begin = len(arm.track)
    command = arm.run(0.7)
    assert 2.0 < command.status.stretch < 4.0 and command.status.counters["velocity"] == 1
    moved = np.array(arm.track[begin:]) - start
    along = moved @ direction / (direction @ direction)
    assert along[-1] > 0.1 and np.abs(moved - np.outer(along, direction)).max() < 0.002
    arm.assert_law()


def test_a_chunk_waits_for_its_turn_and_the_newest_wins() -> None:
    arm = moving_arm()
    arm.chunk(np.tile(arm.position, (16, 1)))
    arm.tick()
    sent = len(arm.sent)
    for target in (0.05, 0.1, 0.15):
        arm.run(0.1)
        arm.chunk(np.tile(arm.position + target, (16, 1)))
    arm.run(0.08)
    assert len(arm.sent) == sent
    begin = arm.position
    arm.run(0.05)
    assert len(arm.sent) == sent + 1
    arm.run(0.8)
    assert arm.position - begin == pytest.approx(np.full(7, 0.15), abs=0.05) and len(arm.sent) == sent + 1


def test_continuous_joints_go_the_short_way_over_the_seam() -> None:
    start = np.array([3.13, 0.2, -3.13, -1.5, 3.1, 0.9, -3.1])
    arm = GuardedArm(start)
    arm.arm()
    step = FUTURE_ROWS * np.array([0.3, 0.0, -0.3, 0.0, 0.3, 0.0, -0.3])
    for _ in range(12):
        arm.chunk((arm.position + step + np.pi) % (2 * np.pi) - np.pi)
        arm.run(0.4)
    moved = arm.position - start
    assert (np.abs(moved)[[0, 2, 4, 6]] > 0.5).all() and (np.sign(moved)[[0, 2, 4, 6]] == [1, -1, 1, -1]).all()
    assert arm.last is not None and arm.last.status.counters["unwrap"] == 12
    arm.assert_law()


def test_targets_beyond_a_limit_stop_at_the_margin_and_are_counted() -> None:
    arm = GuardedArm(HOME)
    arm.arm()
    for _ in range(30):
        arm.chunk(arm.position + FUTURE_ROWS * np.array([0.0, 0.5, 0.0, -0.5, 0.0, 0.5, 0.0]))
        arm.run(0.4)
    reached = arm.position[[1, 3, 5]]
    assert (np.abs(reached) <= arm.limits.upper[[1, 3, 5]] - 0.05 + 1e-9).all()
    assert reached == pytest.approx([2.19, -2.52, 2.04], abs=0.02)
    assert arm.last is not None and arm.last.status.counters["joint_margin"] > 5
    arm.assert_law()


def test_an_arm_within_the_margin_may_come_back() -> None:
    start = HOME.copy()
    start[[1, 3]] = 2.22, -2.55
    arm = GuardedArm(start)
    arm.arm()
    for _ in range(5):
        arm.chunk(arm.position + FUTURE_ROWS * np.array([0.0, -0.2, 0.0, 0.2, 0.0, 0.0, 0.0]))
        arm.run(0.4)
    assert arm.position[1] < 2.15 and arm.position[3] > -2.48
    arm.assert_law()


# -- stopping -------------------------------------------------------------------------------------------------------


def test_a_dead_policy_leaves_the_arm_at_rest_within_the_horizon() -> None:
    arm = moving_arm()
    arm.chunk(arm.position + np.outer(FUTURE_ROWS[:, 0], arm.speed[-1]))
    arm.tick()
    rest_within(arm, 0.8)
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


@pytest.mark.parametrize("cause", ["hold", "disable", "estop", "nan state", "nan chunk", "stale state"])
def test_every_way_to_stop_is_smooth_short_and_then_silent(cause: str) -> None:
    arm = moving_arm()
    arm.chunk(arm.position + np.outer(FUTURE_ROWS[:, 0], arm.speed[-1]))
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
    expected = {"hold": "HOLD", "stale state": "HOLD", "disable": "DISARMED"}.get(cause, "LATCHED")
    assert arm.last.status.state == expected


def test_after_hold_only_enable_goes_on() -> None:
    arm = moving_arm()
    arm.guard.hold(arm.clock)
    stream(arm, 0.8)
    assert arm.last is not None and arm.last.status.state == "HOLD" and not arm.speed[-1].any()
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
    arm.chunk(arm.position + np.outer(FUTURE_ROWS[:, 0], arm.speed[-1]))
    arm.tick()
    sent = len(arm.sent)
    jump_clock(arm, jump_s)
    assert arm.last is not None and arm.last.status.state == "HOLD" and "clock jumped" in arm.last.status.reason
    while arm.speed[-1].any():
        arm.chunk(arm.position + FUTURE_ROWS * 0.1)
        arm.run(0.1)
        assert len(arm.sent) == sent or not arm.speed[-1].any()
    assert arm.last.status.counters["clock"] > 0
    stream(arm, 0.8)
    assert arm.last.status.state in ("ARMED", "RUNNING")
    arm.assert_law()


# -- latching -------------------------------------------------------------------------------------------------------


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
        arm.chunk(arm.position + FUTURE_ROWS * 0.1)
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
    arm.chunk(arm.position + FUTURE_ROWS * 0.1)
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


# -- each check alone -----------------------------------------------------------------------------------------------

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
    assert {key for key, value in status.counters.items() if value != before.counters[key]} == {name}
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


def test_the_gripper_is_sent_on_change_and_reaches_both_ends() -> None:
    arm = GuardedArm(HOME)
    arm.arm()
    for target in (0.0, 0.02, 0.5, 0.53, 0.97, 0.99, 0.01):
        arm.chunk(np.tile(arm.position, (16, 1)), gripper=target)
        arm.run(0.5)
    assert arm.grips == [0.5, 1.0, 0.0]


def test_gripper_targets_come_with_the_row_they_belong_to() -> None:
    arm = GuardedArm(HOME)
    arm.arm()
    grips = np.array([0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    arm.guard.on_chunk(ActionChunk(arm.clock, 0.1, np.tile(arm.position, (8, 1)), grips), arm.clock)
    arm.run(0.3)
    assert not arm.grips
    arm.run(0.02)
    assert arm.grips == [1.0]
