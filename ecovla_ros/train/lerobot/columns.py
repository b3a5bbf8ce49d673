"""Which column of a state or an action is which joint, and whether the numbers can be what they are called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ecovla_ros.control import limits
from ecovla_ros.errors import CheckpointError, short
from ecovla_ros.train.lerobot.layout import ACTION, STATE
from ecovla_ros.types import CONTINUOUS, JOINTS, ArmJoints
from ecovla_ros.wire import MOST_RAD, joint_names

GRIPPER_BESIDE = 0.1
"""Measured values may lie so far outside their range."""
TARGET_RAD = 0.5
"""Targets whose median distance from where the arm was one frame later is larger are no targets, rad."""


@dataclass(frozen=True)
class Columns:
    """Where the arm's joints and the gripper stand in a state and in an action."""

    places: Mapping[str, list[int]]
    """STATE, ACTION -> column of each joint, and of the gripper last; -1: no gripper."""
    ends: tuple[float, float]
    """The data's value of an open and of a closed gripper."""

    def values(self, name: str, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Joints, rad, (T, 7), and gripper, 0 open .. 1 closed, (T,), of rows (T, D)."""
        *arm, grip = self.places[name]
        opened, closed = self.ends
        gripper = (rows[:, grip] - opened) / (closed - opened) if grip >= 0 else np.zeros(len(rows))
        return rows[:, arm], gripper


def of(folder: Any, features: Mapping[str, Mapping[str, Any]], joints: ArmJoints, ends: tuple[float, float]) -> Columns:
    """By the names in meta/info.json, in any order; others are left out. Raises CheckpointError for names that are not
    there or not this arm's: an order is never guessed."""
    places = {}
    for name in (STATE, ACTION):
        shape = features.get(name, {}).get("shape")
        names = _flat(features.get(name, {}).get("names"))
        if not isinstance(shape, list) or len(shape) != 1 or not isinstance(shape[0], int):
            raise CheckpointError(f"'{folder}': {name} has shape {short(shape)}; needed: one number, e.g. [8]")
        if len(names) != shape[0]:
            raise CheckpointError(
                f"'{folder}': {name} has {shape[0]} columns and {len(names)} names in info.json; needed: a name of "
                f"each, {', '.join((*JOINTS, 'gripper'))}, in any order"
            )
        places[name] = _places(folder, name, names, joints)
    return Columns(places, ends)


def _places(folder: Any, what: str, names: Sequence[str], joints: ArmJoints) -> list[int]:
    found, wrong = joint_names.columns(names, joints)
    if wrong:
        raise CheckpointError(
            f"'{folder}': {what} {wrong}; its columns: {short(', '.join(names))}; valid: joints by name (settings "
            "arm.joint_prefix, arm.joint_names, arm.gripper_joint)"
        )
    return found


def _flat(names: Any) -> list[str]:
    """Names are a list, or a mapping of groups to lists."""
    if isinstance(names, Mapping):
        return [one for group in names.values() for one in _flat(group)]
    if isinstance(names, list):
        return [one for name in names for one in (_flat(name) if isinstance(name, list) else [str(name)])]
    return []


def check(episode: int, state: tuple[np.ndarray, np.ndarray], action: tuple[np.ndarray, np.ndarray]) -> None:
    """Raises CheckpointError, naming episode and column, for numbers that are no joints of this arm, or no targets."""
    low, high = limits.reported()
    for name, (joints, gripper) in ((STATE, state), (ACTION, action)):
        for column, values in (*zip(JOINTS, joints.T), ("gripper", gripper)):
            if not np.isfinite(values).all():
                at = int(np.argmin(np.isfinite(values)))
                raise CheckpointError(f"episode {episode}: {name}, {column} is {values[at]} in frame {at}")
        for i, column in enumerate(JOINTS):
            far = joints[:, i][int(np.abs(joints[:, i]).argmax())]
            if not low[i] <= far <= high[i] and not (name == ACTION and abs(far) <= MOST_RAD and CONTINUOUS[i]):
                raise CheckpointError(
                    f"episode {episode}: {name}, {column} is {far:.4g}, outside [{low[i]:.4g}, {high[i]:.4g}] rad; are "
                    "these degrees? needed: rad"
                )
        if gripper.min() < -GRIPPER_BESIDE or gripper.max() > 1.0 + GRIPPER_BESIDE:
            raise CheckpointError(
                f"episode {episode}: {name}, the gripper goes from {gripper.min():.4g} to {gripper.max():.4g}; needed: "
                "0 (open) to 1 (closed); set policy.embodiment.gripper=[OPEN, CLOSED] to the values of the data"
            )
    _check_targets(episode, state[0], action[0])


def _check_targets(episode: int, measured: np.ndarray, target: np.ndarray) -> None:
    if len(measured) < 2:
        return
    apart = np.abs((target[:-1] - measured[1:] + np.pi) % (2 * np.pi) - np.pi)
    joint = int(np.median(apart, axis=0).argmax())
    far = float(np.median(apart, axis=0)[joint])
    if far > TARGET_RAD:
        raise CheckpointError(
            f"episode {episode}: {ACTION}, {JOINTS[joint]} lies {far:.2f} rad from where the arm was one frame later: "
            "are these differences, or another order? needed: absolute joint targets"
        )
