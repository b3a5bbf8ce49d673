"""How far the actions of a pruned policy are from those of the dense one, frame by frame on the same stream.

Not success: an error says what pruning does to the function, a closed loop says what that does to a task. The patterns
are in place for the next frame, as if the refresh always fitted into the gap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ecovla_ros import config
from ecovla_ros.bench.scenes import CALM, CHANGING, stream
from ecovla_ros.bench.variants import Bench, Variant
from ecovla_ros.engine.streams import Inline

PHASES = ("all", CALM, CHANGING)


def measure(
    settings: config.Config, chosen: Sequence[Variant], frames: int, seed: int, progress: Callable[[int, int], None]
) -> list[dict[str, Any]]:
    """Rows of `ecovla bench --fidelity`: error of joint targets against dense by variant and phase, rad."""
    bench = Bench(settings, chosen, seed)
    chunks, done = [], 0
    phases = [f.phase for f in stream(bench.policies[0].spec, frames, seed)]
    for index in range(len(chosen)):
        engine, own = bench.engine(index, Inline(), seed), []
        for frame in stream(engine.policy.spec, frames, seed):
            own.append(engine.step(frame.observation).chunk.joints)
            done += 1
            progress(done, frames * len(chosen))
        engine.close()
        chunks.append(np.stack(own))
    return [row for variant, own in zip(chosen, chunks) for row in _rows(variant, own - chunks[0], chunks[0], phases)]


def _rows(variant: Variant, error: np.ndarray, dense: np.ndarray, phases: list[str]) -> Iterator[dict[str, Any]]:
    """`relative`: root mean square of the error over that of the dense actions' spread over frames."""
    spread = float(np.sqrt(((dense - dense.mean(0)) ** 2).mean()))
    for phase in PHASES:
        some = np.array([phase in ("all", p) for p in phases])
        if not some.any():
            continue
        rms = np.sqrt((error[some] ** 2).mean((1, 2)))
        yield {
            "method": variant.method, "refresh": variant.refresh, "ratio": variant.ratio, "tokens": variant.tokens,
            "phase": phase, "n": int(some.sum()),
            "rms_rad": float(np.sqrt((rms**2).mean())), "p95_rad": float(np.percentile(rms, 95)),
            "max_rad": float(np.abs(error[some]).max()), "relative": float(np.sqrt((rms**2).mean()) / spread) if spread else None,
        }
