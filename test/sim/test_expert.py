"""The expert: solves the tasks within the arm's limits, recovers, and its rollout is what it then does."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("mujoco")

from ecovla_ros.bench.success import expert as bench  # noqa: E402
from ecovla_ros.control.kinematics import pose  # noqa: E402
from ecovla_ros.sim.events import Event, apply  # noqa: E402
from ecovla_ros.sim.expert import Expert  # noqa: E402
from ecovla_ros.sim.tasks import TASKS  # noqa: E402
from ecovla_ros.sim.world import World  # noqa: E402

STEPS = 160


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@pytest.mark.parametrize("task", list(TASKS))
def test_it_succeeds_within_the_normal_profile(world: World, task: str) -> None:
    for seed in (60_000, 60_001, 60_002):
        world.reset(task, seed)
        expert, commands, solved = Expert(world), [world.commanded()], False
        while not solved and len(commands) <= STEPS:
            solved = world.step(*expert.act())
            commands.append(world.commanded())
        assert solved
        velocity = np.diff(commands, axis=0) / 0.1
        assert np.abs(velocity).max() <= 0.55
        assert np.abs(np.diff(velocity, axis=0)).max() <= 0.2 + 1e-9
        tool = np.array([pose(q)[0] for q in commands])
        assert np.linalg.norm(np.diff(tool, axis=0), axis=1).max() / 0.1 <= 0.22


@pytest.mark.parametrize("task", list(TASKS))
def test_standing_still_does_not_succeed(world: World, task: str) -> None:
    world.reset(task, 60_000)
    held = world.commanded()
    assert not any(world.step(held, 0.0) for _ in range(30))


def test_the_rollout_is_what_it_then_does(world: World) -> None:
    for task in TASKS:
        world.reset(task, 60_003)
        expert = Expert(world)
        for _ in range(12):
            joints, closed = expert.rollout(8)
            again, _ = expert.rollout(8)
            assert np.array_equal(joints, again)
            for i in range(8):
                if i == 0:
                    assert np.array_equal(expert.rollout(1)[0][0], joints[0])
                done = expert.act()
                assert done[0] == pytest.approx(joints[i], abs=1e-9) and done[1] == closed[i]
                world.step(*done)


def test_it_goes_on_from_the_perturbed_state_and_still_succeeds(world: World) -> None:
    world.reset("apple", 60_004)
    expert, rng, solved = Expert(world), np.random.default_rng(0), False
    for _ in range(STEPS):
        label = expert.rollout(4)[0]
        noise = rng.normal(0.0, 0.002 if expert.fine else 0.01, 7)
        joints, closed = expert.act(noise)
        assert joints == pytest.approx(label[0] + noise)
        solved = world.step(joints, closed)
        assert world.commanded() == pytest.approx(joints)
        if solved:
            break
    assert solved


@pytest.mark.parametrize("when", [5, 30])
def test_it_follows_a_moved_object(world: World, when: int) -> None:
    """At 30 the apple is in the grasp: it is taken out, which is a lost grasp."""
    world.reset("apple", 60_005)
    expert, solved = Expert(world), False
    for i in range(2 * STEPS):
        if i == when:
            spot = world.pose("apple")[0]
            move = {"object": "apple", "dx": 0.47 - float(spot[0]), "dy": 0.02 - float(spot[1])}
            apply(world, Event("object_move", values=move))
        solved = world.step(*expert.act())
        if solved:
            break
    assert solved


def test_it_follows_a_moved_goal(world: World) -> None:
    world.reset("banana", 60_006)
    expert, solved = Expert(world), False
    for i in range(100):  # too few to fail first and try again
        if i == 40:
            apply(world, Event("object_move", values={"object": "basket", "dx": -0.12, "dy": -0.08}))
        solved = world.step(*expert.act())
        if solved:
            break
    assert solved


def test_afterwards_it_holds_still_with_the_gripper_open(world: World) -> None:
    world.reset("apple", 60_007)
    expert = Expert(world)
    for _ in range(STEPS):
        world.step(*expert.act())
    assert expert.done and world.success()
    joints, closed = expert.rollout(16)
    assert np.abs(joints - world.commanded()).max() < 2e-3 and not closed.any()


def test_what_cannot_be_grasped_is_given_up(world: World) -> None:
    world.reset("apple", 60_008)
    expert = Expert(world)
    for i in range(60):
        if i == 10:
            world.place("apple", -0.5, 0.5, 0.0, -0.6)
        world.step(*expert.act())
    joints, closed = expert.rollout(4)
    assert expert.done and np.abs(joints - world.commanded()).max() < 2e-3 and not closed.any()


def test_the_bench_counts_and_is_the_same_in_two_processes() -> None:
    rows = bench.measure(2, 60_010, processes=1)
    assert [row["task"] for row in rows] == list(TASKS)
    assert all(row["episodes"] == 2 and row["low"] <= row["successes"] / 2 <= row["high"] for row in rows)
    assert bench.measure(2, 60_010, processes=2) == rows
