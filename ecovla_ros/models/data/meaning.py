"""Whether the statistics of a checkpoint can be of this arm: eight numbers alone are also those of other arms.

Means and spreads of joints in degrees, of an arm with other limits, or of data in which nothing moves would be used
without a word, and the policy would see states and give targets that mean something else.
"""

from __future__ import annotations

import numpy as np

from ecovla_ros.control import limits
from ecovla_ros.errors import CheckpointError
from ecovla_ros.models.data.affine import Affine, Statistics
from ecovla_ros.types import JOINTS

STILL = 1e-5
"""A spread that is not above this is none: what is added to every range is smaller."""
GRIPPER_BESIDE = 0.1
"""The mean of a gripper may lie so far outside its ends, as a share of its way."""
MOTION = np.array([1.0, 1.0, 1.0, np.pi, np.pi, np.pi])
"""No step of the tool is larger, m and rad."""
AXES = ("x", "y", "z", "rotation about x", "rotation about y", "rotation about z")
ENDS = "set policy.embodiment.gripper=[OPEN, CLOSED] to the values of the data"


def check_joints(of: Statistics, relative: bool, ends: tuple[float, float]) -> None:
    """Seven joints and the gripper. `ends`: the data's values of an open and of a closed gripper.

    Raises CheckpointError for a joint whose mean or spread no joint of this arm has, or that never moves.
    """
    low, high = limits.reported()
    wide = high - low
    for what, values in (("state", of.state), ("actions", of.action)):
        if values is None:
            continue
        from_, to = (-wide, wide) if relative and what == "actions" else (low, high)
        mean, spread = values.mean[: len(JOINTS)], values.std[: len(JOINTS)]
        wrong = (mean < from_) | (mean > to) | (spread > (to - from_) / 2)
        if wrong.any():
            i = int(wrong.argmax())
            raise CheckpointError(
                f"{of.source}: {what} of {JOINTS[i]} lie about {mean[i]:.4g} +- {spread[i]:.4g}; this arm's goes from "
                f"{low[i]:.4g} to {high[i]:.4g} rad: are these degrees, or of another arm?"
            )
        opened, closed = ends
        share = (values.mean[-1] - opened) / (closed - opened)
        if not -GRIPPER_BESIDE <= share <= 1.0 + GRIPPER_BESIDE:
            raise CheckpointError(f"{of.source}: {what} of the gripper lie about {values.mean[-1]:.4g}; {ENDS}")
    _must_move(of.source, of.action)


def check_motion(of: Statistics) -> None:
    """Motions of the tool and the gripper. Raises CheckpointError for steps that no arm makes, or for none."""
    mean, spread = of.action.mean[:6], of.action.std[:6]
    wrong = (np.abs(mean) > MOTION) | (spread > MOTION)
    if wrong.any():
        i = int(wrong.argmax())
        raise CheckpointError(
            f"{of.source}: actions along {AXES[i]} lie about {mean[i]:.4g} +- {spread[i]:.4g}; needed: motions of one "
            f"step in m and rad, up to {MOTION[i]:.3g}: are these millimetres, degrees, or targets?"
        )
    _must_move(of.source, of.action)


def _must_move(source: str, action: Affine) -> None:
    if (action.std[:-1] <= STILL).all():
        raise CheckpointError(f"{source}: the actions have no spread: in the data that they are of, nothing moves")
