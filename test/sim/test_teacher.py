"""The teacher finds its place from the world, whoever drove."""

from __future__ import annotations

import numpy as np
import pytest

from ecovla_ros.sim.tasks import TASKS
from ecovla_ros.sim.teacher import Teacher
from ecovla_ros.sim.world import World


@pytest.fixture(scope="module")
def world():
    return World()


def drive(world, teacher, periods, spoil=lambda period, joints, closed: (joints, closed)):
    for period in range(periods):
        teacher.follow()
        joints, closed = teacher.rollout(1)
        if world.step(*spoil(period, joints[0], float(closed[0]))):
            return period
    return None


@pytest.mark.parametrize("task", TASKS)
def test_its_first_action_solves_the_task(world, task):
    world.reset(task, 60_001)
    assert drive(world, Teacher(world), 200) is not None


def test_jaws_that_close_on_nothing_are_opened_again(world):
    world.reset("apple", 60_002)
    teacher = Teacher(world)

    def close_early(period, joints, closed):
        return joints, 1.0 if 5 <= period < 15 else closed

    assert drive(world, teacher, 15, close_early) is None
    teacher.follow()
    assert teacher.rollout(3)[1].max() == 0.0  # it says: open
    assert drive(world, teacher, 250) is not None


def test_an_object_dropped_on_the_way_is_taken_again(world):
    world.reset("banana", 60_003)
    teacher = Teacher(world)
    dropped = []

    def drop(period, joints, closed):
        lifted = world.pose("banana")[0][2] > 0.08
        if lifted and len(dropped) < 6:
            dropped.append(period)
        return joints, 0.0 if lifted and len(dropped) < 6 else closed

    assert drive(world, teacher, 300, drop) is not None
    assert dropped


def test_labels_go_on_with_the_velocity_that_was_driven(world):
    world.reset("apple", 60_004)
    teacher = Teacher(world)
    drive(world, teacher, 8)
    teacher.follow()
    world.step(world.commanded() + 0.01, 0.0)
    teacher.follow()
    first = teacher.rollout(1)[0][0]
    assert np.abs(first - world.commanded() - 0.01).max() <= 0.019 + 1e-9  # at most one period's change of velocity
