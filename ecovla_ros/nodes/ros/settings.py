"""What a node is told by parameters: a configuration file and single keys over it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rcl_interfaces.msg import ParameterDescriptor

from ecovla_ros import config
from ecovla_ros.types import ArmJoints

DEFAULT_FILE = "mini_sim.yaml"


def declare(node: Any) -> None:
    """Declare the parameters `config` and `overrides`."""
    node.declare_parameter(
        "config", DEFAULT_FILE, ParameterDescriptor(description="YAML file: a path, or the name of a shipped one")
    )
    node.declare_parameter(
        "overrides",
        [""],
        ParameterDescriptor(description="keys over the file, each section.key=value, e.g. prune.ratio=0.4"),
    )


def configuration(node: Any) -> config.Config:
    """The configuration the two parameters mean. Raises ConfigError."""
    name = str(node.get_parameter("config").value)
    overrides = [text for text in node.get_parameter("overrides").value if text.strip()]
    return load(name, overrides)


def joints(node: Any, loaded: config.Config) -> ArmJoints:
    """Names of arm and gripper: those of the configuration, without a gripper where the parameter `gripper` is none."""
    found = loaded.arm.joints
    bare = node.has_parameter("gripper") and node.get_parameter("gripper").value == config.NO_GRIPPER
    return replace(found, gripper="") if bare else found


def load(name: str, overrides: Sequence[str]) -> config.Config:
    """File by path or shipped name, with `section.key=value` texts over it. Raises ConfigError."""
    return config.override_texts(config.load(name if Path(name).is_file() else config.shipped(name)), overrides)
