"""How soon a command answers a changed scene, in the simulator: `stage/reaction` runs it, and the same over ROS 2.

From the instant at which the object is moved to the first trajectory that comes of a picture taken after it. The policy
sees every picture, as on the arm, and its own time does not count: what is left is the wait for a picture and for the
chunk's turn.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from ecovla_ros import config
from ecovla_ros.bench.success.drive import ARMING_TICKS, Runner
from ecovla_ros.bench.success.environments import schedule
from ecovla_ros.bench.success.statistics import wilson
from ecovla_ros.bench.success.trials import Trial
from ecovla_ros.control.status import Command
from ecovla_ros.sim.tasks import TASKS
from ecovla_ros.sim.world import TICK_NS
from ecovla_ros.types import FrameReport, Observation

REACT_S = (0.0, 0.1)
"""`control.react_s` before and after."""
LOOK_S = 0.1
"""A picture in each period of the policy, as the camera gives them."""
MOST_NS = 2_000_000_000
"""What has not been answered after so long is not waited for."""


class Wait:
    """Of one episode: hand `watch` and `over` to `Runner.run`."""

    def __init__(self, trial: Trial, whole: bool) -> None:
        moved = next(e for e in schedule("shift", trial.seed, TASKS[trial.task].object) if e.kind == "object_move")
        self._moved_ns, self._whole = (moved.tick - ARMING_TICKS) * TICK_NS, whole
        self._begun_ns = 0
        self._since_ns: int | None = None
        self.answer_s: float | None = None
        """To the first command that answers the change; None: there was none."""
        self.trigger_s: float | None = None
        """To the first picture of another scene at which the trigger fired."""

    def over(self, since_ns: int, command: Command) -> bool:
        """See `drive.Over`."""
        self._since_ns = since_ns
        away_ns = since_ns - self._moved_ns
        stamp_ns = command.status.chunk_stamp_ns - self._begun_ns
        if self.answer_s is None and command.trajectory is not None and stamp_ns > self._moved_ns:
            self.answer_s = away_ns * 1e-9
        return not self._whole and (self.answer_s is not None or away_ns > MOST_NS)

    def watch(self, _engine: Any, seen: Observation, step: Any, tick: int) -> None:
        """See `drive.Watch`."""
        if tick == 0:
            self._begun_ns = seen.stamp_ns
        report: FrameReport = step.report
        away_ns = seen.stamp_ns - self._begun_ns - self._moved_ns
        if self.trigger_s is None and report.triggered and 0 < away_ns <= MOST_NS:
            self.trigger_s = away_ns * 1e-9


def measure(settings: config.Config, trials: Sequence[Trial], whole: bool) -> list[dict[str, Any]]:
    """A row for each of `REACT_S`, over the same trials; `whole`: each to its end, and how many were solved."""
    found = []
    for react_s in REACT_S:
        runner = Runner(config.override(settings, **{"control.react_s": react_s}), look_s=LOOK_S)
        watches, outcomes = [Wait(trial, whole) for trial in trials], []
        for trial, watch in zip(trials, watches):
            outcomes.append(runner.run(trial, watch.watch, watch.over))
            sys.stderr.write(f"{react_s} {trial.task} {trial.seed}: {watch.answer_s} {outcomes[-1]['success']}\n")
        solved = sum(o["success"] for o in outcomes)
        low, high = wilson(solved, len(outcomes))
        more = {"solved": solved, "low": low, "high": high, "jerk_p50": float(np.median([o["jerk"] for o in outcomes]))}
        found.append(
            {
                "where": "simulator",
                "react_s": react_s,
                "episodes": len(trials),
                **summary(watches),
                **(more if whole else {}),
            }
        )
    return found


def summary(watches: Sequence[Wait]) -> dict[str, Any]:
    """Percentiles of the answers, and how many changes the trigger saw in the first two pictures of it."""
    answers = [w.answer_s for w in watches if w.answer_s is not None]
    seen = [w.trigger_s is not None and w.trigger_s <= 2 * LOOK_S for w in watches]
    return {
        "n": len(answers),
        "not_answered": len(watches) - len(answers),
        "p50_s": float(np.percentile(answers, 50)) if answers else None,
        "p95_s": float(np.percentile(answers, 95)) if answers else None,
        "triggered_in_two_pictures": float(np.mean(seen)) if seen else None,
    }
