"""The names of the joints in a launch: the same for our nodes, for ros2_kortex' description, and for its controllers.

No part of it needs `launch`, ROS or a message.
"""

from __future__ import annotations

import re
from pathlib import Path

from ecovla_ros import config, documents
from ecovla_ros.errors import ConfigError
from ecovla_ros.types import GRIPPER_JOINT, JOINTS, ArmJoints

KEY = "arm.joint_prefix"


def keys(overrides: str, prefix: str) -> list[str]:
    """The keys of launch argument `overrides`, a list in YAML, and the prefix as a key where one is given.

    The prefix comes last, so that it wins. Raises ConfigError when `overrides` is no list of texts.
    """
    try:
        found = documents.from_yaml(overrides)
    except ValueError as error:
        raise ConfigError(f"overrides:={overrides} is {error}; valid: \"['section.key=value']\"") from error
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise ConfigError(f"overrides:={overrides} is no list of texts; valid: \"['section.key=value']\"")
    return [*found, *([f"{KEY}={prefix}"] if prefix else [])]


def arm(name: str, told: list[str]) -> tuple[str, ArmJoints]:
    """Prefix and names of the joints, by the configuration (a path, or the name of a shipped file) and keys over it.

    Raises ConfigError.
    """
    path = name if Path(name).is_file() else config.shipped(name)
    loaded = config.override_texts(config.load(path), [text for text in told if text.strip()])
    return loaded.arm.joint_prefix, loaded.arm.joints


def controllers(text: str, joints: ArmJoints) -> str:
    """The text of a controllers file for joints of these names, in place of those of a Gen3 without a prefix."""
    named = dict(zip(JOINTS, joints.arm, strict=True)) | ({GRIPPER_JOINT: joints.gripper} if joints.gripper else {})
    return re.sub("|".join(rf"\b{name}\b" for name in named), lambda found: named[found.group()], text)
