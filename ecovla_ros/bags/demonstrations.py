"""A recorded teleoperation as demonstrations: every instruction on the bag begins an episode.

However the arm was driven, where it was one period later is where it was sent: targets are measured, not commanded, so
that hand guiding, a joystick and a leader arm all serve. A gap in the pictures ends an episode. It begins with the
frame from which the arm first moves: a policy would learn to wait from what comes before.

Of the gripper that would be wrong: jaws that hold something stand where it stops them, and a policy that asks for that
place presses with nothing. What they were told is taken from their command where the bag has it, and else from how they
moved (`told`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from ecovla_ros import wire
from ecovla_ros.bags.clock import timed
from ecovla_ros.bags.inputs import Feed, Frame, Held, choose
from ecovla_ros.bags.read import Bag
from ecovla_ros.bags.storage import Raw
from ecovla_ros.config import GEN3_ARM, ArmConfig, NodeConfig
from ecovla_ros.errors import BagError, EcovlaError
from ecovla_ros.types import CONTINUOUS, Demonstration, Observation

GAP_PERIODS = 3.0
"""Pictures farther apart than this many periods do not belong to one episode."""
SHORTEST = 10
"""Frames of the shortest episode worth keeping."""
GRIPPER, GRIPPER_TOPIC, GRIPPER_KIND = (
    "gripper", "/robotiq_gripper_controller/joint_trajectory", "trajectory_msgs/msg/JointTrajectory",
)  # fmt: skip
"""Name of the gripper's command among mapped inputs, its topic, and the type it must have."""
MOVES, STILL_RAD = 0.02, 0.003
"""Jaws that move by more than this share of their stroke in a period were told to; an arm none of whose joints moves by
more than this stands."""


def demonstrations(
    path: str | Path,
    mapped: Mapping[str, str],
    node: NodeConfig,
    period_s: float = 0.1,
    instruction: str = "",
    arm: ArmConfig = GEN3_ARM,
) -> Iterator[Demonstration]:
    """Episodes of a bag, one frame a period. `mapped` and `instruction` as in `inputs.choose`; "gripper" may be mapped
    too, to the topic of its command, which is optional.

    The same words again begin another episode where they were silent for some seconds (`inputs.REPEAT_NS`).

    Raises BagError for a bag that cannot be read or holds no episode.
    """
    pending: list[tuple[Observation, float]] = []
    found, held = 0, "no picture"
    for frame, command in _frames(path, mapped, node, period_s, instruction, arm):
        if isinstance(frame, Held):
            held = frame.why
            continue
        seen = frame.observation
        apart = (seen.stamp_ns - pending[-1][0].stamp_ns) * 1e-9 if pending else 0.0
        if pending and (frame.new_episode or not 0 < apart <= GAP_PERIODS * period_s):
            if len(pending) > SHORTEST:
                found += 1
                yield _episode(pending, period_s)
            pending = []
        pending.append((seen, command))
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
) -> Iterator[tuple[Frame | Held, float]]:
    """Frames, each with what the gripper was told last; NaN where nothing is known of that."""
    with Bag(path) as bag:
        topics = choose(bag, mapped, instruction=instruction, default=node.instruction)
        gripper = _gripper_topic(bag, mapped) if arm.joints.gripper else []
        first = instruction or node.instruction
        feed = Feed(bag, topics, node, first, rate_hz=1.0 / period_s, arm=arm, repeats=True)
        command = float("nan")
        for raw in timed(bag, [*feed.topics, *gripper]):
            if raw.topic in gripper:
                command = _command(bag, raw, arm)
                continue
            for frame in feed.take(raw):
                yield frame, command


def _gripper_topic(bag: Bag, mapped: Mapping[str, str]) -> list[str]:
    """Where the gripper's command is; empty: the bag has none. Raises BagError for a mapped topic that is no such."""
    topic = mapped.get(GRIPPER, GRIPPER_TOPIC)
    if GRIPPER in mapped:
        bag.need([topic])
    if topic not in bag.topics:
        return []
    if bag.topics[topic] != GRIPPER_KIND:
        raise BagError(f"'{bag.path}': {topic} holds {bag.topics[topic]}; valid for {GRIPPER}: {GRIPPER_KIND}")
    return [topic]


def _command(bag: Bag, raw: Raw, arm: ArmConfig) -> float:
    """What a command says, 0 open .. 1 closed. Raises BagError for one that is none of this gripper's."""
    try:
        return wire.gripper(bag.decode(raw), arm.joints)
    except EcovlaError as error:
        raise BagError(f"'{bag.path}': {raw.topic}: {error}; or another topic: --map {GRIPPER}=TOPIC") from error


def told(measured: np.ndarray) -> np.ndarray:
    """What jaws were told in each period, (N - 1,), from where they were, (N,), 0 open .. 1 closed.

    Whoever closes them means to close them, whatever stops them, until they open; else they were told to be where they
    are next. So jaws that were meant to stop half-way, at nothing, are taken for closing ones.
    """
    found, closing = measured[1:].copy(), False
    for i, step in enumerate(np.diff(measured)):
        closing = step > MOVES or (closing and step > -MOVES)
        if closing:
            found[i] = 1.0
    return found


def _episode(frames: list[tuple[Observation, float]], period_s: float) -> Demonstration:
    """The last frame has no successor, and is left out. A gripper's command counts from the frame after it was given:
    so does what the arm was told in that period."""
    joints, jaws = np.array([f.joints for f, _ in frames]), np.array([f.gripper for f, _ in frames])
    step = np.diff(joints, axis=0)
    wrapped = np.where(CONTINUOUS, (step + np.pi) % (2 * np.pi) - np.pi, step)
    moved, commanded = told(jaws), np.array([c for _, c in frames[1:]])
    gripper = np.where(np.isfinite(commanded), commanded, moved)
    moves = (np.abs(wrapped).max(1) > STILL_RAD) | (np.abs(np.diff(jaws)) > MOVES)
    first = int(moves.argmax())  # 0 where nothing moves at all
    seen = tuple(f for f, _ in frames[first:-1])
    return Demonstration(seen, (joints[:-1] + wrapped)[first:], gripper[first:], period_s)
