"""The policy over a recorded bag: stepped by the bag's messages, deterministic, as fast as possible, no ROS."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ecovla_ros import build, wire
from ecovla_ros.bags import read
from ecovla_ros.config import Config
from ecovla_ros.engine.engine import Step
from ecovla_ros.engine.streams import Inline
from ecovla_ros.errors import BagError, ObservationError, unknown
from ecovla_ros.types import CAMERAS, JOINTS, Observation

INPUTS = {
    **{camera: f"/{camera}/image" for camera in CAMERAS},
    "joint_states": "/joint_states",
    "instruction": "/instruction",
}
"""Input of the policy -> topic it is read from unless mapped."""
TOLERANCE_RAD = 1e-5
"""Golden actions agree within this, float32."""


def mapping(texts: Sequence[str]) -> dict[str, str]:
    """`INPUTS` with "input=topic" texts applied. Raises BagError for an unknown input."""
    topics = dict(INPUTS)
    for text in texts:
        name, equals, topic = text.partition("=")
        if not equals or name not in topics:
            raise BagError(unknown("input", name, topics) + " Write input=topic.")
        topics[name] = topic
    return topics


def observations(path: str | Path, topics: Mapping[str, str], sync_s: float) -> Iterator[Observation | str]:
    """One observation per image of the first camera, from the newest message of every input.

    Where none can be made, the reason is yielded instead, and the replay goes on: the arm would have held.
    """
    names = {topic: name for name, topic in topics.items()}
    latest: dict[str, Any] = {}
    for message in read.messages(path, list(topics.values())):
        name = names[message.topic]
        latest[name] = message.value
        if name != CAMERAS[-1]:
            continue
        missing = [n for n in topics if n not in latest]
        if missing:
            yield f"nothing yet on {', '.join(topics[n] for n in missing)}"
            continue
        try:
            images = {camera: latest[camera] for camera in CAMERAS}
            yield wire.observation(images, latest["joint_states"], latest["instruction"].data, sync_s)
        except ObservationError as error:
            yield str(error)


def run(settings: Config, path: str | Path, topics: Mapping[str, str]) -> list[dict[str, Any]]:
    """Answer every frame of the bag; one row per frame. A clock that jumps back starts a new episode."""
    engine = build.engine(settings, Inline())
    rows: list[dict[str, Any]] = []
    newest = 0
    try:
        for obs in observations(path, topics, settings.node.sync_s):
            if isinstance(obs, str):
                rows.append({"held": obs})
                continue
            if obs.stamp_ns < newest:
                engine.reset(settings.policy.seed)
            newest = obs.stamp_ns
            try:
                rows.append(_row(engine.step(obs)))
            except ObservationError as error:
                rows.append({"stamp_ns": obs.stamp_ns, "held": str(error)})
    finally:
        engine.close()
    if not any("joints" in row for row in rows):
        why = rows[-1]["held"] if rows else "no image"
        raise BagError(f"'{path}': no frame could be answered: {why}")
    return rows


def _row(step: Step) -> dict[str, Any]:
    report, chunk = step.report, step.chunk
    row: dict[str, Any] = {
        "stamp_ns": report.stamp_ns, "kind": report.kind, "triggered": report.triggered,
        "similarity": report.similarity if math.isfinite(report.similarity) else None,
        "threshold": report.threshold if math.isfinite(report.threshold) else None,
        "ratio": report.ratio, "pattern_id": report.pattern_id, "total_ms": report.total_ms,
        "joints": chunk.joints.tolist(), "grippers": chunk.gripper.tolist(),
    }
    row.update({name: float(value) for name, value in zip(JOINTS, chunk.joints[0])}, gripper=float(chunk.gripper[0]))
    return row


def compare(rows: Sequence[Mapping[str, Any]], golden: Path) -> int:
    """Print where chunks differ from those of an earlier document; 1 if any do, else 0. Raises BagError."""
    try:
        expected = json.loads(golden.read_text(encoding="utf-8"))["rows"]
    except (OSError, ValueError, KeyError) as error:
        raise BagError(f"'{golden}' is not a document of ecovla replay --json: {error!r}") from error
    if len(expected) != len(rows):
        print(f"{len(rows)} frames here, {len(expected)} in {golden}")
        return 1
    worst = [_difference(a, b) for a, b in zip(rows, expected)]
    for i, difference in enumerate(worst):
        if difference > TOLERANCE_RAD:
            print(f"frame {i}: largest difference {difference:.3g} (allowed {TOLERANCE_RAD:g})")
    print(f"largest difference {max(worst):.3g} over {len(rows)} frames")
    return int(max(worst) > TOLERANCE_RAD)


def _difference(a: Mapping[str, Any], b: Mapping[str, Any]) -> float:
    if ("joints" in a) != ("joints" in b):
        return math.inf
    if "joints" not in a:
        return 0.0
    flat = [[v for row in r["joints"] for v in row] + list(r["grippers"]) for r in (a, b)]
    return max((abs(x - y) for x, y in zip(*flat)), default=0.0) if len(flat[0]) == len(flat[1]) else math.inf
