"""Run the adapted policy, with random weights: `python examples/bring_your_own_model/run.py`."""

from __future__ import annotations

import numpy as np
import torch
from adapter import AdaptedPolicy
from their_policy import CAMERAS, SIZE, TASKS, TheirPolicy

from ecovla_ros.config import PruneConfig
from ecovla_ros.engine.engine import Engine
from ecovla_ros.engine.streams import streams_for
from ecovla_ros.types import Observation

PERIOD_NS = 100_000_000


def scene(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """One image for each camera."""
    return {camera: rng.integers(0, 256, (SIZE, SIZE, 3), np.uint8) for camera in CAMERAS}


def main(frames: int = 30, change_at: int = 15) -> list[str]:
    """Drive it through a scene that changes once. Prints and returns one line a frame."""
    torch.manual_seed(0)
    policy = AdaptedPolicy(TheirPolicy())
    prune = PruneConfig(method="ecovla", ratio=0.5, refresh="dense", p=0.1, window=10)
    engine = Engine(policy, prune, streams_for(policy.device))
    engine.warm_up()
    rng, lines = np.random.default_rng(0), []
    images = scene(rng)
    for i in range(frames):
        images = scene(rng) if i == change_at else images
        report = engine.step(Observation((i + 1) * PERIOD_NS, images, np.zeros(7), 0.0, TASKS[0])).report
        lines.append(
            f"frame {i:2}  {report.kind:8} pattern {report.pattern_id}  {report.swaps:3} pairs of channels swapped"
        )
        print(lines[-1])
    engine.close()
    return lines


if __name__ == "__main__":
    main()
