"""DDIM without noise (arXiv 2010.02502, eta 0) on the squared-cosine schedule, with the constants of CogACT."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ecovla_ros.errors import ConfigError

TRAINING_STEPS = 100
"""Diffusion steps the published heads were trained with."""


@dataclass(frozen=True)
class DdimStep:
    """x_next = keep * x + noise * eps, where eps is what the network predicts at `time`."""

    time: int
    """Time of the training schedule, 0 .. TRAINING_STEPS - 1."""
    keep: float
    noise: float


def ddim_steps(count: int, training_steps: int = TRAINING_STEPS) -> tuple[DdimStep, ...]:
    """The `count` steps from noise to actions: every n-th training time, downwards, the last one to alpha = 1.

    With a = cumulative alpha at a time: x0 = (x - sqrt(1 - a) eps) / sqrt(a), x_next = sqrt(b) x0 + sqrt(1 - b) eps.
    Raises ConfigError for a count that no stride of the schedule gives.
    """
    alphas = _cumulative(training_steps)
    times = _times(count, training_steps)
    steps = []
    for time, after in zip(reversed(times), (*reversed(times[:-1]), None)):
        a, b = alphas[time], 1.0 if after is None else alphas[after]
        keep = math.sqrt(b / a)
        steps.append(DdimStep(time, keep, math.sqrt(1.0 - b) - keep * math.sqrt(1.0 - a)))
    return tuple(steps)


def _cumulative(count: int) -> list[float]:
    """Products of alpha: cos^2((t / T + 0.008) / 1.008 * pi / 2), each beta at most 0.999."""

    def bar(t: float) -> float:
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    product, out = 1.0, []
    for i in range(count):
        product *= 1.0 - min(1.0 - bar((i + 1) / count) / bar(i / count), 0.999)
        out.append(product)
    return out


def _times(count: int, training_steps: int) -> list[int]:
    if count == 1:
        return [training_steps // 2]
    for stride in range(1, training_steps):
        if len(range(0, training_steps, stride)) == count:
            return list(range(0, training_steps, stride))
    valid = sorted({len(range(0, training_steps, stride)) for stride in range(1, training_steps)} | {1})
    raise ConfigError(f"{count} diffusion steps; valid: {', '.join(map(str, valid))}")
