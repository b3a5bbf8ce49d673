"""What the guard lets through: aligned, ramped, slowed, unwrapped, clamped, and the gripper with its row."""

from __future__ import annotations

import numpy as np
import pytest
from support.guarded_arm import AHEAD, HOME, MS, NS, START, GuardedArm, moving_arm, rest_within, stream, wave

from ecovla_ros.types import ActionChunk


@pytest.mark.parametrize("seed", range(3))
def test_chunks_track_a_smooth_motion_under_random_delays(seed: int) -> None:
    """At the trained policy's speed nothing is slowed, nothing rests, and the acceleration is that of the motion."""
    rng = np.random.default_rng(seed)
    motion = wave(HOME, speed=0.5, acceleration=1.7)
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
        arm.chunk(arm.position + AHEAD * 0.5)
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
    arm.chunk(arm.position + AHEAD * 0.5)
    assert arm.run(0.1).status.reason == "first motion, at 10% of the velocity limit"
    arm.assert_law()


def test_a_chunk_too_fast_is_slowed_along_its_own_path() -> None:
    arm = moving_arm()
    rest_within(arm, 1.2)
    start = arm.position
    direction = np.array([1.0, 0.5, -1.0, 0.2, 1.0, -0.5, 0.8])
    arm.chunk(start + (AHEAD - arm.config.start_window_s) * direction * 1.5)
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
    for target in (-0.15, -0.1, 0.15):
        arm.run(0.1)
        arm.chunk(np.tile(arm.position + target, (16, 1)))
    arm.run(0.08)
    assert len(arm.sent) == sent
    begin = arm.position
    arm.run(0.05)
    assert len(arm.sent) == sent + 1
    arm.run(0.8)
    went = arm.position - begin  # on the way to the last of them, and no further
    assert (went > 0.07).all() and (went < 0.2).all() and len(arm.sent) == sent + 1


def test_continuous_joints_go_the_short_way_over_the_seam() -> None:
    start = np.array([3.13, 0.2, -3.13, -1.5, 3.1, 0.9, -3.1])
    arm = GuardedArm(start)
    arm.arm()
    step = AHEAD * np.array([0.3, 0.0, -0.3, 0.0, 0.3, 0.0, -0.3])
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
        arm.chunk(arm.position + AHEAD * np.array([0.0, 0.5, 0.0, -0.5, 0.0, 0.5, 0.0]))
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
        arm.chunk(arm.position + AHEAD * np.array([0.0, -0.2, 0.0, 0.2, 0.0, 0.0, 0.0]))
        arm.run(0.4)
    assert arm.position[1] < 2.15 and arm.position[3] > -2.48
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


def reacting(replan_s: float = 0.4, **more: float) -> GuardedArm:
    """An arm under way, right after a chunk was sent."""
    arm = GuardedArm(HOME, **{"replan_s": replan_s, "react_s": 0.1, **more})
    arm.arm()
    stream(arm, 1.2)
    before = len(arm.sent)
    while len(arm.sent) == before:
        arm.chunk(arm.position + AHEAD * 0.1)
        arm.run(0.01)
    return arm


@pytest.mark.parametrize("told_first", [True, False])
def test_a_chunk_that_answers_a_changed_scene_does_not_wait_for_its_turn(told_first: bool) -> None:
    """Whichever comes first, the word or the chunk; and the next one waits for its turn again."""
    arm = reacting()
    arm.run(0.12)
    sent, stamp = len(arm.sent), arm.clock - 20 * MS
    steps = [lambda: arm.guard.on_scene_change(stamp, arm.clock), lambda: arm.chunk(arm.position + AHEAD * 0.1, 0.02)]
    for step in steps if told_first else steps[::-1]:
        step()
    arm.run(0.01)
    assert len(arm.sent) == sent + 1 and arm.last is not None
    assert arm.last.status.chunk_stamp_ns == stamp and arm.last.status.counters["reacted"] == 1
    for _ in range(20):
        arm.chunk(arm.position + AHEAD * 0.1, 0.02)
        arm.run(0.01)
    assert len(arm.sent) == sent + 1
    arm.assert_law()


@pytest.mark.parametrize(
    "why", ["too soon", "older chunk", "not told", "of the future", "long ago", "never", "answered"]
)
def test_any_other_chunk_waits(why: str) -> None:
    arm = reacting(**({"react_s": 0.0} if why == "never" else {}))
    arm.run(0.04 if why == "too soon" else 0.12)
    sent, stamp = len(arm.sent), arm.clock - 20 * MS
    told = {"of the future": arm.clock + 50 * MS, "long ago": arm.clock - 10 * NS,
            "answered": arm.last.status.chunk_stamp_ns if arm.last else 0}.get(why, stamp)  # fmt: skip
    if why != "not told":
        arm.guard.on_scene_change(told, arm.clock)
    arm.chunk(arm.position + AHEAD * 0.1, 0.05 if why == "older chunk" else 0.02)
    arm.run(0.03)
    assert len(arm.sent) == sent and arm.last is not None and arm.last.status.counters["reacted"] == 0
    arm.assert_law()


def test_changes_told_without_end_send_no_more_than_one_chunk_in_react_s() -> None:
    arm = reacting()
    sent, began = len(arm.sent), arm.now
    while arm.now - began < 2 * NS:
        arm.chunk(arm.position + AHEAD * 0.1, 0.0)
        arm.guard.on_scene_change(arm.clock, arm.clock)
        arm.run(0.01)
    assert 15 <= len(arm.sent) - sent <= 20
    arm.assert_law()
