"""One name for each joint in a launch: what our nodes, ros2_kortex' description and its controllers are told."""

from __future__ import annotations

import json
from pathlib import Path

from launch import LaunchContext, Substitution
from launch.actions import OpaqueFunction, SetLaunchConfiguration
from launch.logging import launch_config
from launch.substitutions import LaunchConfiguration

from ecovla_ros import config
from ecovla_ros.nodes.ros import joint_names, launching
from ecovla_ros.types import GRIPPER_JOINT, ArmJoints


def named() -> OpaqueFunction:
    """Put this after the arguments: from here on `overrides` and `prefix` agree about the names of the joints.

    A prefix that was given becomes a key of `overrides`, which every node of ours reads; one that was not is taken from
    the configuration, so that ros2_kortex gets it too. A configuration that cannot be read ends the launch.
    """

    def agree(context: LaunchContext) -> list[SetLaunchConfiguration]:
        prefix, _, told = _joints(context)
        return [
            SetLaunchConfiguration("overrides", json.dumps(told)),
            SetLaunchConfiguration("prefix", prefix),
        ]

    return OpaqueFunction(function=agree)


def _joints(context: LaunchContext) -> tuple[str, ArmJoints, list[str]]:
    """Prefix and names of the joints, and the keys over the configuration. Raises ConfigError."""
    name, overrides, prefix = (LaunchConfiguration(key).perform(context) for key in ("config", "overrides", "prefix"))
    told = joint_names.keys(overrides, prefix)
    return (*joint_names.arm(name, told), told)


class Controllers(Substitution):  # type: ignore[misc]  # launch has no types
    """Path of our controllers file; where the joints have other names, of a copy with those beside the launch's log."""

    def perform(self, context: LaunchContext) -> str:
        """The path. Raises ConfigError."""
        shipped = Path(launching.shared("config", "gen3_controllers_streaming.yaml").perform(context))
        text = shipped.read_text(encoding="utf-8")
        renamed = joint_names.controllers(text, _joints(context)[1])
        if renamed == text:
            return str(shipped)
        path = Path(launch_config.log_dir) / shipped.name
        path.write_text(renamed, encoding="utf-8")
        return str(path)


class GripperJoint(Substitution):  # type: ignore[misc]  # launch has no types
    """Name of the gripper's joint without the prefix, which ros2_kortex puts before it."""

    def perform(self, context: LaunchContext) -> str:
        """The name; the 2F-85's for an arm without a gripper, where nobody reads it. Raises ConfigError."""
        prefix, joints, _ = _joints(context)
        return (joints.gripper or GRIPPER_JOINT).removeprefix(prefix)


class GripperModel(Substitution):  # type: ignore[misc]  # launch has no types
    """The gripper that ros2_kortex describes and starts a controller for; empty where the arm has none."""

    def perform(self, context: LaunchContext) -> str:
        """The name. Raises ConfigError."""
        without = LaunchConfiguration("gripper").perform(context) == config.NO_GRIPPER
        return "" if without or not _joints(context)[1].gripper else "robotiq_2f_85"
