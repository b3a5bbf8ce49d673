"""Where two motions may not be joined, nothing is sent until the first is over; what moves or is lost is noticed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from ecovla_ros.bench.guard.campaign import HOME
from ecovla_ros.bench.guard.controller import FakeController
from ecovla_ros.bench.guard.faults import NS, Rig, Scene, healthy
from ecovla_ros.config import ControlConfig
from ecovla_ros.control.guard import Guard
from ecovla_ros.control.limits import load
from ecovla_ros.types import Trajectory

LIMITS = load("gentle")
Act = Callable[[Rig], object]


class WatchedController(FakeController):
    """Keeps whether it was moving when it was sent something, and on which trajectory."""

    def __init__(self) -> None:
        super().__init__(HOME, 100 * NS)
        self.moved: list[bool] = []

    def accept(self, trajectory: Trajectory, stamp_ns: int = 0) -> None:
        self.moved.append(self.moving)
        super().accept(trajectory, stamp_ns)


def rig(clock: str, delay_s: tuple[float, float], heard: bool = True, replan_s: float = 0.1) -> Rig:
    """An enabled guard, and a controller that gets everything between the two of `delay_s` late."""
    stamps = {"never": "never", "same": "auto" if heard else "always", "other": "auto"}[clock]
    config = ControlConfig(profile="gentle", replan_s=replan_s, stamp_commands=stamps)
    made = Rig(
        Guard(config, LIMITS, steady=True), WatchedController(), np.random.default_rng(5),
        Scene("kilted", clock, delay_s, False, heard),
    )  # fmt: skip
    go_on(made, 25, policy=False)
    assert made.guard.enable(True, made.clock)[0]
    return made


def go_on(made: Rig, ticks: int, policy: bool = True) -> None:
    """So many ticks of 10 ms, of a healthy policy or of none."""
    for k in range(ticks):
        if policy:
            healthy(made, k)
        else:
            made.report()
        made.tick()


def outside(made: Rig) -> set[str]:
    return made.controller.violations(LIMITS)


def again(made: Rig) -> None:
    """Everything that an operator can do to go on at once."""
    made.guard.reset(made.clock)
    made.guard.enable(True, made.clock)


INTERRUPTIONS: dict[str, Act] = {
    "clock set back": lambda made: made.set_clock(-0.3),
    "clock set forward": lambda made: made.set_clock(0.7),
    "e-stop": lambda made: (made.guard.on_estop(True, made.clock), made.guard.on_estop(False, made.clock)),
    "hold": lambda made: made.guard.hold(made.clock),
    "disable": lambda made: made.guard.enable(False, made.clock),
    "fault": lambda made: (made.guard.on_fault("stalled", made.clock), made.guard.on_fault("", made.clock)),
    "lease": lambda made: made.guard.withdraw("whoever enabled is gone", made.clock),
}


@pytest.mark.parametrize("heard", [True, False])
@pytest.mark.parametrize("act", INTERRUPTIONS)
def test_without_stamps_nothing_is_sent_to_a_controller_that_may_still_move(act: str, heard: bool) -> None:
    made = rig("never", (0.0, 0.09), heard)
    go_on(made, 90)
    for phase in range(1, 12):
        INTERRUPTIONS[act](made)
        for k in range(45 + phase):
            again(made)
            healthy(made, k)
            made.tick()
    controller = made.controller
    assert isinstance(controller, WatchedController)
    assert len(controller.moved) > 4 and not any(controller.moved) and not outside(made)


@pytest.mark.parametrize("step_s", [-0.02, -0.009, -0.001, 0.0007, 0.004, 0.009])
@pytest.mark.parametrize("delay_s", [(0.0, 0.0), (0.0, 0.03)])
def test_another_machines_clock_that_is_set_a_little_in_mid_motion_breaks_no_limit(
    step_s: float, delay_s: tuple[float, float]
) -> None:
    made = rig("other", delay_s, replan_s=0.25)
    go_on(made, 90)
    for phase in (3, 11, 14, 24):
        go_on(made, 50 + phase)
        while not made.quiet:
            go_on(made, 1, policy=False)
        assert made.controller.moving
        made.set_controller_clock(step_s)
    go_on(made, 60)
    assert made.clock_set and not outside(made)
    assert abs(step_s) > 0.01 or made.guard.tick(made.clock).status.state in ("ARMED", "RUNNING")  # it is followed


@pytest.mark.parametrize("clock", ["same", "other", "never"])
def test_what_is_lost_on_its_way_is_noticed_and_the_next_motion_begins_where_the_arm_is(clock: str) -> None:
    made = rig(clock, (0.01, 0.01), replan_s=0.25)
    go_on(made, 90)
    for losses in (1, 2, 3):
        made.lossy = True
        go_on(made, 100 * losses)
        made.lossy = False
        go_on(made, 100)
    assert made.guard.tick(made.clock).status.counters["place"] > 0 and not outside(made)
    assert made.guard.tick(made.clock).status.state != "LATCHED"
