"""A story from a bag: whatever topics it has, by their types."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ecovla_ros import wire
from ecovla_ros.bags.inputs import IMAGES
from ecovla_ros.bags.read import Bag
from ecovla_ros.bags.storage import Raw
from ecovla_ros.errors import BagError, EcovlaError, ObservationError
from ecovla_ros.publish.report.story import GuardChange, SentTrajectory, Story, columns
from ecovla_ros.types import JOINTS, ArmJoints
from ecovla_ros.wire import joint_names

PICTURES = 24
"""Thumbnails of a camera, at most."""
WIDTH = 160
"""Of a thumbnail, px."""
STATES_HZ = 20.0
"""Joint states are read at this rate; a driver may send them at 1 kHz."""
LATENCY = "ecovla_ros/msg/LatencyReport"
PRUNING = "ecovla_ros/msg/PruningState"
STATUS = "diagnostic_msgs/msg/DiagnosticStatus"
TRAJECTORY = "trajectory_msgs/msg/JointTrajectory"
STATE = "sensor_msgs/msg/JointState"
TEXT = "std_msgs/msg/String"
KINDS = (LATENCY, PRUNING, STATUS, TRAJECTORY, STATE, TEXT)


@dataclass
class _Notes:
    """What is heard, at absolute times, ns."""

    frames: dict[int, dict[str, Any]] = field(default_factory=dict)  # by stamp
    changes: list[tuple[int, str, str]] = field(default_factory=list)
    commands: list[tuple[int, Any]] = field(default_factory=list)
    states: list[tuple[int, np.ndarray]] = field(default_factory=list)
    texts: list[tuple[int, str]] = field(default_factory=list)


def read(path: str | Path, done: Callable[[float], None] = lambda share: None) -> Story:
    """Read a bag; `done` is told the share that has been read. Raises BagError for one that tells nothing."""
    story = Story(Path(path).resolve().name)
    with Bag(path) as bag:
        if not bag.topics:
            bag.need(["/latency"])
        notes = _Notes()
        wanted = [topic for topic, kind in bag.topics.items() if kind in KINDS]
        try:
            _listen(bag, wanted, notes, done)
        except BagError as error:
            story.damage = str(error)
        cameras = [topic for topic, kind in bag.topics.items() if kind in IMAGES]
        begin_ns = _begin(notes, bag)
        _tell(story, notes, begin_ns)
        for topic in sorted(cameras):
            found = _pictures(bag, topic, story)
            story.pictures[topic] = [((ns - begin_ns) / 1e9, picture) for ns, picture in found]
        story.damage = story.damage or bag.damage
    story.notes += [story.damage] if story.damage else []
    _say_what_is_missing(story, bag.topics)
    if not story.frames and not story.changes and not len(story.measured) and not any(story.pictures.values()):
        raise BagError(
            f"'{path}' tells nothing: " + (story.notes[0] if story.notes else "no message that a report shows")
        )
    return story


def _listen(bag: Bag, wanted: list[str], notes: _Notes, done: Callable[[float], None]) -> None:
    if not wanted:
        return
    first, last = bag.span_ns
    next_state = 0
    for i, raw in enumerate(bag.raw(wanted)):
        if i % 1000 == 0 and last > first:
            done((raw.time_ns - first) / (last - first))
        if raw.kind == STATE and raw.time_ns < next_state:
            continue
        try:
            _hear(notes, raw, bag.decode(raw))
        except (EcovlaError, ValueError):
            continue  # one message that is none, or somebody else's joints: the others still tell
        if raw.kind == STATE:
            next_state = raw.time_ns + round(1e9 / STATES_HZ)


def _hear(notes: _Notes, raw: Raw, message: Any) -> None:
    if raw.kind in (LATENCY, PRUNING):
        row = notes.frames.setdefault(wire.stamp_ns(message.header.stamp), {"time_ns": raw.time_ns})
        row.update({k: v for k, v in vars(message).items() if k not in ("header", "frame") and not k.startswith("_")})
    elif raw.kind == STATUS:
        values = {pair.key: pair.value for pair in message.values}
        said = values.get("state", ""), message.message
        if said[0] and (not notes.changes or notes.changes[-1][1:] != said):
            notes.changes.append((raw.time_ns, *said))
    elif raw.kind == TRAJECTORY:
        names = _arm(message.joint_names).plain(message.joint_names)
        if set(names) == set(JOINTS):
            notes.commands.append((raw.time_ns, _in_order(message, names)))
    elif raw.kind == STATE:
        notes.states.append((raw.time_ns, wire.arm_state(message, False, _arm(message.name)).joints))
    elif raw.topic.endswith("instruction"):
        notes.texts.append((raw.time_ns, message.data))


def _arm(names: Sequence[str]) -> ArmJoints:
    """The arm's joints among these, whatever they are called; its gripper is not looked at."""
    usual = ArmJoints(gripper="")
    found = [] if set(JOINTS) <= set(names) else joint_names.proposals(names)
    return replace(found[0], gripper="") if found else usual


def _in_order(message: Any, names: list[str]) -> Any:
    """The trajectory with its columns in the order of `JOINTS`; `names`: of the columns it has."""
    trajectory = wire.trajectory(message)
    order = [names.index(name) for name in JOINTS]
    velocities = trajectory.velocities
    positions = trajectory.positions[:, order]
    speeds = np.full_like(positions, np.nan) if velocities is None else velocities[:, order]
    return trajectory.times_s, positions, speeds


def _begin(notes: _Notes, bag: Bag) -> int:
    times = [row["time_ns"] for row in notes.frames.values()] + [c[0] for c in notes.changes[:1]]
    times += [s[0] for s in notes.states[:1]]
    return min(times) if times else bag.span_ns[0]


def _tell(story: Story, notes: _Notes, begin_ns: int) -> None:
    rows = sorted(notes.frames.values(), key=lambda row: row["time_ns"])
    story.columns = columns({**row, "t": (row["time_ns"] - begin_ns) / 1e9} for row in rows)
    story.changes = [GuardChange((ns - begin_ns) / 1e9, state, reason) for ns, state, reason in notes.changes]
    story.commands = [SentTrajectory((ns - begin_ns) / 1e9, *parts) for ns, parts in notes.commands]
    story.measured_t = np.array([(ns - begin_ns) / 1e9 for ns, _ in notes.states])
    story.measured = np.array([joints for _, joints in notes.states], float).reshape(-1, len(JOINTS))
    story.instructions = [((ns - begin_ns) / 1e9, text) for ns, text in notes.texts]


def _pictures(bag: Bag, topic: str, story: Story) -> Iterator[tuple[int, bytes]]:
    """Thumbnails of a camera, evenly over the bag."""
    first, last = bag.span_ns
    step = max(1, (last - first) // PICTURES)
    windows = [(first + i * step, first + (i + 1) * step) for i in range(PICTURES)] if last > first else [(None, None)]
    for window in windows:
        try:
            yield from _first(bag, topic, bag.raw([topic], *window), story)
        except BagError:
            return  # the damage has been told


def _first(bag: Bag, topic: str, messages: Iterator[Raw], story: Story) -> Iterator[tuple[int, bytes]]:
    """The first picture of these, if there is one that decodes."""
    for raw in messages:
        try:
            rgb = wire.decode_image(bag.decode(raw), topic)
        except (ObservationError, BagError) as error:
            if str(error) not in story.notes:
                story.notes.append(str(error))
            return
        size = WIDTH, max(1, round(rgb.shape[0] * WIDTH / rgb.shape[1]))
        small = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
        yield raw.time_ns, cv2.imencode(".jpg", small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80])[1].tobytes()
        return


def _say_what_is_missing(story: Story, topics: Mapping[str, str]) -> None:
    names = {
        LATENCY: "latency",
        PRUNING: "pruning",
        STATUS: "the guard's status",
        TRAJECTORY: "commands",
        STATE: "joint states",
    }
    missing = [name for kind, name in names.items() if kind not in topics.values()]
    if missing:
        story.notes.append(f"not recorded: {', '.join(missing)}")
