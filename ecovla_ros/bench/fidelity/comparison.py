"""How far the actions of a pruned policy are from those of the dense one, frame by frame on the same observations.

Not success: an error says what pruning does to the function, a closed loop says what that does to a task. The patterns
are in place for the next frame, as if the refresh always fitted into the gap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ecovla_ros.bench.scenes import SceneFrame
from ecovla_ros.bench.variants import Bench, Variant
from ecovla_ros.engine.streams import Inline

DRAWS = 2000
"""Of the bootstrap over recordings."""
ALL = "all"


@dataclass(frozen=True)
class Recording:
    """Observations in a row, and the seed of the engines that answer them."""

    seed: int
    frames: Sequence[SceneFrame]


@dataclass(frozen=True)
class Answers:
    """What one variant answered to one recording of n frames."""

    joints: np.ndarray
    """(n, H, 7), rad."""
    gripper: np.ndarray
    """(n, H), 0 open .. 1 closed."""


def measure(
    bench: Bench, recordings: Iterable[Recording], done: Callable[[int], None] = lambda _: None
) -> list[dict[str, Any]]:
    """Rows of `ecovla bench --fidelity`: error of the targets against the first variant's, by variant and phase.

    Every recording meets every variant as it begins: calibrated, and with no history. `done` is told how many times a
    variant has answered a recording.
    """
    phases: list[list[str]] = []
    answers: list[list[Answers]] = [[] for _ in bench.variants]
    for recording in recordings:
        phases.append([frame.phase for frame in recording.frames])
        for index, own in enumerate(answers):
            own.append(_answers(bench, index, recording))
            done(sum(map(len, answers)))
    return [row for variant, own in zip(bench.variants, answers) for row in _rows(variant, own, answers[0], phases)]


def _answers(bench: Bench, index: int, recording: Recording) -> Answers:
    engine = bench.engine(index, Inline(), recording.seed)
    try:
        chunks = [engine.step(frame.observation).chunk for frame in recording.frames]
    finally:
        engine.close()
    return Answers(np.stack([c.joints for c in chunks]), np.stack([c.gripper for c in chunks]))


def _rows(
    variant: Variant, own: Sequence[Answers], dense: Sequence[Answers], phases: Sequence[Sequence[str]]
) -> Iterator[dict[str, Any]]:
    """`relative`: root mean square of the joint error over that of the dense actions' spread over frames."""
    joints = np.concatenate([d.joints for d in dense])
    spread = float(np.sqrt(((joints - joints.mean(0)) ** 2).mean()))
    error = np.concatenate([a.joints for a in own]) - joints
    gripper = np.concatenate([a.gripper - d.gripper for a, d in zip(own, dense)])
    recording = np.repeat(np.arange(len(own)), [len(a.joints) for a in own])
    names = [phase for some in phases for phase in some]
    for phase in (ALL, *dict.fromkeys(names)):
        some = np.array([phase in (ALL, name) for name in names])
        squares = (error[some] ** 2).mean((1, 2))
        rms = float(np.sqrt(squares.mean()))
        row = {
            "method": variant.method,
            "refresh": variant.refresh,
            "ratio": variant.ratio,
            "tokens": variant.tokens,
            "phase": phase,
            "n": int(some.sum()),
            "recordings": len(set(recording[some])),
            "rms_rad": rms,
            "p95_rad": float(np.percentile(np.sqrt(squares), 95)),
            "max_rad": float(np.abs(error[some]).max()),
            "relative": rms / spread if spread else None,
            "gripper_rms": float(np.sqrt((gripper[some] ** 2).mean())),
        }
        row["rms_low_rad"], row["rms_high_rad"] = interval(squares, recording[some])
        row["gripper_low"], row["gripper_high"] = interval((gripper[some] ** 2).mean(1), recording[some])
        yield row


def interval(squares: np.ndarray, recording: np.ndarray) -> tuple[float | None, float | None]:
    """95 % of the root mean of `squares` (n,) where whole recordings (n,) are drawn anew; None for a single one.

    Frames of one recording resemble one another, so that n frames are worth fewer than n. Percentile bootstrap.
    """
    _, which = np.unique(recording, return_inverse=True)
    sums, counts = np.bincount(which, squares), np.bincount(which)
    if len(sums) < 2:
        return None, None
    drawn = np.random.default_rng(0).integers(0, len(sums), (DRAWS, len(sums)))
    roots = np.sqrt(sums[drawn].sum(1) / counts[drawn].sum(1))
    low, high = np.percentile(roots, (2.5, 97.5))
    return float(low), float(high)
