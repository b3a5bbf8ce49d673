"""Several arms on one engine: what a change of turns costs, and how far the actions are from those of the dense model.

A mask is a permutation of rows, so that two arms cannot both have their pattern in place. Four ways to live with it:

- dense: nothing is pruned, and nothing changes with the turn.
- fixed: the calibration's order of rows stays, and a tier is a prefix of it; nobody refreshes.
- shared: one pattern, driven by the energies of all arms.
- own: each arm has its pattern, whose rows are moved into place when its turn comes.

The arms look at different scenes and take turns, frame by frame; all ways answer the same frames, round by round.
Frames follow at once, so that a refresh has no gap to run in: the busiest a server can be.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ecovla_ros import build, config
from ecovla_ros.bench.fidelity import recorded
from ecovla_ros.bench.fidelity.comparison import Recording, interval
from ecovla_ros.bench.scenes import stream
from ecovla_ros.bench.variants import Bench, Variant
from ecovla_ros.errors import ConfigError
from ecovla_ros.serve.replica import Turns

WARM_UP = 5
"""Rounds whose times are not counted."""


@dataclass
class Way:
    """One way to hold several arms, and what it took."""

    name: str
    engine: Any
    turns: Turns
    turn_ms: list[float] = field(default_factory=list)
    frame_ms: list[float] = field(default_factory=list)
    refreshes: int = 0
    joints: list[np.ndarray] = field(default_factory=list)

    def answer(self, arm: int, frame: Any) -> None:
        """One frame of one arm, with the change of turns before it."""
        began = time.perf_counter()
        self.turns.take(str(arm))
        turned = time.perf_counter()
        step = self.engine.step(frame.observation)
        self.turn_ms.append(1e3 * (turned - began))
        self.frame_ms.append(1e3 * (time.perf_counter() - turned))
        self.refreshes += step.report.kind == "refresh"
        self.joints.append(np.asarray(step.chunk.joints))


def measure(
    settings: config.Config, counts: Sequence[int], frames: int, seed: int, done: Callable[[int], None]
) -> list[dict[str, Any]]:
    """Rows of `ecovla bench --sessions`: every way, by the number of arms. `done` is told of rounds.

    Raises ConfigError for a count below 1, or a configuration that prunes nothing.
    """
    if not counts or min(counts) < 1:
        raise ConfigError(f"--sessions {list(counts)}; valid: counts of 1 or more, e.g. 1,2,4,8")
    ratio = settings.prune.ratio
    if settings.prune.method != "ecovla" or ratio <= 0:
        raise ConfigError("--sessions compares ways to prune; valid: prune.method=ecovla and a prune.ratio above 0")
    ours = Variant("ecovla", settings.prune.refresh, ratio)
    chosen = {"dense": Variant("dense", "none", 0.0), "fixed": Variant("static", "none", ratio),
              "shared": ours, "own": ours}  # fmt: skip
    bench = Bench(settings, list(chosen.values()), seed)
    scenes = _scenes(settings, bench, max(counts), frames, seed)
    rows, rounds = [], 0
    for arms in counts:
        ways = [_way(bench, index, name, settings, seed) for index, name in enumerate(chosen)]
        for at in range(frames):
            for way in ways:
                for arm in range(arms):
                    way.answer(arm, scenes[arm].frames[at % len(scenes[arm].frames)])
            done(rounds := rounds + 1)
        rows += [_row(way, ways[0], arms, ratio, scenes) for way in ways]
        for way in ways:
            way.engine.close()
    return rows


def _way(bench: Bench, index: int, name: str, settings: config.Config, seed: int) -> Way:
    engine = bench.engine(index, build.side_streams(settings.policy), seed)
    return Way(name, engine, Turns(engine, name == "own"))


def _scenes(settings: config.Config, bench: Bench, arms: int, frames: int, seed: int) -> list[Recording]:
    """A recording for each arm: of the built-in policy in its simulator, by task and seed; else scripted pictures."""
    if settings.policy.model != "mini":
        spec = bench.policies[0].spec
        return [Recording(seed + arm, list(stream(spec, frames, seed + 100 * arm))) for arm in range(arms)]
    per_task = -(-arms // len(recorded.TASKS))
    found = [r for r in recorded.recordings(settings, "calm", per_task, seed) if r.frames]
    return [found[(arm % len(recorded.TASKS)) * per_task + arm // len(recorded.TASKS)] for arm in range(arms)]


def _row(way: Way, dense: Way, arms: int, ratio: float, scenes: Sequence[Recording]) -> dict[str, Any]:
    """`rms_rad` and its 95 % by whole recordings; times without the first rounds."""
    error = np.stack(way.joints) - np.stack(dense.joints)
    squares = (error**2).mean((1, 2))
    low, high = interval(squares, np.arange(len(squares)) % arms)
    turn, frame = (np.array(ms[WARM_UP * arms :]) for ms in (way.turn_ms, way.frame_ms))
    whole, dense_whole = turn + frame, np.array(dense.turn_ms[WARM_UP * arms :]) + dense.frame_ms[WARM_UP * arms :]
    return {
        "way": way.name, "sessions": arms, "n": len(whole), "ratio": 0.0 if way.name == "dense" else ratio,
        "turn_p50_ms": float(np.median(turn)), "frame_p50_ms": float(np.median(frame)),
        "mean_ms": float(whole.mean()), "p50_ms": float(np.median(whole)), "p99_ms": float(np.percentile(whole, 99)),
        "speedup": float(dense_whole.mean() / whole.mean()),
        "rows_moved": way.turns.moved / max(1, way.turns.changes - arms),
        "refresh_rate": way.refreshes / len(way.frame_ms),
        "rms_rad": float(np.sqrt(squares.mean())), "rms_low_rad": low, "rms_high_rad": high,
    }  # fmt: skip
