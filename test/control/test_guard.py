"""The guard's law: whatever comes in, in any order, the arm stays within limits, and the guard never raises."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from support.guarded_arm import EDGE, HOME, NS, GuardedArm, jump_clock, rest_within, stream

from ecovla_ros.types import ActionChunk, ArmState

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
    st.sampled_from([5.0, None]),
)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_whatever_comes_in_the_arm_stays_within_limits(
    script: list[tuple[Any, ...]],
    start: np.ndarray,
    profile: str,
    replan_s: float,
    horizon_s: float,
    tool_speed: float | None,
) -> None:
    arm = GuardedArm(start, profile, tool_speed, replan_s=replan_s, max_horizon_s=horizon_s)
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


@given(seeds, st.sampled_from([0.02, 0.1, 0.4]))
@settings(max_examples=10, deadline=None, derandomize=True)
def test_a_chunk_moves_the_arm_when_it_is_due_and_at_no_other_time(seed: int, replan_s: float) -> None:
    """The guard's node sleeps while none is due, and hears one at once while one is."""
    rng, arm = np.random.default_rng(seed), GuardedArm(HOME, replan_s=replan_s)
    assert not arm.guard.due(arm.clock)
    arm.arm()
    for _ in range(150):
        arm.report()
        due, sends = arm.guard.due(arm.clock), bool(rng.random() < 0.4)
        if sends:
            arm.chunk(np.tile(arm.position + 0.002, (16, 1)))
        waiting = arm.guard._pending is not None
        before = len(arm.sent)
        arm.tick()
        assert len(arm.sent) - before == int(due and waiting)
        assert not sends or due or arm.guard._pending is not None, "what comes too early waits"
    assert len(arm.sent) > 3
    arm.guard.on_estop(True, arm.clock)
    assert not arm.guard.due(arm.clock + 10 * NS)
