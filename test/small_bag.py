"""A small policy as a checkpoint, engines that need none, and bags to feed them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from pi_models import SMALL, TEXTS, model, normaliser, spec

from ecovla_ros import config
from ecovla_ros.bags import replay, sample
from ecovla_ros.bags.inputs import Feed, choose
from ecovla_ros.bags.read import Bag
from ecovla_ros.bags.sample import Event, Sample
from ecovla_ros.config import Config, NodeConfig
from ecovla_ros.models.pi import checkpoint
from ecovla_ros.models.pi.prompt import Prompt
from ecovla_ros.types import CAMERAS, ActionChunk, FrameReport, Observation

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
        self.policy = SimpleNamespace(spec=SimpleNamespace(cameras=dict.fromkeys(CAMERAS), instructions=(), period_s=period_s))
        self.seen: list[Observation] = []
        self.resets: list[int] = []
        self.sparse_plan: dict[str, int] = {}

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


def shifted(event: Event, seconds: float) -> Event:
    """The same message with an earlier (or, negative, a later) stamp."""
    import copy

    from ecovla_ros import wire

    message = copy.deepcopy(event.message)
    wire.set_stamp(message.header.stamp, wire.stamp_ns(message.header.stamp) - round(seconds * 1e9))
    return event._replace(message=message)


def of(events: Iterable[Event], *topics: str) -> list[int]:
    """Where in the list the messages of these topics are."""
    return [i for i, event in enumerate(events) if event.topic in topics]


def written(folder: Path, events: Sequence[Event], name: str = "bag") -> Path:
    return sample.write(folder / name, events)
