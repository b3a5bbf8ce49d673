"""Kinematics: equal to MuJoCo's, the damped solution keeps its limits, the inverse finds what the forward makes."""

from __future__ import annotations

import numpy as np
import pytest

from ecovla_ros.control import kinematics
from ecovla_ros.types import JOINTS

mujoco = pytest.importorskip("mujoco")


def random_joints(rng: np.random.Generator) -> np.ndarray:
    bound = np.where(np.isfinite(kinematics.POSITION_LIMIT), kinematics.POSITION_LIMIT, np.pi)
    return rng.uniform(-bound, bound)


def test_pose_and_jacobian_are_mujocos() -> None:
    from ecovla_ros.sim import scene

    model = scene.build()
    data = mujoco.MjData(model)
    places = [int(model.joint(name).qposadr[0]) for name in JOINTS]
    dofs = [int(model.joint(name).dofadr[0]) for name in JOINTS]
    linear, angular = np.zeros((3, model.nv)), np.zeros((3, model.nv))
    rng = np.random.default_rng(0)
    for _ in range(50):
        q = random_joints(rng)
        data.qpos[places] = q
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        site = model.site("tcp").id
        mujoco.mj_jacSite(model, data, linear, angular, site)
        position, rotation = kinematics.pose(q)
        assert position == pytest.approx(data.site_xpos[site], abs=1e-6)
        assert rotation == pytest.approx(data.site_xmat[site].reshape(3, 3), abs=1e-6)
        expected = np.vstack((linear[:, dofs], angular[:, dofs]))
        assert kinematics.jacobian(q) == pytest.approx(expected, abs=1e-6)


def test_rotation_vector_undoes_the_exponential() -> None:
    rng = np.random.default_rng(1)
    for angle in (0.0, 1e-9, 1e-3, 1.0, 3.0, np.pi - 1e-9, np.pi):
        axis = rng.normal(size=3)
        axis /= np.linalg.norm(axis)
        x, y, z = axis
        skew = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
        rotation = np.eye(3) + np.sin(angle) * skew + (1 - np.cos(angle)) * skew @ skew
        found = kinematics.rotation_vector(rotation)
        assert np.linalg.norm(found) == pytest.approx(angle, abs=1e-6)
        if angle < 3.1:
            assert found == pytest.approx(angle * axis, abs=1e-6)
        else:
            assert abs(found @ axis) == pytest.approx(angle, abs=1e-6)


def test_joint_velocity_makes_the_twist_and_keeps_its_limits() -> None:
    q = np.array([0.1, 0.4, -0.1, 1.4, 0.1, 1.2, -1.5])
    twist = np.array([0.05, -0.03, 0.02, 0.1, 0.0, -0.1])
    velocity = kinematics.joint_velocity(q, twist)
    assert kinematics.jacobian(q) @ velocity == pytest.approx(twist, abs=5e-3)
    fast = kinematics.joint_velocity(q, 100.0 * twist)
    assert np.abs(fast).max() == pytest.approx(kinematics.VELOCITY_LIMIT[0])
    assert fast / np.linalg.norm(fast) == pytest.approx(velocity / np.linalg.norm(velocity), abs=1e-9)


def test_posture_moves_the_elbow_but_not_the_tool() -> None:
    q = np.array([0.1, 0.4, -0.1, 1.4, 0.1, 1.2, -1.5])
    velocity = kinematics.joint_velocity(q, np.zeros(6), posture=np.array([0, 0, 0.3, 0, 0, 0, 0.0]))
    assert np.abs(velocity).max() > 0.02
    assert kinematics.jacobian(q) @ velocity == pytest.approx(np.zeros(6), abs=2e-3)


def test_a_joint_at_its_limit_is_not_driven_further() -> None:
    q = np.array([0.0, 0.4, 0.0, 2.56, 0.0, 1.0, 0.0])
    rng = np.random.default_rng(2)
    for _ in range(50):
        assert kinematics.joint_velocity(q, rng.normal(size=6) * 0.2)[3] <= 1e-12


def test_inverse_finds_poses() -> None:
    rng = np.random.default_rng(3)
    home = np.array([0.0, 0.37, 0.0, 1.43, 0.0, 1.33, -np.pi / 2])
    for _ in range(20):
        q = home + rng.uniform(-0.3, 0.3, 7)
        position, rotation = kinematics.pose(q)
        found, error = kinematics.inverse(home, position, rotation)
        assert error < 1e-5
        assert kinematics.pose(found)[0] == pytest.approx(position, abs=1e-5)
        assert (np.abs(found) <= kinematics.POSITION_LIMIT).all()


def test_the_chain_is_the_one_of_kinovas_user_guide() -> None:
    """Denavit-Hartenberg parameters of the Gen3 user guide, given to 0.1 mm: independent of the offsets used here."""
    d = (-0.2848, -0.0118, -0.4208, -0.0128, -0.3143, 0.0, -0.1674 - kinematics.TOOL_LENGTH)
    alpha = (np.pi / 2, np.pi / 2, np.pi / 2, np.pi / 2, np.pi / 2, np.pi / 2, np.pi)
    rng = np.random.default_rng(4)
    for _ in range(20):
        q = random_joints(rng)
        frame = np.diag([1.0, -1.0, -1.0, 1.0])  # the base frame is turned by pi about x
        for i in range(7):
            c, s = np.cos(q[i] + (np.pi if i else 0.0)), np.sin(q[i] + (np.pi if i else 0.0))
            ca, sa = np.cos(alpha[i]), np.sin(alpha[i])
            frame = frame @ np.array(
                [[c, -s * ca, s * sa, 0.0], [s, c * ca, -c * sa, 0.0], [0.0, sa, ca, d[i]], [0.0, 0.0, 0.0, 1.0]]
            )
        position, rotation = kinematics.pose(q)
        assert position == pytest.approx(frame[:3, 3], abs=5e-4)
        assert rotation == pytest.approx(frame[:3, :3], abs=1e-9)


def test_pinocchio_says_the_same_of_pose_and_jacobian() -> None:
    """Another's algebra on the same offsets: `pip install pin` (about 400 MB with what it needs), so not in CI."""
    pin = pytest.importorskip("pinocchio")
    model, parent = pin.Model(), 0
    for i, (offset, turn) in enumerate(zip(kinematics.OFFSETS, kinematics.TURNS)):
        place = pin.SE3(pin.rpy.rpyToMatrix(turn, 0.0, 0.0), np.array(offset))
        parent = model.addJoint(parent, pin.JointModelRZ(), place, f"joint_{i + 1}")
    flange = pin.SE3(pin.rpy.rpyToMatrix(np.pi, 0.0, 0.0), np.array(kinematics.FLANGE_OFFSET))
    tcp = flange * pin.SE3(np.eye(3), np.array([0.0, 0.0, kinematics.TOOL_LENGTH]))
    frame = model.addFrame(pin.Frame("tcp", parent, 0, tcp, pin.FrameType.OP_FRAME))
    data, rng = model.createData(), np.random.default_rng(0)
    for q in rng.uniform(-3.0, 3.0, (50, 7)):
        jacobian = pin.computeFrameJacobian(model, data, q, frame, pin.ReferenceFrame.LOCAL_WORLD_ALIGNED)
        pin.framesForwardKinematics(model, data, q)
        position, rotation = kinematics.pose(q)
        assert np.abs(data.oMf[frame].translation - position).max() < 1e-12
        assert np.abs(data.oMf[frame].rotation - rotation).max() < 1e-12
        assert np.abs(jacobian - kinematics.jacobian(q)).max() < 1e-12
