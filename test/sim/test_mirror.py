"""The mirror of another simulator: judges by what it was told, and carries the arm's weight."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest

from ecovla_ros.errors import SimulationError
from ecovla_ros.sim.mirror import THINGS, Mirror
from ecovla_ros.sim.props import GOALS
from ecovla_ros.sim.world import HOME

TURN = (1.0, 0.0, 0.0, 0.0)


@pytest.fixture(scope="module")
def mirror() -> Mirror:
    return Mirror()


def test_the_weight_is_the_slope_of_the_energy(mirror: Mirror) -> None:
    """Of gravity, for the arm and nothing else: N m are J/rad."""
    model = mirror.model
    arm = [b for b in range(model.nbody) if model.body_rootid[b] == model.body("base_link").id]

    def energy(joints: np.ndarray) -> float:
        data = mujoco.MjData(model)
        data.qpos[mirror._q] = joints
        mujoco.mj_kinematics(model, data)
        return float(-(model.body_mass[arm] * (data.xipos[arm] @ model.opt.gravity)).sum())

    rng, step = np.random.default_rng(2), 1e-5
    for joints in (HOME, *rng.uniform(-2.0, 2.0, (4, 7))):
        slope = [(energy(joints + step * unit) - energy(joints - step * unit)) / (2.0 * step) for unit in np.eye(7)]
        assert mirror.weight(joints) == pytest.approx(slope, abs=1e-5)
    assert np.abs(mirror.weight(HOME)).max() > 5.0, "N m: not nothing"


def test_a_task_is_solved_when_every_pose_was_told_and_the_object_is_in_its_goal(mirror: Mirror) -> None:
    mirror.forget()
    mirror.follow_arm(HOME, 0.0)
    places = {name: (0.5, 0.1 * i, 0.02) for i, name in enumerate(THINGS)}
    places["basket"], places["apple"] = (0.47, -0.37, 0.0), (0.47, -0.37, 0.04)
    for name, at in places.items():
        assert not mirror.solved("apple"), f"before {name} was told"
        mirror.put(name, at, TURN)
    assert mirror.solved("apple") and not mirror.solved("banana")
    mirror.follow_arm(HOME, 1.0)
    assert not mirror.solved("apple"), "the gripper is closed"
    mirror.follow_arm(HOME, 0.0)
    mirror.put("apple", mirror.tcp()[0], TURN)
    assert not mirror.solved("apple"), "it is in the hand, not in the basket"
    mirror.forget()
    assert not mirror.solved("apple")


@pytest.mark.parametrize("pose", [((0.0, 0.0, np.nan), TURN), ((0.0, 0.0, 0.0), (0.0,) * 4)])
def test_what_is_no_pose_is_refused(mirror: Mirror, pose: tuple) -> None:
    for name in ("apple", GOALS[0]):
        with pytest.raises(SimulationError, match=name):
            mirror.put(name, *pose)
    with pytest.raises(SimulationError, match="cube"):
        mirror.put("cube_0", (0.0, 0.0, 0.0), TURN)
