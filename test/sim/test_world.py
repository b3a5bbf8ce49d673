"""The simulated world: deterministic, placed by the seed alone, commanded as the arm is, and honest about success."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("mujoco")

from ecovla_ros.config import SimConfig  # noqa: E402
from ecovla_ros.errors import ControlError, SimulationError  # noqa: E402
from ecovla_ros.sim import placement  # noqa: E402
from ecovla_ros.sim.env import KinovaEnv  # noqa: E402
from ecovla_ros.sim.tasks import TASKS  # noqa: E402
from ecovla_ros.sim.world import START_NS, TICK_NS, World  # noqa: E402
from ecovla_ros.types import CAMERAS, Trajectory  # noqa: E402

OBJECTS = ("apple", "banana", "bottle")


@pytest.fixture(scope="module")
def world() -> World:
    return World()


def state(world: World) -> np.ndarray:
    arm = world.arm_state()
    return np.concatenate([arm.joints, arm.velocity, [arm.gripper], *(world.pose(name)[0] for name in OBJECTS)])


def drive(world: World, seed: int) -> np.ndarray:
    """Twenty periods of a fixed wave of the joints, the gripper closing half-way."""
    world.reset("apple", seed)
    start = world.commanded()
    for i in range(20):
        world.step(start + 0.1 * np.sin(0.3 * i) * np.ones(7), float(i > 10))
    return state(world)


def test_the_same_seed_gives_the_same_states_and_another_does_not(world: World) -> None:
    first = drive(world, 7)
    assert np.array_equal(first, drive(world, 7))
    assert np.array_equal(first, drive(World(), 7))
    assert not np.allclose(first[15:], drive(world, 8)[15:], atol=1e-3)


def test_the_scene_of_a_seed_is_the_same_for_every_task(world: World) -> None:
    scenes = []
    for task in TASKS:
        world.reset(task, 3)
        scenes.append(state(world))
    assert all(np.array_equal(scenes[0], other) for other in scenes[1:])


def test_placements_keep_their_distances() -> None:
    for seed in range(50):
        poses = placement.sample(np.random.default_rng(seed)).poses
        spots = [np.array(poses[name][:2]) for name in (*OBJECTS, "cube_0", "cube_1")]
        gaps = [np.linalg.norm(a - b) for i, a in enumerate(spots) for b in spots[:i]]
        assert min(gaps) > placement.SPACING
        assert all(placement.cabinet_distance(*spot, poses["cabinet"]) > placement.CABINET_GAP for spot in spots)


def test_objects_stand_still_when_nothing_happens(world: World) -> None:
    world.reset("apple", 5)
    before = state(world)
    held = world.commanded()
    for _ in range(20):
        world.step(held, 0.0)
    after = state(world)
    assert after[15:] == pytest.approx(before[15:], abs=2e-3)
    assert after[:7] == pytest.approx(held, abs=2e-3), "gravity is compensated: no droop"


def test_ticks_advance_the_clock_and_reach_what_was_commanded(world: World) -> None:
    world.reset("apple", 0)
    assert world.now_ns == START_NS > 0
    target = world.commanded() + 0.05
    world.accept(Trajectory(np.array([0.1]), target[None]))
    for _ in range(10):
        world.tick()
    assert world.now_ns == START_NS + 10 * TICK_NS
    assert world.commanded() == pytest.approx(target, abs=1e-12)
    for _ in range(50):
        world.tick()
    assert world.arm_state().joints == pytest.approx(target, abs=2e-3)
    assert np.abs(world.arm_state().velocity).max() < 0.02


def test_continuous_joints_are_reported_wrapped(world: World) -> None:
    world.reset("apple", 0)
    q = world.commanded()
    for _ in range(12):
        q[0] += 0.3
        world.step(q, 0.0)
    assert world.commanded()[0] > np.pi
    assert abs(world.arm_state().joints[0]) <= np.pi


def test_the_gripper_takes_its_time_and_reports_its_opening(world: World) -> None:
    world.reset("apple", 0)
    held = world.commanded()
    world.step(held, 1.0)
    assert 0.02 < world.arm_state().gripper < 0.4
    for _ in range(6):
        world.step(held, 1.0)
    assert world.arm_state().gripper > 0.95
    with pytest.raises(SimulationError, match="0 is open"):
        world.gripper(1.5)


@pytest.mark.parametrize("task", list(TASKS))
def test_success_needs_the_object_inside_and_the_hand_away(world: World, task: str) -> None:
    world.reset(task, 2)
    at, axes = world.pose(TASKS[task].goal)
    assert not world.success()
    world.place(TASKS[task].object, at[0], at[1], 0.0, 0.06)
    assert world.success()
    world.step(world.commanded(), 1.0)
    for _ in range(6):
        world.step(world.commanded(), 1.0)
    assert world.inside() and not world.success(), "not with the gripper closed"
    outside = at + axes @ np.array([-0.2, 0.0, 0.0])
    world.place(TASKS[task].object, outside[0], outside[1])
    assert not world.inside()


def test_bad_names_and_commands_say_what_is_valid(world: World) -> None:
    with pytest.raises(SimulationError, match="apple, banana, bottle"):
        world.reset("aple", 0)
    with pytest.raises(SimulationError, match="basket"):
        world.pose("bascet")
    world.reset("apple", 0)
    with pytest.raises(ControlError, match="finite"):
        world.step(np.full(7, np.nan), 0.0)
    with pytest.raises(ControlError, match=r"\(N, 7\)"):
        world.step(np.zeros(6), 0.0)


def test_env_gives_observations_and_its_two_ways_of_commanding_agree() -> None:
    env = KinovaEnv(SimConfig(width=40, height=32))
    seen = env.reset("bottle", 4)
    assert seen.instruction == "put the pill bottle in the cabinet"
    assert seen.stamp_ns == env.now_ns == START_NS
    assert tuple(seen.images) == CAMERAS
    assert all(image.shape == (32, 40, 3) and image.dtype == np.uint8 for image in seen.images.values())
    target = env.world.commanded() + 0.04
    env.step(target, 1.0)
    by_step = env.observe()
    env.reset("bottle", 4)
    env.follow(Trajectory(np.array([0.1]), target[None]), 1.0, 4)
    env.follow(None, None, 6)
    by_follow = env.observe()
    assert np.array_equal(by_step.joints, by_follow.joints) and by_step.gripper == by_follow.gripper
    assert by_step.stamp_ns == by_follow.stamp_ns
    assert all(np.array_equal(by_step.images[name], by_follow.images[name]) for name in CAMERAS)
