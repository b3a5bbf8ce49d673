"""Which of the names on `joint_states` are the arm's, and which settings say so. Proposed to people, never assumed."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence

from ecovla_ros.types import GRIPPER_JOINT, JOINTS, ArmJoints

GRIPPERS = (GRIPPER_JOINT, "finger_joint", "left_knuckle_joint", "knuckle_joint", "finger_joint_1", "gripper_joint")
"""How names of gripper joints end, most likely first: of the 2F-85, and of other models of it."""
ENDINGS = (".pos", ".position", "_pos", ".goal_position")
"""What data sets and clients put behind a joint's name."""
GRIPPER_COLUMNS = ("gripper", "gripper_position", "robotiq_2f_85")
"""What they call the gripper."""
_NUMBERED = re.compile(r"^(.*?)([1-7])(\D*)$")


def proposals(held: Collection[str]) -> list[ArmJoints]:
    """Every arm of seven joints among these names: none, one, or, where two arms share a topic, several."""
    return [ArmJoints(arm, _gripper(arm, held)) for arm in _arms(held)]


def advice(held: Collection[str], wanted: ArmJoints) -> str:
    """Settings under which a message with these joints would be read, as text behind an error; or empty."""
    if set(wanted.wanted) <= set(held):
        return ""
    found = [" ".join(settings(arm)) for arm in proposals(held)]
    return f" (if this is the arm: {' or: '.join(found)})" if any(found) else ""


def settings(joints: ArmJoints) -> list[str]:
    """Overrides that give these names, e.g. ["arm.joint_prefix=left_", "arm.gripper_joint=none"]."""
    prefix = joints.arm[0].removesuffix(JOINTS[0])
    prefixed = joints.arm == tuple(prefix + name for name in JOINTS)
    told = ([f"arm.joint_prefix={prefix}"] if prefix else []) if prefixed else [
        f"arm.joint_names=[{','.join(joints.arm)}]"
    ]  # fmt: skip
    usual = (prefix if prefixed else "") + GRIPPER_JOINT
    return told + ([] if joints.gripper == usual else [f"arm.gripper_joint={joints.gripper or 'none'}"])


def columns(names: Sequence[str], joints: ArmJoints) -> tuple[list[int], str]:
    """Where the arm's joints, in our order, and then the gripper stand among the names of a data set or a client; -1
    where there is no gripper. Beside it what is wrong, e.g. "lacks joint_3"; empty for nothing."""
    bare = [name.removesuffix(next((e for e in ENDINGS if name.endswith(e)), "")) for name in names]
    found = [next((bare.index(n) for n in (ours, joint) if n in bare), -1) for joint, ours in zip(JOINTS, joints.arm)]
    grips = (joints.gripper, *GRIPPER_COLUMNS) if joints.gripper else ()
    grip = next((bare.index(n) for n in grips if n in bare), -1)
    missing = [joint for joint, at in zip(joints.arm, found) if at < 0]
    missing += ["gripper"] if joints.gripper and grip < 0 else []
    twice = "names a column twice" if len(set(bare)) != len(bare) else ""
    return [*found, grip], f"lacks {', '.join(missing)}" if missing else twice


def _arms(held: Collection[str]) -> Iterator[tuple[str, ...]]:
    """Seven names that differ in a digit from 1 to 7 alone; such as end in joint_1 ... joint_7 first."""
    groups: dict[tuple[str, str], dict[str, str]] = {}
    for name in held:
        if match := _NUMBERED.match(name):
            groups.setdefault((match[1], match[3]), {})[match[2]] = name
    whole = [parts for parts in groups.values() if len(parts) == len(JOINTS)]
    for parts in sorted(whole, key=lambda p: (not p["1"].endswith(JOINTS[0]), p["1"])):
        yield tuple(parts[digit] for digit in "1234567")


def _gripper(arm: tuple[str, ...], held: Collection[str]) -> str:
    """The gripper's joint among the names: one with the arm's prefix before another; empty for none."""
    prefix = arm[0].removesuffix(JOINTS[0])
    rest = sorted(set(held) - set(arm), key=lambda name: not name.startswith(prefix))
    return next((name for ending in GRIPPERS for name in rest if name.endswith(ending)), "")
