"""A recorded teleoperation as demonstrations: every instruction on the bag begins an episode.

However the arm was driven, where it was one period later is where it was sent: targets are measured, not commanded, so
that hand guiding, a joystick and a leader arm all serve. A gap in the pictures ends an episode.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from ecovla_ros.bags.inputs import Feed, Frame, Held, choose
from ecovla_ros.bags.read import Bag
from ecovla_ros.config import GEN3_ARM, ArmConfig, NodeConfig
from ecovla_ros.errors import BagError
from ecovla_ros.types import CONTINUOUS, Demonstration, Observation

GAP_PERIODS = 3.0
"""Pictures farther apart than this many periods do not belong to one episode."""
SHORTEST = 10
"""Frames of the shortest episode worth keeping."""


def demonstrations(
    path: str | Path,
    mapped: Mapping[str, str],
    node: NodeConfig,
    period_s: float = 0.1,
    instruction: str = "",
    arm: ArmConfig = GEN3_ARM,
) -> Iterator[Demonstration]:
    """Episodes of a bag, one frame a period. `mapped` and `instruction` as in `inputs.choose`.

    The same words again begin another episode where they were silent for some seconds (`inputs.REPEAT_NS`).

    Raises BagError for a bag that cannot be read or holds no episode.
    """
    pending: list[Observation] = []
    found, held = 0, "no picture"
    for frame in _frames(path, mapped, node, period_s, instruction, arm):
        if isinstance(frame, Held):
            held = frame.why
            continue
        seen = frame.observation
        apart = (seen.stamp_ns - pending[-1].stamp_ns) * 1e-9 if pending else 0.0
        if pending and (frame.new_episode or not 0 < apart <= GAP_PERIODS * period_s):
            if len(pending) > SHORTEST:
                found += 1
                yield _episode(pending, period_s)
            pending = []
        pending.append(seen)
    if len(pending) > SHORTEST:
        found += 1
        yield _episode(pending, period_s)
    if not found:
        raise BagError(
            f"'{path}' holds no demonstration: no instruction with more than {SHORTEST} frames of all inputs in a row "
            f"({held})"
        )


def _frames(
    path: str | Path,
    mapped: Mapping[str, str],
    node: NodeConfig,
    period_s: float,
    instruction: str,
    arm: ArmConfig = GEN3_ARM,
) -> Iterator[Frame | Held]:
    with Bag(path) as bag:
        topics = choose(bag, mapped, instruction=instruction, default=node.instruction)
        first = instruction or node.instruction
        feed = Feed(bag, topics, node, first, rate_hz=1.0 / period_s, arm=arm, repeats=True)
        for raw in bag.raw(feed.topics):
            yield from feed.take(raw)


def _episode(frames: list[Observation], period_s: float) -> Demonstration:
    """The last frame has no successor, and is left out."""
    joints = np.array([f.joints for f in frames])
    step = np.diff(joints, axis=0)
    wrapped = np.where(CONTINUOUS, (step + np.pi) % (2 * np.pi) - np.pi, step)
    gripper = np.array([f.gripper for f in frames[1:]])
    return Demonstration(tuple(frames[:-1]), joints[:-1] + wrapped, gripper, period_s)
