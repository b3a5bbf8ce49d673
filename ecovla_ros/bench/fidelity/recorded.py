"""What the dense policy saw while it drove the simulated arm: observations that belong to a task.

The phase of a frame is what the dense answer tells the gripper over a chunk: stay open, stay closed, or switch.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ecovla_ros import config
from ecovla_ros.bench.fidelity.comparison import Recording
from ecovla_ros.bench.scenes import SceneFrame
from ecovla_ros.bench.success.drive import Runner
from ecovla_ros.bench.success.environments import ENVIRONMENTS
from ecovla_ros.bench.success.trials import Trial, trials
from ecovla_ros.bench.variants import Variant
from ecovla_ros.engine.engine import Engine, Step
from ecovla_ros.errors import ConfigError, unknown
from ecovla_ros.sim.tasks import TASKS
from ecovla_ros.types import ActionChunk, Observation

OPEN, SWITCH, CLOSED = "open", "switch", "closed"
DRIVEN = tuple(name for name in ENVIRONMENTS if name != "latency")
"""Environments in which the arm does not go on while the policy thinks."""
DENSE = Variant("dense", "none", 0.0)


def phase(chunk: ActionChunk) -> str:
    """Of `OPEN`, `SWITCH`, `CLOSED`: what the gripper is told over the chunk."""
    shut = np.asarray(chunk.gripper) > 0.5
    return CLOSED if shut.all() else SWITCH if shut.any() else OPEN


def recordings(settings: config.Config, environment: str, episodes: int, seed: int) -> Iterator[Recording]:
    """`episodes` seeds from `seed` on of every task, driven dense through the guard. Raises ConfigError."""
    if environment not in DRIVEN:
        raise ConfigError(unknown("environment", environment, DRIVEN))
    todo = trials([DENSE], list(TASKS), [environment], episodes, seed)
    return _drive(Runner(settings), todo)


def _drive(runner: Runner, todo: list[Trial]) -> Iterator[Recording]:
    for trial in todo:
        frames: list[SceneFrame] = []

        def watch(_engine: Engine, seen: Observation, step: Step, _tick: int, own: list[SceneFrame] = frames) -> None:
            own.append(SceneFrame(phase(step.chunk), seen))

        runner.run(trial, watch)
        yield Recording(trial.seed, frames)
