"""The fault campaign can fail, does not, and its tables say what was measured; chunks through the guard are smooth."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from ecovla_ros.bench.guard import campaign, faults, playback
from ecovla_ros.bench.guard.controller import FakeController
from ecovla_ros.control import guard as guards
from ecovla_ros.control import kinematics
from ecovla_ros.control.limits import load
from ecovla_ros.errors import ControlError
from ecovla_ros.publish import tables as report
from ecovla_ros.types import Trajectory

HOME = np.array([0.0, 0.5, 3.14, -1.6, 0.0, -1.0, 1.57])
STILL = np.zeros((1, 7))


@pytest.mark.parametrize("name", faults.CASES)
def test_no_fault_leads_to_a_command_outside_limits(name: str) -> None:
    outcome = campaign.case(name, 11)
    assert not outcome["violations"] and not outcome["crash"] and not outcome["unexplained"] and not outcome["moving"]
    assert outcome["commands"] > 0


def test_a_guard_without_checks_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    admit = guards.admit

    def careless(*arguments: Any) -> Any:
        site = arguments[-1]
        wide = dataclasses.replace(
            site.limits, velocity=np.full(7, 9.0), acceleration=np.full(7, 99.0), jerk=np.full(7, 1e4), tool_speed=9.0
        )
        return admit(*arguments[:-1], dataclasses.replace(site, limits=wide))

    monkeypatch.setattr(guards, "admit", careless)
    found = [campaign.case(name, seed)["violations"] for name in ("noise", "small jumps") for seed in range(2)]
    assert {"acceleration", "jerk"} <= {name for names in found for name in names}


def test_a_case_is_the_same_again() -> None:
    assert campaign.case("mixture", 3) == campaign.case("mixture", 3)


@pytest.mark.parametrize("name, seed", [("garbage", 1514), ("mixture", 1523)])
def test_cases_that_once_went_outside(name: str, seed: int) -> None:
    """An arm that was switched on outside its box and came back; a tool whose speed peaked between two samples."""
    assert not campaign.case(name, seed)["violations"]


@pytest.mark.parametrize("way, outside", [(1.0, False), (-1.0, True)])
def test_an_arm_outside_its_box_may_come_back_and_not_go_further(way: float, outside: bool) -> None:
    controller = FakeController(HOME, 10**9)
    lower = kinematics.tool_motion(HOME[None], STILL)[0][0] + [0.05, -1.0, -1.0]
    away = HOME + way * np.array([0, 0.1, 0, 0.1, 0, 0, 0])
    controller.accept(Trajectory(np.array([6.0]), away[None], STILL))
    controller.run(10**10)
    moved = kinematics.tool_motion(away[None], STILL)[0][0] - (lower - [0.05, -1.0, -1.0])
    assert (moved[0] < -0.01) == outside and abs(moved[0]) < 0.045, "towards the box, or away from it"
    assert ("box" in controller.violations(load("normal"), (lower, lower + 3.0))) == outside


@pytest.mark.parametrize("limit, trajectory", [
    ("position", Trajectory(np.array([9.0]), HOME[None] + np.array([0, 2.0, 0, 0, 0, 0, 0]), STILL)),
    ("velocity", Trajectory(np.array([0.5]), HOME[None] + 0.9, STILL)),
    ("step", Trajectory(np.array([1e-3, 1.0]), np.stack((HOME + 0.1, HOME + 0.1)), np.zeros((2, 7)))),
    ("acceleration", Trajectory(np.array([0.1]), HOME[None] + 0.02, STILL)),
    ("jerk", Trajectory(np.array([0.2]), HOME[None] + 0.012, STILL)),
    ("tool_speed", Trajectory(np.array([2.0]), HOME[None] + np.array([1.2, 0, 0, 0, 0, 0, 0]), STILL)),
    ("box", Trajectory(np.array([6.0]), HOME[None] + np.array([0, 0.6, 0, 0, 0, 0, 0]), STILL)),
])  # fmt: skip
def test_the_controller_sees_each_limit_that_is_broken(limit: str, trajectory: Trajectory) -> None:
    controller = FakeController(HOME, 10**9)
    controller.run(20_000_000)
    controller.accept(trajectory)
    controller.run(10**10)
    box = np.array([0.15, -0.5, 0.2]), np.array([0.85, 0.5, 0.8])
    assert limit in controller.violations(load("normal"), box)
    with pytest.raises(ControlError, match="not zero"):
        controller.accept(Trajectory(np.array([1.0]), HOME[None], np.ones((1, 7))))


def test_through_the_guard_a_motion_is_as_smooth_as_it_was_meant_and_a_point_at_a_time_is_not() -> None:
    rows = {row["way"]: row for row in playback.measure(1)}
    guarded, single = rows["through the guard"], rows["one point per message"]
    assert guarded["ratio"] < 1.3 and guarded["rest_share"] == 0.0 and guarded["rms_error_mrad"] < 3.0
    assert single["ratio"] > 10.0 and single["rest_share"] > 0.05
    assert rows["chunks with velocities"]["ratio"] > 1.5 * rows["chunks with velocities, aligned"]["ratio"]


def test_the_tables_say_what_was_measured() -> None:
    rest: dict[str, Any] = {"machine": {"cpu": "x", "cores": 2}, "versions": {}, "commit": "c", "settings": {
        "cases": 28, "seed": 0}}  # fmt: skip
    made = campaign.table([campaign.case(name, 0) for name in ("none", "NaN")])
    text = report.faults({**rest, "rows": made})
    assert "| all | 2 | 0 | 0 | 1 | 0 | 0 |" in text and "`ecovla faults --cases 28 --seed 0`" in text
    killed = {
        "trial": "policy killed",
        "rest_s": 0.5,
        "speed_rad_s": 0.3,
        "violations": [],
        "step_rad_s2": 0.1,
        "reached": True,
    }
    share = {"trial": "guard", "share": 0.05, "reached": True}
    jitter = {"trial": "jitter", "p99_ms": 7.0, "reached": False}
    text = report.trial({**rest, "rows": [killed, share, jitter]})
    assert "at rest after 0.50 s from 0.30 rad/s; outside limits: nothing; largest" in text
    assert "5.0 % | yes" in text and "p99 7 ms | no" in text
    assert "1.30 |" in report.playback({**rest, "playback": [{"way": "w", "rms_acceleration": 1.0, "ratio": 1.3,
                                       "peak_jerk": 9.0, "rest_share": 0.1, "rms_error_mrad": 2.0}]})  # fmt: skip
