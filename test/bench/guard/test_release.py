"""The rules of the real controller, release by release, each with a test; and the model against the real class."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from ecovla_ros.bench.guard import judge
from ecovla_ros.bench.guard.release import CYCLE_NS, GUARDED, RELEASES, Points, ReleasedController, points
from ecovla_ros.control.trajectory import NS
from ecovla_ros.errors import ControlError
from ecovla_ros.types import JOINTS, Trajectory

NOW = 5_000 * NS
MS = CYCLE_NS


def cruise(speed: float = 0.5, seconds: float = 2.0) -> Trajectory:
    """From rest to an even speed within 0.2 s, and to rest again at the end."""
    times = np.array([0.2, seconds - 0.2, seconds])
    levels = speed * np.array([0.1, seconds - 0.3, seconds - 0.2])
    rates = np.array([speed, speed, 0.0])
    return Trajectory(times, np.tile(levels[:, None], (1, 7)), np.tile(rates[:, None], (1, 7)))


class Driven:
    """A controller of a release, or the judge of it, cycle by cycle."""

    def __init__(self, release: str, real: bool = False, start: np.ndarray | None = None, **changes: Any) -> None:
        place = np.zeros(7) if start is None else start
        rules = dataclasses.replace(RELEASES[release], **{"limiter": False, **changes})
        self.one: Any = judge.Judge(place, release) if real else ReleasedController(place, rules)
        self.now = NOW

    def send(self, trajectory: Trajectory, stamp_ns: int = 0) -> None:
        self.one.accept(points(trajectory), self.now, stamp_ns)

    def run(self, ms: int) -> np.ndarray:
        times = self.now + MS * np.arange(ms)
        self.now += ms * MS
        return self.one.run(times, times)[0]


def again(running: Trajectory, elapsed_s: float) -> Trajectory:
    """The rest of `cruise` from `elapsed_s` on, within its even part, without a point for now."""
    return Trajectory(running.times_s[1:] - elapsed_s, running.positions[1:], running.velocities[1:])


@pytest.mark.parametrize("release, cycles", [("humble", 0), ("jazzy", 2), ("kilted", 2)])
def test_a_replacement_that_is_blended_makes_one_cycle_twice_or_not_at_all(release: str, cycles: int) -> None:
    driven = Driven(release)
    driven.send(cruise())
    before = driven.run(501)
    driven.send(again(cruise(), 0.501))
    after = driven.run(3)
    steps = np.diff(np.vstack((before[-2:], after)), axis=0)[:, 0] / 0.5e-3
    assert steps[0] == pytest.approx(1.0, abs=1e-3) and steps[1] == pytest.approx(cycles, abs=0.05)


@pytest.mark.parametrize("release", GUARDED)
def test_a_first_point_that_is_past_is_not_blended(release: str) -> None:
    driven = Driven(release)
    driven.run(5)
    there = np.full((2, 7), 0.3)
    driven.send(Trajectory(np.array([0.0, 1.0]), there, np.zeros((2, 7))), stamp_ns=driven.now - 10 * MS)
    assert driven.run(1)[0] == pytest.approx(there[0])


@pytest.mark.parametrize("release", GUARDED)
@pytest.mark.parametrize("late_ms", [0, 7, 30])
def test_what_repeats_the_running_motion_changes_nothing_whenever_it_comes(release: str, late_ms: int) -> None:
    whole = cruise()
    repeated = Trajectory(
        np.concatenate(([0.0], whole.times_s)), np.vstack((np.zeros(7), whole.positions)),
        np.vstack((np.zeros(7), whole.velocities)),
    )  # fmt: skip
    alone, replaced = Driven(release), Driven(release)
    for driven in (alone, replaced):
        driven.send(repeated, stamp_ns=NOW)
        driven.run(500 + late_ms)
    replaced.send(repeated, stamp_ns=NOW)
    assert np.abs(replaced.run(800) - alone.run(800)).max() < 1e-12


def test_the_first_blend_turns_the_controller_whole_turns_and_the_limiter_walks_them() -> None:
    turned = np.array([2 * math.pi, 0, 0, 0, 0, 0, 0])
    for limiter, most in ((False, 6.0), (True, 1.4)):
        driven = Driven("kilted", start=turned, limiter=limiter)
        first = driven.run(5)[-1]
        driven.send(Trajectory(np.array([2.0]), np.zeros((1, 7)), np.zeros((1, 7))))
        track = np.vstack((first, driven.run(20)))
        speed = np.abs(np.diff(track, axis=0)).max() * (1.0 if not limiter else 1e3)
        assert speed > most if not limiter else 1.3 < speed < most


def test_the_limiter_is_off_by_default_before_kilted() -> None:
    assert [RELEASES[name].limiter for name in ("humble", "jazzy", "kilted")] == [False, False, True]


def test_on_master_the_stamp_of_a_trajectory_that_has_begun_is_not_looked_at_unless_it_is_told_so() -> None:
    whole = cruise()
    repeated = Trajectory(
        np.concatenate(([0.0], whole.times_s)), np.vstack((np.zeros(7), whole.positions)),
        np.vstack((np.zeros(7), whole.velocities)),
    )  # fmt: skip
    steps = {}
    for replacement in (True, False):
        driven = Driven("master", replacement=replacement)
        driven.send(repeated, stamp_ns=NOW)
        before = driven.run(500)[-1]
        driven.send(repeated, stamp_ns=NOW)
        steps[replacement] = float((driven.run(1)[0] - before)[0])
    assert steps[True] < -0.1 and steps[False] == pytest.approx(0.5e-3, rel=1e-3)


def _points(**changes: Any) -> Points:
    good = Points(np.array([100 * MS, 200 * MS]), np.zeros((2, 7)), np.zeros((2, 7)))
    return dataclasses.replace(good, **changes)


NAN = np.full((2, 7), np.nan)
MESSAGES = {
    "good": (_points(), {}, True),
    "last velocity within a float's epsilon": (_points(velocities=np.array([[0.0] * 7, [1e-7] * 7])), {}, True),
    "last velocity of 5e-6": (_points(velocities=np.array([[0.0] * 7, [5e-6] * 7])), {}, False),
    "effort": (_points(), {"effort": True}, False),
    "NaN position": (_points(positions=NAN), {}, True),
    "no velocities": (_points(velocities=NAN), {}, True),
    "velocities in one point": (_points(velocities=np.vstack((NAN[:1], np.zeros((1, 7))))), {}, True),
    "negative first time": (_points(times_ns=np.array([-50 * MS, 200 * MS])), {}, True),
    "times that fall": (_points(times_ns=np.array([200 * MS, 100 * MS])), {}, False),
    "ended": (_points(), {"stamp_ns": NOW - 300 * MS}, False),
    "begun": (_points(), {"stamp_ns": NOW - 150 * MS}, True),
    "still to come": (_points(), {"stamp_ns": NOW + 150 * MS}, True),
}
"""Name -> message, how it is sent, whether it is taken."""


@pytest.mark.parametrize("name", MESSAGES)
def test_messages_are_refused_as_there(name: str) -> None:
    message, more, taken = MESSAGES[name]
    for release in GUARDED:
        controllers: list[Any] = [ReleasedController(np.zeros(7), RELEASES[release])]
        if judge.library(release):
            controllers.append(judge.Judge(np.zeros(7), release))
        for controller in controllers:
            if taken:
                controller.accept(message, NOW, **more)
            else:
                with pytest.raises(ControlError):
                    controller.accept(message, NOW, **more)


def test_joints_are_asked_for_by_name_and_one_that_is_named_twice_passes() -> None:
    controller = ReleasedController(np.zeros(7), RELEASES["kilted"])
    controller.accept(_points(), NOW, joint_names=(*JOINTS[:6], JOINTS[0]))
    for names in (JOINTS[:6], (*JOINTS[:6], "elbow")):
        with pytest.raises(ControlError):
            controller.accept(_points(), NOW, joint_names=names)


@pytest.mark.parametrize("release", GUARDED)
@pytest.mark.parametrize("seed", range(3))
def test_the_model_commands_what_the_real_class_does(release: str, seed: int) -> None:
    if judge.library(release) is None:
        pytest.skip(f"no judge of {release}: {judge.FOLDER} names no folder with one")
    rng = np.random.default_rng(seed)
    start = rng.uniform(-4.0, 4.0, 7)
    model, real = Driven(release, start=start), Driven(release, real=True, start=start)
    worst = 0.0
    for _ in range(40):
        count = int(rng.integers(1, 5))
        times = np.cumsum(rng.uniform(0.01, 0.3, count)) - rng.choice((0.0, 0.005))
        rows = model.one.reference + np.cumsum(rng.normal(0.0, 0.05, (count, 7)), axis=0)
        rates = rng.normal(0.0, 0.3, (count, 7))
        rates[-1] = 0.0
        stamp = 0 if rng.random() < 0.5 else model.now + int(rng.uniform(-0.05, 0.05) * NS)
        message = Trajectory(np.maximum(times, 1e-3), rows, rates if rng.random() < 0.8 else None)
        outcomes = []
        for driven in (model, real):
            try:
                driven.send(message, stamp)
                outcomes.append(True)
            except ControlError:
                outcomes.append(False)
        assert outcomes[0] == outcomes[1]
        ms = int(rng.integers(1, 400))
        worst = max(worst, float(np.abs(model.run(ms) - real.run(ms)).max()))
    assert worst < 1e-9
