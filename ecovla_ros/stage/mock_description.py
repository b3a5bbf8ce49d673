"""What ros2_control is told of the arm: a description with the Gen3's joints and limits on mock hardware, and the
controllers of the shipped file with a second one of the same kind beside."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from ecovla_ros import config
from ecovla_ros.bench.guard.release import URDF_POSITION, URDF_VELOCITY
from ecovla_ros.types import CONTINUOUS, JOINTS

EFFORT = 39.0
"""N m; mock hardware has no use for it."""
CONTROLLER, OTHER = "joint_trajectory_controller", "other_trajectory_controller"
"""The one that the guard commands, and one that takes its place."""
FILE = "gen3_controllers_streaming.yaml"


def description(place: Sequence[float]) -> str:
    """URDF of an arm on mock hardware that stands at `place` (7,), rad. Links have no shape: nobody looks at them."""
    parts = ['<?xml version="1.0"?>', '<robot name="gen3">', '<link name="base_link"/>', *_joints()]
    parts += ['<ros2_control name="gen3" type="system">', "<hardware>"]
    parts += ["<plugin>mock_components/GenericSystem</plugin>", "</hardware>"]
    for name, start in zip(JOINTS, place, strict=True):
        begins = f'<param name="initial_value">{start:.9f}</param>'
        parts += [
            f'<joint name="{name}">',
            '<command_interface name="position"/>',
            '<state_interface name="velocity"/>',
        ]
        parts += [f'<state_interface name="position">{begins}</state_interface>', "</joint>"]
    return "\n".join([*parts, "</ros2_control>", "</robot>"])


def _joints() -> Iterator[str]:
    parent = "base_link"
    for k, name in enumerate(JOINTS):
        kind = "continuous" if CONTINUOUS[k] else "revolute"
        span = "" if CONTINUOUS[k] else f'lower="{-URDF_POSITION[k]}" upper="{URDF_POSITION[k]}" '
        yield f'<link name="{name}_link"/>'
        yield (
            f'<joint name="{name}" type="{kind}"><parent link="{parent}"/><child link="{name}_link"/>'
            f'<axis xyz="0 0 1"/><limit {span}velocity="{URDF_VELOCITY[k]}" effort="{EFFORT}"/></joint>'
        )
        parent = f"{name}_link"


def second_controller() -> str:
    """YAML beside the shipped file: `OTHER`, told what `CONTROLLER` is told."""
    text = config.shipped(FILE).read_text(encoding="utf-8")
    found = re.search(rf"^{CONTROLLER}:\n(.*?)^$", text, re.M | re.S)
    assert found, "the shipped file has the controller"
    kind = f"    {OTHER}:\n      type: joint_trajectory_controller/JointTrajectoryController\n"
    return f"controller_manager:\n  ros__parameters:\n{kind}\n{OTHER}:\n{found.group(1)}"
