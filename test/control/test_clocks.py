"""Two clocks: the steady one that the guard plans with, and the controller's, which is measured."""

from __future__ import annotations

import numpy as np
import pytest

from ecovla_ros.control.clocks import APART_S, HEARD, ControllerWatch, PlanClock
from ecovla_ros.types import ControllerState

NS, MS = 1_000_000_000, 1_000_000
STILL = np.zeros(7)


def heard(watch: ControllerWatch, lags_ms: list[float], begin: int = 100 * NS) -> int:
    """Messages every 10 ms that come so much after their stamp."""
    for k, lag in enumerate(lags_ms):
        now = begin + 10 * MS * k
        watch.see(ControllerState(now - round(lag * MS), STILL, STILL), now)
    return now


def test_small_steps_of_the_system_clock_move_the_stamp_and_not_the_plan() -> None:
    plan = PlanClock()
    start, _ = plan.now(10**18, 0, resting=False)
    for k in range(1, 9):
        now, set_s = plan.now(10**18 + 10 * MS * k + 1900_000 * k, 10 * MS * k, resting=False)
        assert now - start == 10 * MS * k and set_s == 0.0
        assert plan.stamp(now) == 10**18 + 10 * MS * k + 1900_000 * k


def test_a_step_and_a_sum_of_small_ones_are_told() -> None:
    plan = PlanClock()
    plan.now(10**18, 0, resting=False)
    assert plan.now(10**18 + 13 * MS, 10 * MS, resting=False)[1] == pytest.approx(0.003)
    crept, told = 3 * MS, 0.0
    for k in range(2, 40):
        crept += MS
        told = told or plan.now(10**18 + 10 * MS * k + crept, 10 * MS * k, resting=False)[1]
    assert told == pytest.approx(APART_S, abs=2e-3)


def test_clocks_that_are_read_far_apart_are_not_compared() -> None:
    plan = PlanClock()
    plan.now(10**18, 0, resting=False)
    assert plan.now(10**18 + 60 * MS, 10 * MS, resting=False, read_s=0.02) == (10**18 + 10 * MS, 0.0)


def test_at_rest_the_plan_goes_after_the_system_and_never_back() -> None:
    plan = PlanClock()
    last, _ = plan.now(10**18, 0, resting=True)
    for k in range(1, 60):
        now, _ = plan.now(10**18 + 10 * MS * k - 1500_000, 10 * MS * k, resting=True)
        assert now > last
        last = now
    assert abs(now - (10**18 + 10 * MS * 59 - 1500_000)) < 20_000


def test_the_earliest_messages_tell_whose_clock_it_is() -> None:
    here, there = ControllerWatch(), ControllerWatch()
    heard(here, [3.0, 1.0, 9.0, 2.0] * 10)
    heard(there, [5e6 + lag for lag in (3.0, 1.0, 9.0, 2.0)] * 10)
    assert here.shared() and not there.shared()
    assert there.lag_ns() == round((5e6 + 1.0) * MS) and not here.unclear(0.05) and not there.unclear(0.05)


@pytest.mark.parametrize("lags, says", [
    ([1.0] * (HEARD - 1), "only 19 of 20"),
    ([1.0, 90.0] * 20, "late"),
    ([0.5 * k for k in range(40)], "apart"),
])  # fmt: skip
def test_a_clock_that_is_not_known_well_enough_says_why(lags: list[float], says: str) -> None:
    watch = ControllerWatch()
    heard(watch, lags)
    assert says in watch.unclear(0.05)


@pytest.mark.parametrize("step_ms", [-300.0, -20.0, 40.0, 300.0])
def test_a_controller_clock_that_is_set_is_noticed_by_the_first_message(step_ms: float) -> None:
    watch = ControllerWatch()
    now = heard(watch, [2.0, 4.0] * 20)
    lag = watch.lag_ns()
    assert watch.moved_ns(lag) == 0
    heard(watch, [2.0 + step_ms], now + 10 * MS)
    assert watch.moved_ns(lag) != 0


def test_silence_and_what_is_not_seven_numbers_are_silence() -> None:
    watch = ControllerWatch()
    assert "not heard" in watch.silent(NS)
    for broken in (np.full(7, np.nan), np.zeros(6)):
        watch.see(ControllerState(NS, broken, STILL), NS)
    assert "not heard" in watch.silent(NS)
    now = heard(watch, [1.0])
    assert watch.silent(now) == "" and "old" in watch.silent(now + NS)
    watch.see(ControllerState(now, STILL, np.full(7, 0.2)), now)
    assert "moves" in watch.moving()
