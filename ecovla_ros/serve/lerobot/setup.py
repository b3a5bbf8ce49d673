"""What a client of LeRobot says of its robot before it asks, and what that makes of its observations."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ecovla_ros.errors import ObservationError, short
from ecovla_ros.serve.lerobot.pickled import Pickled
from ecovla_ros.serve.protocols import LeRobotRequest
from ecovla_ros.serve.session import LEROBOT
from ecovla_ros.types import ArmJoints
from ecovla_ros.wire.joint_names import columns

STATE, IMAGES = "observation.state", "observation.images."
MOST_NAMES = 256


@dataclass(frozen=True)
class RobotNeeds:
    """What the policy needs of a robot."""

    cameras: Mapping[str, str]
    """Camera of the policy -> what the client calls it."""
    joints: ArmJoints
    other: bool
    """Whether state and actions are another arm's, and keep the order in which they come."""
    prompt: bool = False
    """Whether an observation without a task has a default one."""


@dataclass(frozen=True)
class Robot:
    """How one client's observations are read, and in which order its actions go back."""

    served: RobotNeeds
    cameras: Mapping[str, str]
    """What the policy's messages call a camera -> key of its picture in an observation."""
    state: tuple[str, ...]
    """Keys of the numbers of a state: this arm's joints and gripper in our order, or all in theirs."""
    order: tuple[int, ...]
    """Columns of our actions in the order of the client's; empty: all as they are."""
    actions: int
    """Actions that it wants of a chunk; 0: all."""

    def request(self, seen: Pickled) -> LeRobotRequest:
        """An observation as the session reads it. Raises ObservationError naming what is missing or no number."""
        values, at_s, step = seen.values["observation"], seen.values["timestamp"], seen.values["timestep"]
        if not isinstance(values, dict):
            raise ObservationError(f"an observation that is a {type(values).__name__}; valid: a mapping")
        if not isinstance(at_s, (int, float)) or not math.isfinite(at_s) or not 0 <= at_s < 2**33:
            raise ObservationError("an observation whose timestamp is no time; valid: seconds since 1970")
        if not isinstance(step, int) or isinstance(step, bool) or not 0 <= step < 2**30:
            raise ObservationError("an observation whose timestep is no number of steps; valid: 0 to 2^30")
        message = {name: _found(values, key) for name, key in self.cameras.items()}
        try:
            numbers = np.array([float(_found(values, key)) for key in self.state])
        except (TypeError, ValueError) as error:
            raise ObservationError(f"a state that is not numbers: {short(error)}") from error
        if not self.served.other and not self.served.joints.gripper:
            numbers = np.append(numbers, 0.0)
        message[LEROBOT.state[0]] = numbers
        if "task" in values or not self.served.prompt:
            message[LEROBOT.text] = _found(values, "task")
        return LeRobotRequest(message, seen.module, float(at_s), step, self.order, self.actions)


def robot_of(config: Pickled, served: RobotNeeds) -> Robot:
    """The robot of a RemotePolicyConfig. Raises ObservationError: no such camera or joints, or malformed.

    Which policy the client names does not matter: it gets the one that is served.
    """
    features, wanted = config.values["lerobot_features"], config.values.get("actions_per_chunk", 0)
    if not isinstance(features, dict) or len(features) > MOST_NAMES:
        raise ObservationError("lerobot_features that are no mapping; valid: names to what they hold")
    if not isinstance(wanted, int) or isinstance(wanted, bool) or wanted < 1:
        raise ObservationError("actions_per_chunk is no number of actions; valid: 1 or more")
    names = _names(features)
    state, order = _ordered(names, served)
    return Robot(served, _cameras(features, config.values.get("rename_map"), served), state, order, wanted)


def _names(features: Mapping[Any, Any]) -> list[str]:
    feature = features.get(STATE)
    names = feature.get("names") if isinstance(feature, dict) else None
    if not isinstance(names, (list, tuple)) or len(names) > MOST_NAMES or not all(isinstance(n, str) for n in names):
        raise ObservationError(f"lerobot_features without names of {STATE}; valid: a list with each joint's name")
    return list(names)


def _ordered(names: list[str], served: RobotNeeds) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Keys of the state in our order, and our columns in the order of the client's."""
    if served.other:
        return tuple(names), ()
    at, wrong = columns(names, served.joints)
    if wrong:
        raise ObservationError(
            f"the robot's state {wrong}; it holds: {short(', '.join(names))}; valid: joints by name (settings "
            "arm.joint_prefix, arm.joint_names, arm.gripper_joint)"
        )
    used = [place for place in at if place >= 0]
    return tuple(names[place] for place in used), tuple(int(i) for i in np.argsort(used))


def _cameras(features: Mapping[Any, Any], renamed: Any, served: RobotNeeds) -> dict[str, str]:
    renamed = renamed if isinstance(renamed, dict) else {}
    held: dict[str, str] = {}
    for feature in features:
        if isinstance(feature, str) and feature.startswith(IMAGES):
            name = renamed.get(feature, feature)
            held[str(name).removeprefix(IMAGES)] = feature.removeprefix(IMAGES)
    missing = [camera for camera, key in served.cameras.items() if key not in held]
    if missing:
        have = short(", ".join(held)) or "none"
        raise ObservationError(
            f"the robot has no camera for {', '.join(missing)} of the policy; it has: {have}; valid: ecovla serve "
            f"--image {missing[0]}={next(iter(held), 'NAME')}"
        )
    return {key: held[key] for key in served.cameras.values()}


def _found(values: Mapping[Any, Any], key: str) -> Any:
    if key not in values:
        told = short(", ".join(str(k)[:40] for k in list(values)[:20]))
        raise ObservationError(f"no '{short(key, 60)}' in the observation; it has {told}")
    return values[key]
