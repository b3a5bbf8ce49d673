"""Where the controller is on what it was sent: what it took over, what was lost, and how its clock moved."""

from __future__ import annotations

import numpy as np
import pytest

from ecovla_ros.control.place import PlaceWatch
from ecovla_ros.types import ControllerState

NS, MS = 1_000_000_000, 1_000_000
APART = 5 * NS
BACK_MS, ON_ITS_WAY_MS = 20, 25


def say(watch: PlaceWatch, now_ms: float, began_ms: float, clock_ms: float = 0.0, apart: int = 0) -> None:
    """At `now_ms` the controller is on what was stamped `began_ms`; its clock was set by `clock_ms` since it began."""
    stamp = round((100_000 + now_ms + clock_ms) * MS) + apart
    place_s = (now_ms - began_ms) / 1e3
    watch.see(ControllerState(stamp, np.zeros(7), np.zeros(7), place_s), round((100_000 + now_ms) * MS))


def send(watch: PlaceWatch, now_ms: float, apart: int | None = None) -> None:
    watch.sent(round((100_000 + now_ms - BACK_MS) * MS), apart, round((100_000 + now_ms) * MS))


def at(ms: float) -> int:
    return round((100_000 + ms) * MS)


@pytest.mark.parametrize("step_ms", [-24.0, -3.0, 0.3, 9.0, 24.0])
def test_the_place_tells_how_far_another_clock_was_set(step_ms: float) -> None:
    watch = PlaceWatch()
    send(watch, 0.0, APART)
    for now in (30.0, 40.0):
        say(watch, now, -BACK_MS, 0.0, APART)
    assert watch.apart_ns(at(45.0)) == APART
    say(watch, 50.0, -BACK_MS, step_ms, APART)
    if abs(step_ms) > 1.0:
        assert watch.apart_ns(at(50.0)) is None  # one message alone may come from a cycle that was late
    say(watch, 60.0, -BACK_MS, step_ms, APART)
    assert watch.apart_ns(at(60.0)) == APART + round(step_ms * MS)
    assert watch.apart_ns(at(200.0)) is None  # too old


def test_what_was_not_taken_over_in_time_was_lost_and_only_that() -> None:
    watch = PlaceWatch()
    send(watch, 0.0)
    say(watch, 60.0, -BACK_MS)
    send(watch, 250.0)
    for now in range(260, 345, 10):
        say(watch, now, -BACK_MS)
        assert not watch.lost(at(now)) and watch.taken(at(now), ON_ITS_WAY_MS * MS) == (now <= 275)
    say(watch, 360.0, -BACK_MS)
    assert watch.lost(at(360.0))
    watch.unsent()
    assert not watch.lost(at(360.0)) and watch.taken(at(360.0), 0)


@pytest.mark.parametrize("crept_ms", np.arange(-20.0, 20.1, 4.0))
@pytest.mark.parametrize("gap_ms", [10.0, 20.0, 30.0])
def test_a_stop_right_after_a_chunk_is_not_taken_for_lost_where_a_shared_clock_crept(
    crept_ms: float, gap_ms: float
) -> None:
    watch = PlaceWatch()
    send(watch, 0.0)
    say(watch, 60.0, -BACK_MS, crept_ms)
    send(watch, 250.0)
    send(watch, 250.0 + gap_ms)
    for now in range(290, 600, 10):
        say(watch, now, 230.0 + gap_ms, crept_ms)
        assert not watch.lost(at(now))


def test_a_controller_that_runs_something_else_is_on_nothing_that_was_sent() -> None:
    watch = PlaceWatch()
    say(watch, 0.0, -500.0)
    assert watch.taken(at(0.0), 0) and watch.apart_ns(at(0.0)) is None and not watch.lost(at(0.0))
    send(watch, 10.0)
    for now in (60.0, 70.0, 120.0):
        say(watch, now, -500.0)
    assert not watch.taken(at(120.0), 0) and watch.lost(at(120.0)) and watch.apart_ns(at(120.0)) is None
