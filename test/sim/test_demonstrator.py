"""The expert that is told where things are solves what the expert that sees the world does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ecovla_ros.errors import EcovlaError
from ecovla_ros.sim.demonstrator import HORIZON, LONGEST_S, Demonstrator
from ecovla_ros.sim.expert import PERIOD_S
from ecovla_ros.sim.mirror import THINGS
from ecovla_ros.sim.tasks import TASKS
from ecovla_ros.sim.world import World


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@pytest.fixture(scope="module")
def expert() -> Demonstrator:
    return Demonstrator()


def tell(expert: Demonstrator, world: World, but: str = "") -> None:
    """The poses that another simulator would tell."""
    for name in THINGS:
        if name != but:
            body = world.body(name)
            expert.put(name, world.data.xpos[body], world.data.xquat[body])


def begin(expert: Demonstrator, world: World, task: str, seed: int) -> None:
    world.reset(task, seed)
    expert.begin(task)


@pytest.mark.parametrize("every", [1, 4], ids=["each period", "as the guard replans"])
@pytest.mark.parametrize("task", TASKS)
def test_chunks_from_poses_and_measured_joints_solve_the_task(
    expert: Demonstrator, world: World, task: str, every: int
) -> None:
    begin(expert, world, task, 60_001)
    chunk = None
    for period in range(200):
        tell(expert, world)
        told = expert.answer(world.arm_state())
        assert told is not None and told.stamp_ns == world.now_ns and told.period_s == PERIOD_S
        assert told.joints.shape == (HORIZON, 7) and told.gripper.shape == (HORIZON,)
        if period % every == 0:
            chunk, base = told, period
        assert chunk is not None
        if world.step(chunk.joints[period - base], float(chunk.gripper[period - base])):
            return
    raise AssertionError("not solved")


def test_an_object_that_was_moved_is_taken_where_it_is(expert: Demonstrator, world: World) -> None:
    begin(expert, world, "apple", 60_002)
    for period in range(250):
        if period == 12:
            at = world.pose("apple")[0]
            world.place("apple", at[0] - 0.04, at[1] + 0.04)
        tell(expert, world)
        chunk = expert.answer(world.arm_state())
        assert chunk is not None
        if world.step(chunk.joints[0], float(chunk.gripper[0])):
            return
    raise AssertionError("not solved")


def test_nothing_is_said_before_all_is_known_and_once_a_period(world: World) -> None:
    expert = Demonstrator()
    world.reset("apple", 60_003)
    tell(expert, world)
    state = world.arm_state()
    assert expert.answer(state) is None, "no task"
    expert.begin("apple")
    for missing in THINGS:
        tell(expert, world, but=missing)
        later = state = replace(state, stamp_ns=state.stamp_ns + 100_000_000)
        if missing == THINGS[0]:
            assert expert.answer(later) is None, f"{missing} was not told"
    state = replace(state, stamp_ns=state.stamp_ns + 100_000_000)
    assert expert.answer(state) is not None
    soon = replace(state, stamp_ns=state.stamp_ns + 50_000_000)
    assert expert.answer(soon) is None, "half a period"
    assert expert.answer(replace(state, stamp_ns=state.stamp_ns + 96_000_000)) is not None, (
        "joint states come at 100 Hz"
    )
    expert.begin("banana")
    assert expert.answer(replace(state, stamp_ns=state.stamp_ns + 10**9)) is None, "what was told is of another scene"
    with pytest.raises(EcovlaError, match="pear"):
        expert.begin("pear")


def test_after_a_silence_or_a_clock_that_went_back_it_begins_from_where_the_arm_is(
    expert: Demonstrator, world: World
) -> None:
    """The velocity of a jump is nobody's."""
    for jump_ns in (round(LONGEST_S * 1e9) + 10**9, -(10**9)):
        begin(expert, world, "apple", 60_004)
        tell(expert, world)
        state = world.arm_state()
        assert expert.answer(state) is not None
        moved = replace(state, stamp_ns=state.stamp_ns + jump_ns, joints=state.joints + 0.3)
        chunk = expert.answer(moved)
        assert chunk is not None and np.abs(chunk.joints[0] - moved.joints).max() < 0.06


def test_a_continuous_joint_that_is_told_wrapped_is_followed_over_the_seam(world: World) -> None:
    expert = Demonstrator()
    begin(expert, world, "apple", 60_005)
    tell(expert, world)
    state = world.arm_state()
    turned = replace(state, joints=state.joints + np.array([2 * np.pi, 0, 0, 0, -2 * np.pi, 0, 0]))
    plain, other = Demonstrator(), Demonstrator()
    for each, told in ((plain, state), (other, turned)):
        each.begin("apple")
        tell(each, world)
        assert (chunk := each.answer(told)) is not None
        assert np.abs(chunk.joints[0] - state.joints).max() < 0.1
