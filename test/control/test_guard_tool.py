"""The checks of jerk, box, tool speed, singularity and lateness: each acts alone, is counted, and lets the rest be."""

from __future__ import annotations

import numpy as np
import pytest
from support.guarded_arm import AHEAD, HOME, GuardedArm, moving_arm, wave

from ecovla_ros.config import ControlConfig
from ecovla_ros.control import curve, kinematics, tool
from ecovla_ros.control.checks import Refused
from ecovla_ros.errors import ConfigError
from ecovla_ros.types import Trajectory

POSE = np.array([0.0, 0.6, 3.14, -1.4, 0.0, -1.0, 1.57])
"""Above the table, elbow bent, far from singularities."""
STRAIGHT = np.array([0.0, 0.02, 3.14, -0.02, 0.0, -0.02, 1.57])


def acted(arm: GuardedArm) -> set[str]:
    assert arm.last is not None
    return {name for name, count in arm.last.status.counters.items() if count}


def armed(start: np.ndarray, **settings: object) -> GuardedArm:
    """An arm whose ramp is over."""
    arm = GuardedArm(start, **settings)  # type: ignore[arg-type]
    arm.arm()
    for _ in range(5):
        arm.chunk(np.tile(start, (16, 1)))
        arm.run(0.4)
    assert not acted(arm)
    return arm


def tool_of(arm: GuardedArm) -> np.ndarray:
    """Tool points of everything that ran, (T, 3)."""
    return kinematics.tool_motion(np.array(arm.track), np.array(arm.speed))[0]


def test_jerk_slows_the_whole_chunk_and_its_path_stays() -> None:
    arm = armed(POSE, jerk=6.0)
    direction = np.array([1.0, 0.5, -1.0, 0.2, 1.0, -0.5, 0.8])
    shake = 0.05 * (1.0 - np.cos(2.0 * np.pi * 0.8 * AHEAD)) * direction
    begin = len(arm.track)
    arm.chunk(POSE + shake)
    arm.run(0.7)
    assert arm.last is not None and "jerk" in acted(arm) and arm.last.status.stretch > 1.05
    moved = np.array(arm.track[begin:]) - POSE
    along = moved @ direction / (direction @ direction)
    assert np.abs(along).max() > 0.002 and np.abs(moved - np.outer(along, direction)).max() < 1e-6
    arm.assert_law()


def test_acceleration_alone_slows_the_whole_chunk() -> None:
    arm = armed(POSE, jerk=1e4)
    direction = np.array([0.25, 0.25, -0.25, 0.2, 0.25, -0.25, 0.25])
    bend = 4.0 * np.minimum(AHEAD, 0.2) ** 2 + 1.6 * np.maximum(AHEAD - 0.2, 0.0)  # 8 rad/s^2 for 0.2 s, then even
    arm.chunk(POSE + bend * direction)
    begin = len(arm.track)
    arm.run(0.7)
    assert acted(arm) == {"acceleration"} and arm.last is not None and arm.last.status.stretch > 1.0
    moved = np.array(arm.track[begin:]) - POSE
    along = moved @ direction / (direction @ direction)
    assert along.max() > 0.05 and np.abs(moved - np.outer(along, direction)).max() < 1e-6
    arm.assert_law()


def test_the_tool_is_slowed_to_its_speed_and_the_joints_alone_would_not_have_been() -> None:
    swing = AHEAD * np.array([0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    peaks = []
    for speed in (5.0, None):
        arm = armed(POSE, tool_speed=speed)
        for _ in range(4):
            arm.chunk(arm.position + swing)
            arm.run(0.4)
        peaks.append(kinematics.tool_motion(np.array(arm.track), np.array(arm.speed))[1].max())
        assert acted(arm) - {"acceleration", "jerk", "velocity"} == ({"tool_speed"} if speed is None else set())
        arm.assert_law()
    assert peaks[0] > 0.28 and 0.2 < peaks[1] <= 0.25 * 1.001


def test_the_box_ends_the_path_before_its_floor_and_is_counted() -> None:
    z = float(kinematics.pose(POSE)[0][2])
    arm = armed(POSE, box_lower=(0.0, -0.5, z - 0.05), box_upper=(0.9, 0.5, 0.9))
    down = np.array([0.0, 0.4, 0.0, 0.0, 0.0, 0.0, 0.0])
    for _ in range(8):
        arm.chunk(arm.position + AHEAD * down)
        arm.run(0.4)
    reached = tool_of(arm)[:, 2].min()
    assert z - 0.05 <= reached < z - 0.02 and acted(arm) >= {"box"}
    assert arm.last is not None and not arm.speed[-1].any()
    for _ in range(4):
        arm.chunk(arm.position - AHEAD * down)
        arm.run(0.4)
    assert tool_of(arm)[-1, 2] > z, "away from the floor it moves"
    arm.assert_law()


def test_an_arm_outside_its_box_may_come_back_and_not_go_further() -> None:
    x = float(kinematics.pose(POSE)[0][0])
    arm = GuardedArm(POSE, box_lower=(0.1, -0.5, 0.0), box_upper=(x - 0.03, 0.5, 0.9))
    arm.arm()
    further, back = (AHEAD * np.array([0.0, sign * 0.3, 0.0, 0.0, 0.0, 0.0, 0.0]) for sign in (-1.0, 1.0))
    for _ in range(4):
        arm.chunk(arm.position + further)
        arm.run(0.4)
    assert tool_of(arm)[:, 0].max() <= x + 1e-3 and acted(arm) == {"box"}
    assert arm.last is not None and "the tool would go to" in arm.last.status.refusal
    for _ in range(4):
        arm.chunk(arm.position + back)
        arm.run(0.4)
    assert tool_of(arm)[-1, 0] < x - 0.03


def test_a_tool_at_the_edge_of_its_box_may_stay_and_go_on() -> None:
    """What is held is gripped close to the table; a policy does not lift it in one straight line."""
    place, _ = kinematics.pose(POSE)
    arm = armed(POSE, box_lower=(0.0, -0.5, float(place[2]) - 0.003), box_upper=(0.9, 0.5, 0.9))
    still = np.array([0.0, 0.002, 0.0, 0.0, 0.0, 0.0, 0.0])
    for _ in range(4):
        arm.chunk(arm.position + np.minimum(AHEAD, 0.1) * still)
        arm.run(0.4)
    up = np.array([0.0, -0.3, 0.0, 0.0, 0.0, 0.0, 0.0])
    for _ in range(4):
        arm.chunk(arm.position + AHEAD * up)
        arm.run(0.4)
    assert arm.last is not None and arm.last.status.counters["box"] == 0 and not arm.last.status.refusal
    assert tool_of(arm)[-1, 2] > place[2] + 0.05
    arm.assert_law()


def test_a_path_through_a_singularity_is_slowed() -> None:
    arm = armed(STRAIGHT, singular_from=25.0, singular_to=60.0)
    for _ in range(3):
        arm.chunk(arm.position + AHEAD * np.array([0.0, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0]))
        arm.run(0.4)
    assert acted(arm) - {"acceleration", "jerk"} == {"singularity"}
    assert np.abs(np.array(arm.speed)).max() <= tool.SLOWEST * 0.6 * 1.001
    config = ControlConfig()
    assert tool.singular_share(POSE[None], config) == 1.0
    assert tool.singular_share(STRAIGHT[None], config) == pytest.approx(tool.SLOWEST)


def test_a_first_row_outside_is_refused_and_a_box_without_room_is_no_box() -> None:
    points = kinematics.pose(POSE)[0]
    around = tool.Box(points - 0.1, points + 0.1)
    with pytest.raises(Refused, match="valid: x"):
        tool.cut((POSE + AHEAD * 0.0) + 0.3, 0, tool.limits(around, 1.0, POSE))
    with pytest.raises(ConfigError, match="lower below upper"):
        tool.box(ControlConfig(box_lower=(0.0, 0.0), box_upper=(1.0, 1.0)))


def test_chunks_that_come_late_halve_the_speed_until_they_are_in_time_again() -> None:
    arm = moving_arm()
    arm.chunk(arm.position + np.outer(AHEAD[:, 0] - 0.4, arm.speed[-1]), age_s=0.4)
    arm.run(0.4)
    assert arm.last is not None and arm.last.status.state == "DEGRADED" and "late" in arm.last.status.reason
    for _ in range(2):
        begin = len(arm.speed)
        arm.chunk(arm.position + AHEAD * 0.5, age_s=0.1)
        arm.run(0.4)
    assert acted(arm) >= {"late"} and np.abs(np.array(arm.speed[begin:])).max() <= 0.3 * 1.001
    for _ in range(3):
        arm.chunk(arm.position + AHEAD * 0.5, age_s=0.1)
        arm.run(0.4)
    assert arm.last.status.state == "RUNNING" and np.abs(arm.speed[-1]).max() > 0.35, "half is 0.3"
    arm.chunk(np.tile(arm.position, (16, 1)), age_s=0.7)
    arm.run(0.02)
    assert arm.last.status.counters["age"] == 1
    arm.assert_law()


def test_a_policy_that_asks_for_exactly_the_limits_is_followed() -> None:
    """It plans from where the arm is, at 0.6 rad/s and 2 rad/s^2: nothing is refused and little is lost."""
    arm = armed(HOME)
    for i in range(20):
        sign = 1.0 if i % 10 < 5 else -1.0
        ahead = np.minimum(0.5 * 2.0 * AHEAD**2, 0.6 * AHEAD - 0.09)
        here, speed = arm.position, np.where(np.abs(arm.speed[-1]) > 0.3, 0.6 * AHEAD, ahead)
        arm.chunk(here + sign * speed)
        arm.run(0.4)
        assert arm.last is not None and arm.last.status.refusals == 0 and arm.last.status.stretch < 1.9
    assert arm.last.status.state == "RUNNING" and np.abs(np.array(arm.speed)).max() > 0.55
    arm.assert_law()


def test_an_arm_that_follows_does_not_jerk_and_one_that_stops_does_so_within_its_own_limit() -> None:
    arm = GuardedArm(HOME)
    arm.arm()
    motion = wave(HOME, 0.4, 1.2, rise_s=3.0)
    for i in range(25):
        arm.chunk(np.array([motion(0.4 * i + 0.1 * (k + 1)) for k in range(16)]))
        arm.run(0.4)
    speed = np.array(arm.speed)[3000:]
    jerk = np.abs(np.diff(speed, 2, axis=0)) * 1e6
    assert (jerk <= arm.limits.jerk * 1.01).all(), "handed over before it brakes: the limit of a motion holds"
    arm.run(1.0)
    arm.assert_law()


@pytest.mark.parametrize("seed", range(40))
def test_the_tools_speed_is_never_more_than_was_measured(seed: int) -> None:
    """Short motions from rest to rest, whose speed peaks between two samples."""
    rng = np.random.default_rng(seed)
    times = np.cumsum(rng.uniform(0.09, 0.16, 4))
    speeds = np.vstack((rng.uniform(-0.2, 0.2, (3, 7)), np.zeros((1, 7))))
    spans = np.diff(times, prepend=0.0)[:, None]
    means = (np.vstack((np.zeros((1, 7)), speeds[:-1])) + speeds) / 2.0
    bulge = rng.uniform(-0.4, 0.4, (4, 7))
    motion, start = (
        Trajectory(times, POSE + np.cumsum((means + bulge) * spans, 0), speeds),
        (POSE, np.zeros(7), np.zeros(7)),
    )
    limits = tool.limits(tool.box(ControlConfig()), 0.25, POSE)
    share, _ = limits.measure(motion, start)
    _, fine = kinematics.tool_motion(*curve.samples(motion, start, 1e-4))
    assert fine.max() <= share * limits.speed
