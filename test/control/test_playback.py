"""Playback: rows are aligned by the observation's stamp, the path is the rows' spline, the curve's bounds are exact."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.guarded_arm import NS, Motion, wave

from ecovla_ros.control import pace, playback, smooth, tool
from ecovla_ros.control.curve import bounds
from ecovla_ros.control.limits import load
from ecovla_ros.control.trajectory import TrajectoryController
from ecovla_ros.types import ActionChunk, Trajectory

LIMITS = load("normal")
STILL = np.zeros(7)
PACE = playback.Pace(1.0, 0.8, playback.BRAKE * LIMITS.acceleration, pace.STOP_JERK * LIMITS.jerk)
ANYWHERE = tool.ToolLimits(tool.Box(np.full(3, -2.0), np.full(3, 2.0)), 5.0, 0.0, False)


def chunk_of(motion: Motion, stamp_ns: int, period_s: float = 0.1, rows: int = 16) -> ActionChunk:
    times = stamp_ns / NS + np.arange(1, rows + 1) * period_s
    return ActionChunk(stamp_ns, period_s, np.array([motion(t) for t in times]), np.zeros(rows))


def route_of(rows: np.ndarray, stamp_ns: int = 0, period_s: float = 0.1) -> playback.Path:
    return playback.path(ActionChunk(stamp_ns, period_s, rows, np.zeros(len(rows))), rows)


@given(st.integers(1, 60), st.floats(0.005, 1.0), st.floats(-0.02, 30.0))
def test_the_rows_due_are_those_after_now(rows: int, period_s: float, age_s: float) -> None:
    chunk = ActionChunk(7 * NS, period_s, np.zeros((rows, 7)), np.zeros(rows))
    now = chunk.stamp_ns + round(age_s * NS)
    times = np.array([chunk.stamp_ns + (i + 1) * period_s * NS for i in range(rows)])
    sure = np.abs(times - now) > 10  # a row due within rounding of now may go either way
    assert ((np.arange(rows) >= playback.due(chunk, now)) == (times > now))[sure].all()


@pytest.mark.parametrize("period_s", [0.01, 0.025, 0.05])
def test_a_stamp_delayed_by_50_ms_loses_as_many_rows(period_s: float) -> None:
    now = 10 * NS
    late, later = (
        playback.due(ActionChunk(now - age, period_s, np.zeros((30, 7)), np.zeros(30)), now) for age in (0, 50_000_000)
    )
    assert later - late == round(0.05 / period_s)


@given(st.integers(0, 2**31), st.integers(1, 12))
def test_the_path_stays_in_the_hull_of_the_rows_and_is_twice_differentiable(seed: int, rows: int) -> None:
    targets = np.random.default_rng(seed).normal(0.0, 1.0, (rows, 7))
    route = route_of(targets)
    inner, _ = route.at(np.linspace(1.0, rows, 200))
    assert (inner <= targets.max(axis=0) + 1e-9).all() and (inner >= targets.min(axis=0) - 1e-9).all()
    end, slope = route.at(np.array([float(rows), rows + 5.0]))
    assert np.allclose(end, targets[-1]) and np.abs(slope).max() < 1e-12
    step = 1e-4
    for i in range(rows):
        around = route.at(i + step * np.array([-2.0, -1.0, 1.0, 2.0]))
        assert np.allclose(around[0][1], around[0][2], atol=1e-2) and np.allclose(around[1][1], around[1][2], atol=1e-2)
        before, after = (around[1][1] - around[1][0]) / step, (around[1][3] - around[1][2]) / step
        assert np.allclose(before, after, atol=2e-2)


def test_at_a_row_the_path_has_the_central_difference_as_velocity() -> None:
    targets = np.random.default_rng(3).normal(0.0, 1.0, (9, 7))
    position, slope = route_of(targets).at(np.arange(1.0, 8.0))
    assert np.allclose(slope, (targets[2:] - targets[:-2]) / 2)
    assert np.allclose(position, (targets[:-2] + 4 * targets[1:-1] + targets[2:]) / 6)


def test_a_straight_line_is_played_exactly_where_and_when_it_was_meant() -> None:
    velocity = np.linspace(-0.5, 0.5, 7)
    chunk = chunk_of(lambda t: velocity * t, 2 * NS)
    for age in (0.0, 0.05, 0.13, 0.31):
        now = chunk.stamp_ns + round(age * NS)
        start = (velocity * now / NS, velocity, STILL)
        for entry in playback.ENTRIES:
            played = playback.play(playback.path(chunk, chunk.joints), now, start, entry, PACE)
            assert played is not None and played[0].velocities is not None
            sent, moving = played[0], slice(0, played[1])
            assert np.allclose(sent.positions[moving], np.outer(now / NS + sent.times_s[moving], velocity), atol=1e-9)
            assert np.allclose(sent.velocities[moving], velocity, atol=1e-9) and not sent.velocities[-1].any()


@given(st.integers(0, 2**31), st.floats(0.0, 0.4), st.floats(1.0, 6.0), st.floats(0.1, 3.0))
@settings(max_examples=60, deadline=None)
def test_whatever_is_played_rises_ends_at_rest_and_keeps_the_horizon(
    seed: int, age_s: float, stretch: float, horizon_s: float
) -> None:
    rng = np.random.default_rng(seed)
    route = route_of(np.cumsum(rng.normal(0.0, 0.05, (int(rng.integers(1, 20)), 7)), axis=0))
    start = (rng.normal(0.0, 0.1, 7), rng.normal(0.0, 0.2, 7), rng.normal(0.0, 1.0, 7))
    for entry in playback.ENTRIES:
        slowed = playback.Pace(stretch, horizon_s, PACE.braking, PACE.jerk)
        played = playback.play(route, round(age_s * NS), start, entry, slowed)
        if played is None:
            continue
        sent, following = played
        assert sent.velocities is not None and 0 < following < len(sent.times_s)
        assert sent.times_s[0] > 0 and (np.diff(sent.times_s) > 1e-4).all() and sent.times_s[-1] <= horizon_s + 1e-9
        assert not sent.velocities[-1].any()
        steps = bounds(sent, start).jerk
        assert (steps[following:] <= PACE.jerk * 1.001).all() and (steps < 2000.0).all(), "no step in acceleration"


@given(st.integers(0, 2**31))
@settings(max_examples=200, deadline=None)
def test_a_stop_is_smooth_within_its_braking_and_jerk_and_ends_at_rest(seed: int) -> None:
    rng = np.random.default_rng(seed)
    start = (rng.normal(0.0, 1.0, 7), rng.uniform(-0.6, 0.6, 7), rng.uniform(-1.0, 1.0, 7) * PACE.braking)
    sent = smooth.stop(start, PACE.braking, PACE.jerk)
    assert sent.velocities is not None and not sent.velocities[-1].any() and sent.times_s[-1] < 0.6
    reached = bounds(sent, start)
    assert (reached.acceleration <= PACE.braking * 1.0001).all() and (reached.jerk <= PACE.jerk * 1.001).all()


@given(st.integers(0, 2**31))
@settings(max_examples=80, deadline=None)
def test_bounds_of_the_curve_are_those_of_the_controller(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 6))
    start = (rng.normal(0.0, 0.1, 7), rng.normal(0.0, 0.5, 7), STILL)
    times = np.cumsum(rng.uniform(0.05, 0.4, n))
    positions, velocities = rng.normal(0.0, 0.2, (n, 7)), rng.normal(0.0, 0.5, (n, 7))
    velocities[-1] = 0.0
    sent = Trajectory(times, positions, velocities)
    controller = TrajectoryController(start[0])
    moving = Trajectory(np.array([1e-9, 10.0]), np.stack((start[0], start[0])), np.stack((start[1], 0 * start[1])))
    controller.accept(moving, 0)
    controller.accept(sent, 1)
    samples = [controller.sample(1 + k * 500_000) for k in range(int(times[-1] / 0.0005))]
    track, speed = (np.array(part) for part in zip(*samples))
    reached = bounds(sent, start)
    acceleration = np.abs(np.diff(speed, axis=0)) / 0.0005
    for exact, sampled in (
        (reached.upper, track.max(axis=0)),
        (-reached.lower, -track.min(axis=0)),
        (reached.velocity.max(axis=0), np.abs(speed).max(axis=0)),
        (reached.acceleration, acceleration.max(axis=0)),
    ):
        assert (sampled <= exact + 1e-6).all() and (sampled >= exact - 0.07 * np.abs(exact) - 5e-3).all()


def test_a_chunk_that_agrees_with_the_flight_is_not_slowed_and_not_moved() -> None:
    motion = wave(np.zeros(7), speed=0.5, acceleration=1.7)
    rows = chunk_of(motion, 6 * NS)
    now = 6 * NS + 120_000_000
    start = playback.path(chunk_of(motion, 6 * NS - 400_000_000), chunk_of(motion, 6 * NS - 400_000_000).joints)
    position, slope = start.at(np.array([start.coordinate(now)]))
    course = pace.Course(
        playback.path(rows, rows.joints), pace.envelope(LIMITS, 1.0, 0.05, (position[0], STILL, STILL)), ANYWHERE, 8.0
    )
    bend = (motion(now / NS + 0.01) - 2.0 * motion(now / NS) + motion(now / NS - 0.01)) / 0.01**2
    fitted = pace.fit(course, now, (position[0], slope[0] / 0.1, bend), 0.8)
    assert fitted.trajectory is not None and fitted.stretch == 1.0 and not fitted.causes
    wanted = np.array([motion(now / NS + t) for t in fitted.trajectory.times_s[:3]])
    assert np.abs(fitted.trajectory.positions[:3] - wanted).max() < 0.004
