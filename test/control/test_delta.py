"""Delta-pose chunks: the tool goes where the deltas say, by MuJoCo's own kinematics; limits and singularities hold."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecovla_ros.control import delta, kinematics
from ecovla_ros.errors import ControlError
from ecovla_ros.sim.world import World
from ecovla_ros.types import JOINTS

HOME = np.array([0.0, 0.5, 3.14, -1.6, 0.0, -1.0, 1.57])
WORLD = World()


def tool_by_mujoco(q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    import mujoco

    for name, value in zip(JOINTS, q):
        WORLD.data.joint(name).qpos[0] = value
    mujoco.mj_kinematics(WORLD.model, WORLD.data)
    return WORLD.tcp()


def rows_of(*motions: object, grip: float = 0.0) -> np.ndarray:
    return np.array([[*np.ravel(np.asarray(motion, float)), grip] for motion in motions])


@given(st.integers(0, 2**31), st.sampled_from(delta.FRAMES))
@settings(max_examples=40, deadline=None)
def test_the_tool_goes_where_the_deltas_say(seed: int, frame: str) -> None:
    rng = np.random.default_rng(seed)
    start = HOME + rng.uniform(-0.2, 0.2, 7)
    rows = np.hstack((rng.uniform(-0.012, 0.012, (6, 3)), rng.uniform(-0.03, 0.03, (6, 3)), rng.uniform(0, 1, (6, 1))))
    made = delta.chunk(0, 0.1, rows, start, frame)
    position, rotation = kinematics.pose(start)
    if kinematics.condition(np.vstack((start, made.joints))).max() > delta.SINGULAR[0]:
        return
    for row, q in zip(rows, made.joints):
        turn = kinematics.rotation_of(row[3:6])
        position = position + (row[:3] if frame == "base" else rotation @ row[:3])
        rotation = turn @ rotation if frame == "base" else rotation @ turn
        at, turned = tool_by_mujoco(q)
        assert np.abs(at - position).max() < 0.003, "3 mm, after up to six rows of 1.2 cm"
        assert np.linalg.norm(kinematics.rotation_vector(rotation @ turned.T)) < 0.02
    assert np.allclose(made.gripper, rows[:, 6])


def test_a_limit_and_a_singularity_stop_the_tool_and_not_the_joints_limits() -> None:
    forward = rows_of(*[[0.03, 0.0, 0.0, 0.0, 0.0, 0.0]] * 40)
    made = delta.chunk(0, 0.1, forward, HOME, "base")
    reach = kinematics.tool_motion(made.joints, made.joints)[0]
    assert (np.diff(reach[:, 0]) > -0.005).all() and reach[-1, 0] < 0.95, "to the end of its reach, and no further"
    assert (np.abs(made.joints) <= kinematics.POSITION_LIMIT).all()
    assert kinematics.condition(made.joints).max() < 2.0 * delta.SINGULAR[1]
    speed = np.abs(np.diff(made.joints, axis=0)) / 0.1
    assert (speed <= kinematics.VELOCITY_LIMIT * 1.001).all()


def test_what_is_no_delta_chunk_is_refused() -> None:
    for rows, joints, frame, says in (
        (np.zeros((4, 6)), HOME, "base", "valid: "),
        (np.full((4, 7), np.nan), HOME, "base", "NaN"),
        (np.zeros((4, 7)), HOME, "world", "base, tool"),
    ):
        with pytest.raises(ControlError, match=says):
            delta.chunk(0, 0.1, rows, joints, frame)
