"""A recorded teleoperation as demonstrations: every instruction on the bag begins an episode.

However the arm was driven, where it was one period later is where it was sent: targets are measured, not commanded, so
that hand guiding, a joystick and a leader arm all serve. A gap in the pictures ends an episode.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from ecovla_ros.bags.replay import observations
from ecovla_ros.errors import BagError
from ecovla_ros.types import CONTINUOUS, Demonstration, Observation

GAP_PERIODS = 3.0
"""Pictures farther apart than this many periods do not belong to one episode."""
SHORTEST = 10
"""Frames of the shortest episode worth keeping."""


def demonstrations(
    path: str | Path, topics: Mapping[str, str], period_s: float = 0.1, sync_s: float = 0.08
) -> Iterator[Demonstration]:
    """Episodes of a bag, one frame a period. Raises BagError for a bag that cannot be read or holds none."""
    pending: list[Observation] = []
    found, faults = 0, 0
    for frame in observations(path, topics, sync_s):
        if isinstance(frame, str):
            faults += 1
            continue
        if pending:
            waited = (frame.stamp_ns - pending[-1].stamp_ns) * 1e-9
            if frame.instruction == pending[-1].instruction and 0 < waited < 0.75 * period_s:
                continue
            if frame.instruction != pending[-1].instruction or not 0 < waited <= GAP_PERIODS * period_s:
                if len(pending) > SHORTEST:
                    found += 1
                    yield _episode(pending, period_s)
                pending = []
        pending.append(frame)
    if len(pending) > SHORTEST:
        found += 1
        yield _episode(pending, period_s)
    if not found:
        raise BagError(
            f"'{path}' holds no demonstration: no instruction with more than {SHORTEST} frames of all inputs in a row "
            f"({faults} frames could not be used)"
        )


def _episode(frames: list[Observation], period_s: float) -> Demonstration:
    """The last frame has no successor, and is left out."""
    joints = np.array([f.joints for f in frames])
    step = np.diff(joints, axis=0)
    wrapped = np.where(CONTINUOUS, (step + np.pi) % (2 * np.pi) - np.pi, step)
    gripper = np.array([f.gripper for f in frames[1:]])
    return Demonstration(tuple(frames[:-1]), joints[:-1] + wrapped, gripper, period_s)
