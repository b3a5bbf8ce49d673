"""A small policy as a checkpoint, engines that need none, and bags to feed them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from ecovla_ros import config
from ecovla_ros.bags import replay, sample
from ecovla_ros.bags.inputs import Feed, choose
from ecovla_ros.bags.read import Bag
from ecovla_ros.bags.sample import Sample, TimedMessage
from ecovla_ros.config import Config, NodeConfig
from ecovla_ros.models.data.prompt import Prompt
from ecovla_ros.models.pi import checkpoint
from ecovla_ros.types import CAMERAS, ActionChunk, FrameReport, Observation
from support.pi_models import SMALL, TEXTS, model, normaliser, spec

SAMPLE = Sample(seconds=2.0, size=32, encoding="rgb8", instruction=TEXTS[0])
STILL = Sample(seconds=4.0, size=32, encoding="rgb8", instruction=TEXTS[0], state_hz=100.0, still=True)
"""An arm that stands, so that a guard which is told to stay has nothing to complain about."""


def settings(folder: Path, **changes: Any) -> Config:
    """A configuration with a small policy, whose checkpoint is written to `folder`."""
    checkpoint.save(folder, model(), normaliser(), Prompt.build(TEXTS, SMALL.max_prompt), spec(), {})
    known = {f for f in vars(Config().prune)}
    first = {"policy.checkpoint": str(folder), "prune.ratio": 0.5, "prune.sites": ["lm.mlp", "lm.heads"]}
    first |= {"prune.refresh": "dense"} if "refresh" in known else {}
    return config.override(Config(), **first, **changes)


class Stay:
    """An engine whose chunk keeps the arm where it was seen."""

    def __init__(self, rows: int = 4, period_s: float = 0.1) -> None:
        self._rows, self._period_s = rows, period_s
        self.policy = SimpleNamespace(
            spec=SimpleNamespace(cameras=dict.fromkeys(CAMERAS), instructions=(), period_s=period_s)
        )
        self.seen: list[Observation] = []
        self.resets: list[int] = []
        self.sparse_plan = SimpleNamespace(kept={})

    def step(self, obs: Observation) -> Any:
        self.seen.append(obs)
        joints = np.tile(obs.joints, (self._rows, 1))
        chunk = ActionChunk(obs.stamp_ns, self._period_s, joints, np.full(self._rows, obs.gripper))
        return SimpleNamespace(chunk=chunk, report=FrameReport(obs.stamp_ns, {"act": 1.0}, 2.0))

    def reset(self, seed: int) -> None:
        self.resets.append(len(self.seen))

    def patterns(self) -> dict[str, list[int]]:
        return {}

    def close(self) -> None:
        return


def answers(path: Path, engine: Any, node: NodeConfig | None = None, **options: Any) -> list[replay.Answer]:
    """Every answer of an engine to a bag."""
    with Bag(path) as bag:
        feed = Feed(bag, choose(bag, {}), node or NodeConfig(), **options)
        return list(replay.answers(bag, engine, feed, 0))


def shifted(event: TimedMessage, seconds: float) -> TimedMessage:
    """The same message with an earlier (or, negative, a later) stamp."""
    import copy

    from ecovla_ros import wire

    message = copy.deepcopy(event.message)
    wire.set_stamp(message.header.stamp, wire.stamp_ns(message.header.stamp) - round(seconds * 1e9))
    return event._replace(message=message)


def of(events: Iterable[TimedMessage], *topics: str) -> list[int]:
    """Where in the list the messages of these topics are."""
    return [i for i, event in enumerate(events) if event.topic in topics]


def written(folder: Path, events: Sequence[TimedMessage], name: str = "bag") -> Path:
    return sample.write(folder / name, events)


class Busy(Stay):
    """Stays, and reports frames as an adaptive policy would; every tenth triggers."""

    def step(self, obs: Observation) -> Any:
        made = super().step(obs)
        i = len(self.seen) - 1
        stages = {
            "encode": 4.0 + i % 3,
            "trigger": 0.1,
            "join": 0.5 * (i % 10 == 1),
            "prefill": 9.0,
            "act": 20.0 + i % 7,
            "post": 0.2,
        }
        kind = "refresh" if i % 10 == 0 else "sparse"
        report = FrameReport(
            obs.stamp_ns, stages, sum(stages.values()), stages["join"], 3.5, "ecovla", kind,
            0.99 if i else float("nan"), 0.985 if i > 1 else float("nan"), i % 10 == 0, 0.25, i % 10, i // 10, 12,
        )  # fmt: skip
        return SimpleNamespace(chunk=made.chunk, report=report)


def answered(path: Path, out: Path, engine: Any, deadline_ms: float = 34.0) -> Path:
    """A bag with the answers of an engine, and those of the guard."""
    from ecovla_ros.bags.answers import AnswerBag
    from ecovla_ros.bags.guarded import Guarded

    with Bag(path) as bag:
        topics = choose(bag, {})
        writer, guard = AnswerBag(out, bag, topics, deadline_ms), Guarded(config.ControlConfig())
        listen = replay.listener(bag, topics["joint_states"], writer, guard)
        feed = Feed(bag, topics, NodeConfig())
        for answer in replay.answers(bag, engine, feed, 0, heard=listen):
            writer.answer(answer)
            if answer.chunk is not None:
                guard.chunk(answer.chunk, answer.time_ns)
        writer.close()
    return out
