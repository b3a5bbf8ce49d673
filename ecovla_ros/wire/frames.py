"""One policy frame: what it saw, what it answered, and what it reports."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ecovla_ros.errors import ControlError, ObservationError, short
from ecovla_ros.types import JOINTS, ActionChunk, ArmState, FrameReport, Observation
from ecovla_ros.wire import causes
from ecovla_ros.wire.arm import MOST_NAMES, check_radians
from ecovla_ros.wire.compressed import MOST_PX
from ecovla_ros.wire.fields import NS, sequence, set_stamp, stamp_ns
from ecovla_ros.wire.images import decode_image

BASE_FRAME = "base_link"
MOST_INSTRUCTION = 2000
"""Characters of an instruction at most."""


def observation(
    image_messages: Mapping[str, Any], state: ArmState, instruction: str, sync_s: float, most_px: int = MOST_PX
) -> Observation:
    """Image messages by camera name, the arm's state and the task in words to what the policy sees.

    The observation is stamped as the newest image.

    Raises ObservationError when a message cannot be read or has no stamp, when an image has more than `most_px` pixels,
    or when stamps lie further apart than `sync_s`, s.
    """
    if len(instruction) > MOST_INSTRUCTION:
        raise ObservationError(f"an instruction of {len(instruction)} characters; valid: up to {MOST_INSTRUCTION}")
    if not instruction.strip():
        raise ObservationError("no instruction yet; valid: the task in words on the topic instruction")
    if not image_messages:
        raise ObservationError("no image; valid: one of each camera")
    stamps = {name: stamp_ns(msg.header.stamp) for name, msg in image_messages.items()}
    newest = max(stamps.values())
    stamps["joint_states"] = state.stamp_ns
    if state.stamp_ns == 0 and newest > 0:
        raise ObservationError(causes.unstamped("joint_states"))
    name = max(stamps, key=lambda n: abs(newest - stamps[n]))
    apart = abs(newest - stamps[name]) / NS
    if apart > sync_s:
        raise ObservationError(causes.away(name, apart, sync_s))
    check_radians(state)
    images = {name: decode_image(msg, name, most_px) for name, msg in image_messages.items()}
    return Observation(newest, images, state.joints, state.gripper, instruction)


def fill_chunk(msg: Any, chunk: ActionChunk) -> Any:
    """Chunk into an ecovla_ros/ActionChunk; the header carries the observation's stamp."""
    set_stamp(msg.header.stamp, chunk.stamp_ns)
    msg.header.frame_id = BASE_FRAME
    msg.period, msg.horizon = float(chunk.period_s), chunk.horizon
    msg.joint_names = list(JOINTS)
    msg.positions = sequence(msg.positions, "d", chunk.joints)
    msg.gripper = sequence(msg.gripper, "d", chunk.gripper)
    return msg


def chunk(msg: Any) -> ActionChunk:
    """ecovla_ros/ActionChunk to a chunk, columns in the order of `JOINTS`. Values are the guard's to judge.

    Raises ControlError for joint names other than the arm's, or sizes that do not agree.
    """
    names, horizon = list(msg.joint_names), int(msg.horizon)
    order = _order(names)
    if horizon < 1 or len(msg.positions) != horizon * len(names) or len(msg.gripper) != horizon:
        raise ControlError(
            f"a chunk of horizon {horizon} with {len(msg.positions)} positions and {len(msg.gripper)} gripper targets; "
            f"valid: a horizon H of at least 1, H x {len(names)} positions, H gripper targets"
        )
    if not (math.isfinite(msg.period) and msg.period > 0.0):
        raise ControlError(f"a chunk of period {msg.period} s; valid: a positive number of seconds")
    joints = np.array(msg.positions, float).reshape(horizon, len(names))[:, order]
    return ActionChunk(stamp_ns(msg.header.stamp), float(msg.period), joints, np.array(msg.gripper, float))


def fill_latency(msg: Any, report: FrameReport, frame: int, dropped: int, age_ms: float, deadline_ms: float) -> Any:
    """Report into an ecovla_ros/LatencyReport. `age_ms`: observation stamp to chunk published."""
    set_stamp(msg.header.stamp, report.stamp_ns)
    msg.frame, msg.frames_dropped = frame, dropped
    for stage in ("decode", "encode", "trigger", "join", "prefill", "act", "post"):
        setattr(msg, f"{stage}_ms", float(report.stages_ms.get(stage, 0.0)))
    msg.policy_ms, msg.exposed_ms, msg.refresh_ms = report.total_ms, report.exposed_ms, report.refresh_ms
    msg.camera_to_chunk_ms, msg.deadline_ms = float(age_ms), float(deadline_ms)
    msg.deadline_missed = bool(report.total_ms > deadline_ms)
    return msg


def fill_pruning(msg: Any, report: FrameReport) -> Any:
    """Report into an ecovla_ros/PruningState."""
    set_stamp(msg.header.stamp, report.stamp_ns)
    for name in ("similarity", "threshold", "ratio", "exposed_ms", "refresh_ms"):
        setattr(msg, name, float(getattr(report, name)))
    for name in ("method", "refresh", "kind", "triggered", "pattern_id", "pattern_age", "swaps", "fault"):
        setattr(msg, name, getattr(report, name))
    return msg


def _order(names: Sequence[str]) -> list[int]:
    if sorted(names) != sorted(JOINTS):
        raise ControlError(
            f"joint names {short(list(names)[:MOST_NAMES])} are not the arm's; valid: {', '.join(JOINTS)}, in any order"
        )
    return [list(names).index(joint) for joint in JOINTS]
