"""The policy over a recorded bag: stepped by the bag's messages, deterministic, no ROS."""

from __future__ import annotations

import hashlib
import json
import math
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ecovla_ros import build
from ecovla_ros.bags.ahead import ahead
from ecovla_ros.bags.answers import AnswerBag
from ecovla_ros.bags.clock import timed
from ecovla_ros.bags.guarded import Guarded
from ecovla_ros.bags.inputs import Feed, Frame, Held, choose
from ecovla_ros.bags.read import Bag
from ecovla_ros.bags.storage import Raw
from ecovla_ros.config import Config
from ecovla_ros.engine.streams import Inline
from ecovla_ros.errors import BagError, ControlError, ObservationError
from ecovla_ros.types import JOINTS, ActionChunk, FrameReport

BATCH = 64
"""Messages are handed on when so many came without a frame."""
_NUMBERS = re.compile(r"[\d.]+")
STAGES = ("decode", "encode", "trigger", "join", "prefill", "act", "post")


@dataclass(frozen=True)
class Answer:
    """A chunk, or why there is none."""

    time_ns: int
    """When the message that completed the frame was recorded, ns of the recorder's clock."""
    stamp_ns: int
    """Stamp of the observation, ns; 0 when no picture came."""
    held: str = ""
    """Why there is no chunk; empty when there is one."""
    chunk: ActionChunk | None = None
    report: FrameReport | None = None
    pattern: str = ""
    """Fingerprint of the channels that sparse frames kept in this frame; empty when dense."""
    dropped: int = 0
    """Pictures so far that were in no frame."""


@dataclass
class Replay:
    """What came of a bag."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    """One flat row for each answer."""
    damage: str = ""
    """What was wrong with the bag after the last row; empty when it was whole."""
    dropped: int = 0
    """Pictures that were in no frame."""


@dataclass(frozen=True)
class Options:
    """How a bag is replayed."""

    topics: Mapping[str, str] = field(default_factory=dict)
    """Input -> topic, where it is not one of `inputs.ENDINGS`."""
    instruction: str = ""
    """In place of the bag's."""
    rate: float | str = 0.0
    """Frames a second of the stamps at most; "policy": the rate the policy was trained at; 0: every frame."""
    guard: bool = False
    """Send the chunks through the guard, open loop."""
    pace: Callable[[int], None] = lambda time_ns: None
    """Called with the recorder's time of each frame before it is answered; may wait."""


def answers(
    bag: Bag,
    engine: Any,
    feed: Feed,
    seed: int,
    pace: Callable[[int], None] = lambda time_ns: None,
    heard: Callable[[Raw], None] = lambda raw: None,
    clock: Callable[[], float] = time.perf_counter,
) -> Iterator[Answer]:
    """Answer every frame that `feed` finds in the bag. `heard` is told each message first.

    Raises BagError where the bag is damaged.
    """
    pattern = _fingerprint(engine)
    for messages, found, decode_ms in ahead(_found(bag, feed, clock)):
        for raw in messages:
            heard(raw)
        if isinstance(found, Held):
            yield Answer(found.time_ns, found.stamp_ns, found.why, dropped=found.dropped)
        elif found is not None:
            pace(found.time_ns)
            answer = _answer(engine, found, seed, decode_ms, pattern)
            yield answer
            if answer.report is not None and answer.report.kind == "refresh":
                pattern = _fingerprint(engine)


def _found(bag: Bag, feed: Feed, clock: Callable[[], float]) -> Iterator[tuple[list[Raw], Frame | Held | None, float]]:
    """Messages up to the one that gave a frame, the frame, and how long it took to decode, ms. Where no frame comes,
    the messages are handed on all the same: memory does not grow with the bag."""
    messages: list[Raw] = []
    try:
        for raw in timed(bag, feed.topics):
            messages.append(raw)
            began = clock()
            due = list(feed.take(raw))
            decode_ms = 1e3 * (clock() - began)
            waiting: list[Frame | Held | None] = [None] if len(messages) >= BATCH else []
            for found in due or waiting:
                yield messages, found, decode_ms
                messages = []
    except BagError:
        yield messages, None, 0.0
        raise
    yield messages, None, 0.0


def _answer(engine: Any, frame: Frame, seed: int, decode_ms: float, pattern: str) -> Answer:
    seen = frame.observation
    if frame.new_episode:
        engine.reset(seed)
    try:
        step = engine.step(seen)
    except (ObservationError, ControlError) as error:
        return Answer(frame.time_ns, seen.stamp_ns, str(error), dropped=frame.dropped)
    stages = {**step.report.stages_ms, "decode": decode_ms}
    report = replace(step.report, stages_ms=stages)
    return Answer(frame.time_ns, seen.stamp_ns, "", step.chunk, report, pattern, frame.dropped)


def commonest(reasons: list[str]) -> str:
    """What held most frames, as it was said last; numbers in it do not make another reason."""
    kinds = [_NUMBERS.sub("", reason) for reason in reasons]
    if not kinds:
        return "no frame with a picture of every camera"
    most = Counter(kinds).most_common(1)[0][0]
    return next(reason for reason, kind in zip(reversed(reasons), reversed(kinds)) if kind == most)


def run(settings: Config, path: str | Path, options: Options = Options(), out: str | Path | None = None) -> Replay:
    """Answer every frame of a bag. A clock that jumps back or an instruction starts a new episode.

    `out`: folder of a new bag with the inputs and the answers. What could be read of a damaged bag is answered, see
    `Replay.damage`. Raises BagError for a bag that gives no answer at all.
    """
    result = Replay()
    with Bag(path) as bag, ExitStack() as stack:
        default = settings.node.instruction
        topics = choose(bag, options.topics, instruction=options.instruction, default=default)
        writer = AnswerBag(out, bag, topics, settings.node.deadline_ms) if out is not None else None
        if writer is not None:
            stack.callback(writer.close)
        engine = build.engine(settings, Inline())
        stack.callback(engine.close)
        spec = engine.policy.spec
        dtype = str(getattr(engine.policy, "dtype", "float32")).removeprefix("torch.")
        rate_hz = 1.0 / spec.period_s if options.rate == "policy" else float(options.rate)
        first = options.instruction or default
        feed = Feed(bag, topics, settings.node, first, spec.instructions, rate_hz, settings.arm)
        guard = Guarded(settings.control, settings.arm) if options.guard else None
        heard = listener(bag, topics["joint_states"], writer, guard)
        try:
            for answer in answers(bag, engine, feed, settings.policy.seed, options.pace, heard):
                result.rows.append(_row(answer, settings.node.deadline_ms, dtype) | _guarded(answer, guard))
                if writer is not None:
                    writer.answer(answer)
        except BagError as error:
            result.damage = str(error)
        result.dropped = feed.dropped
    if not any("joints" in row for row in result.rows):
        why = result.damage or commonest([row["held"] for row in result.rows])
        raise BagError(f"'{path}': no frame could be answered: {why}")
    return result


def listener(bag: Bag, states: str, writer: AnswerBag | None, guard: Guarded | None) -> Callable[[Raw], None]:
    """What each message of the bag is told to, beside the policy."""

    def heard(raw: Raw) -> None:
        if writer is not None:
            writer.copy(raw)
        if guard is not None:
            guard.hear(raw, bag.decode if raw.topic == states else None)
            news = list(guard.news())
            if writer is not None:
                writer.guard(news)

    return heard


def _guarded(answer: Answer, guard: Guarded | None) -> dict[str, Any]:
    if guard is None:
        return {}
    if answer.chunk is not None:
        changed = answer.report is not None and answer.report.triggered
        guard.chunk(answer.chunk, answer.time_ns, changed)
    return {"guard": guard.state}


def _row(answer: Answer, deadline_ms: float, dtype: str) -> dict[str, Any]:
    row: dict[str, Any] = {"time_ns": answer.time_ns, "stamp_ns": answer.stamp_ns}
    report, chunk = answer.report, answer.chunk
    if report is None or chunk is None:
        return row | {"held": answer.held}
    row.update({f"{stage}_ms": round(report.stages_ms.get(stage, 0.0), 4) for stage in STAGES})
    row.update(policy_ms=report.total_ms, deadline_ms=deadline_ms, deadline_missed=bool(report.total_ms > deadline_ms))
    row.update({f.name: getattr(report, f.name) for f in fields(report) if f.name not in ("stages_ms", "total_ms")})
    row = {k: _plain(v) for k, v in row.items()}
    row.update(pattern=answer.pattern, dtype=dtype, joints=chunk.joints.tolist(), grippers=chunk.gripper.tolist())
    row.update({name: float(value) for name, value in zip(JOINTS, chunk.joints[0])}, gripper=float(chunk.gripper[0]))
    return row


def _plain(value: Any) -> Any:
    """JSON has no NaN: what was not there is null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _fingerprint(engine: Any) -> str:
    """First 12 hexadecimal digits of the hash of the channels a sparse frame keeps; empty when dense."""
    orders, kept = engine.patterns(), engine.sparse_plan.kept
    pattern = {key: sorted(order[: kept[key]]) for key, order in sorted(orders.items())}
    return hashlib.sha256(json.dumps(pattern).encode()).hexdigest()[:12] if pattern else ""
