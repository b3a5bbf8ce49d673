"""The trajectory controller's model: what it interpolates, where it starts from, and what it refuses."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from ecovla_ros.control.trajectory import TrajectoryController
from ecovla_ros.errors import ControlError
from ecovla_ros.types import JOINTS, Trajectory

NOW = 5_000_000_000
MS = 1_000_000


def line(*levels: float, step_s: float = 0.1, velocities: np.ndarray | None = None) -> Trajectory:
    times = np.arange(1, len(levels) + 1) * step_s
    return Trajectory(times, np.tile(np.array(levels)[:, None], (1, 7)), velocities)


def test_positions_alone_are_joined_by_straight_lines_and_held() -> None:
    controller = TrajectoryController(np.zeros(7))
    controller.accept(line(0.1, 0.3), NOW)
    for ms, level, slope in ((0, 0.0, 1.0), (50, 0.05, 1.0), (150, 0.2, 2.0), (200, 0.3, 0.0), (9000, 0.3, 0.0)):
        position, velocity = controller.sample(NOW + ms * MS)
        assert position == pytest.approx(np.full(7, level), abs=1e-12)
        assert velocity == pytest.approx(np.full(7, slope), abs=1e-9)
    assert controller.end_ns == NOW + 200 * MS


def test_velocities_make_a_cubic_whose_derivative_is_the_sampled_velocity() -> None:
    controller = TrajectoryController(np.zeros(7))
    velocities = np.tile(np.array([[1.5], [0.5], [0.0]]), (1, 7))
    controller.accept(line(0.1, 0.2, 0.22, velocities=velocities), NOW)
    assert controller.sample(NOW + 100 * MS)[0] == pytest.approx(np.full(7, 0.1))
    assert controller.sample(NOW + 100 * MS)[1] == pytest.approx(np.full(7, 1.5))
    for ms in range(5, 295, 10):
        before, after = (controller.sample(NOW + ms * MS + d)[0] for d in (-MS, MS))
        assert controller.sample(NOW + ms * MS)[1] == pytest.approx((after - before) / 2e-3, abs=2e-2)


def test_a_new_trajectory_starts_from_the_commanded_state_not_from_the_old_end() -> None:
    controller = TrajectoryController(np.zeros(7))
    controller.accept(line(1.0, step_s=1.0), NOW)
    half = NOW + 500 * MS
    controller.accept(line(0.0), half)
    assert controller.sample(half)[0] == pytest.approx(np.full(7, 0.5))
    assert controller.sample(half + 50 * MS)[0] == pytest.approx(np.full(7, 0.25))
    assert controller.sample(half + 100 * MS)[0] == pytest.approx(np.zeros(7))


def test_replacing_a_cubic_keeps_position_and_velocity_continuous() -> None:
    controller = TrajectoryController(np.zeros(7))
    velocities = np.tile(np.array([[1.0], [0.0]]), (1, 7))
    controller.accept(line(0.1, 0.2, velocities=velocities), NOW)
    at = NOW + 70 * MS
    before = controller.sample(at)
    controller.accept(line(0.15, 0.3, velocities=velocities), at)
    after = controller.sample(at)
    assert after[0] == pytest.approx(before[0]) and after[1] == pytest.approx(before[1])


def test_a_stamp_in_the_past_drops_the_points_that_are_over_and_nothing_is_blended() -> None:
    controller = TrajectoryController(np.full(7, 0.5))
    controller.accept(line(0.1, 0.2, 0.3), NOW, stamp_ns=NOW - 150 * MS)
    assert controller.sample(NOW)[0] == pytest.approx(np.full(7, 0.15))
    assert controller.sample(NOW + 50 * MS)[0] == pytest.approx(np.full(7, 0.2))
    assert controller.sample(NOW + 150 * MS)[0] == pytest.approx(np.full(7, 0.3))


def test_what_repeats_the_running_motion_changes_nothing_whenever_it_comes() -> None:
    velocities = np.tile(np.array([[0.0], [1.0], [0.5], [0.0]]), (1, 7))
    times, levels = np.array([0.0, 0.1, 0.2, 0.3]), np.tile(np.array([0.0, 0.1, 0.2, 0.25])[:, None], (1, 7))
    controller, again = TrajectoryController(np.zeros(7)), TrajectoryController(np.zeros(7))
    for each in (controller, again):
        each.accept(Trajectory(times, levels, velocities), NOW, stamp_ns=NOW)
    for ms in (20, 70, 150, 260):
        again.accept(Trajectory(times, levels, velocities), NOW + ms * MS, stamp_ns=NOW)
        for at in range(ms, 320, 7):
            assert again.sample(NOW + at * MS)[0] == pytest.approx(controller.sample(NOW + at * MS)[0], abs=1e-12)


def test_joints_are_taken_by_name() -> None:
    controller = TrajectoryController(np.zeros(7))
    turned = np.arange(7) * 0.1
    controller.accept(Trajectory(np.array([0.1]), turned[None, ::-1]), NOW, joint_names=JOINTS[::-1])
    assert controller.sample(NOW + 100 * MS)[0] == pytest.approx(turned)


def test_only_the_wrap_of_the_first_point_of_continuous_joints_is_repaired() -> None:
    held = np.array([3.1, 0.0, 0.0, 0.0, 0.0, 0.0, -3.1])
    controller = TrajectoryController(held)
    first = np.array([-3.1, 0.1, 0.0, 0.0, 0.0, 0.0, 3.1])
    controller.accept(Trajectory(np.array([0.1, 0.2]), np.stack([first, first])), NOW)
    expected = first + math.tau * np.array([1, 0, 0, 0, 0, 0, -1])
    assert controller.sample(NOW + 100 * MS)[0] == pytest.approx(expected)
    controller.hold(held)
    controller.accept(Trajectory(np.array([0.1, 0.2]), np.stack([held, first])), NOW)
    assert controller.sample(NOW + 150 * MS)[0][0] == pytest.approx(0.0), "a wrap inside is a sweep, as on the arm"


GOOD = np.zeros((2, 7))
TIMES = np.array([0.1, 0.2])


@pytest.mark.parametrize(
    ("trajectory", "more", "says"),
    [
        (Trajectory(TIMES, GOOD), {"joint_names": JOINTS[:6]}, "joint_7"),
        (Trajectory(TIMES, GOOD), {"joint_names": (*JOINTS[:6], "elbow")}, "valid"),
        (Trajectory(TIMES[::-1], GOOD), {}, "rise"),
        (Trajectory(np.array([0.1, 0.1]), GOOD), {}, "rise"),
        (Trajectory(np.array([-0.1, 0.1]), GOOD), {}, "negative"),
        (Trajectory(TIMES, GOOD, np.full((2, 7), 0.1)), {}, "zero"),
        (Trajectory(TIMES, GOOD + np.nan), {}, "finite"),
        (Trajectory(TIMES, GOOD, np.full((2, 7), np.inf)), {}, "finite"),
        (Trajectory(TIMES, np.zeros((2, 6))), {}, r"\(N, 7\)"),
        (Trajectory(np.empty(0), np.empty((0, 7))), {}, "at least 1"),
        (Trajectory(TIMES, GOOD), {"stamp_ns": NOW - 300 * MS}, "ago"),
    ],
)
def test_what_the_real_controller_refuses_is_refused_and_changes_nothing(
    trajectory: Trajectory, more: dict[str, Any], says: str
) -> None:
    controller = TrajectoryController(np.full(7, 0.2))
    controller.accept(line(0.4), NOW)
    with pytest.raises(ControlError, match=says):
        controller.accept(trajectory, NOW + 50 * MS, **more)
    assert controller.sample(NOW + 100 * MS)[0] == pytest.approx(np.full(7, 0.4))
