"""Measures success in closed loop, in pairs: every variant meets the same scenes, flow noise and guard.

Rows of one task, environment and seed differ in nothing but the variant. `ecovla eval` is the command.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ecovla_ros import config
from ecovla_ros.bench.success.drive import TICK_S
from ecovla_ros.bench.success.environments import Delays
from ecovla_ros.bench.success.journal import Journal, trial_of
from ecovla_ros.bench.success.statistics import (
    TYPICAL_DISCORDANCE,
    fewest_pairs,
    mcnemar,
    needed_pairs,
    non_inferiority,
    wilson,
)
from ecovla_ros.bench.success.trials import Trial
from ecovla_ros.bench.success.workers import Spread
from ecovla_ros.bench.variants import Variant
from ecovla_ros.errors import ConfigError

Row = dict[str, Any]
Pairs = dict[tuple[str, str, int], Row]
"""(environment, task, seed) -> episode."""


def run(
    settings: config.Config,
    todo: Sequence[Trial],
    spread: Spread,
    done: Callable[[Row], None],
    delays: Delays | None = None,
    journal: Journal | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> list[Row]:
    """Run every trial that `journal` does not hold yet, until `stop`; `done` is handed each episode as it ends.

    Returns the episodes there are: those of `todo` in its order, then what else the journal holds. Raises ConfigError
    for a variant in the environment `latency` that was not measured.
    """
    one_thread = replace(settings, policy=replace(settings.policy, threads=1))
    if delays is not None:
        for variant in {t.variant for t in todo if t.environment == "latency"}:
            delays.ticks((variant.method, variant.refresh, variant.ratio), "all", TICK_S)
    wanted = set(todo)
    rows = {trial_of(row): row for row in (journal.rows if journal else ()) if trial_of(row) in wanted}
    left = [] if stop() else [trial for trial in todo if trial not in rows]
    for row in spread(one_thread, delays, left) if left else ():
        rows[trial_of(row)] = row
        if journal is not None:
            journal.add(row)
        done(row)
        if stop():
            break
    others = [row for row in (journal.rows if journal else ()) if trial_of(row) not in wanted]
    return [rows[trial] for trial in todo if trial in rows] + others


def check_size(episodes: int, margin: float) -> None:
    """Raises ConfigError where `episodes` pairs cannot show non-inferiority by `margin`, and says how many can."""
    if not 0.0 < margin < 1.0:
        raise ConfigError(f"margin {margin}; valid: between 0 and 1, e.g. 0.02 for two points")
    least = fewest_pairs(margin)
    if episodes < least:
        raise ConfigError(
            f"{episodes} paired episodes cannot show non-inferiority by {100 * margin:g} points: at least {least} are "
            f"needed even if none differs, about {needed_pairs(margin, TYPICAL_DISCORDANCE)} if "
            f"{100 * TYPICAL_DISCORDANCE:g} % of them do (power 80 %)"
        )


def table(episodes: Sequence[Row], margin: float | None = None) -> list[Row]:
    """Rows of `ecovla eval`: one per environment, variant and task, and pooled over tasks."""
    dense = {_key(e): e for e in episodes if e["method"] == "dense"}
    groups = sorted({(e["environment"], e["ratio"], e["method"], e["refresh"]) for e in episodes}, key=_order)
    rows = []
    for environment, ratio, method, refresh in groups:
        variant = Variant(method, refresh, ratio)
        mine = [e for e in episodes if e["environment"] == environment and trial_of(e).variant == variant]
        for task in ("all", *sorted({e["task"] for e in mine})):
            some = [e for e in mine if task in ("all", e["task"])]
            rows.append(
                {
                    "task": task,
                    "environment": environment,
                    "method": method,
                    "refresh": refresh,
                    "ratio": ratio,
                    **_summary(some),
                    **_against(dense, some, margin),
                }
            )
    return rows


def _order(group: tuple[str, float, str, str]) -> tuple[Any, ...]:
    environment, ratio, method, refresh = group
    place = config.METHODS.index(method) if method in config.METHODS else len(config.METHODS)
    return environment, ratio, place, method, refresh


def _key(episode: Row) -> tuple[str, str, int]:
    return episode["environment"], episode["task"], episode["seed"]


def _summary(episodes: Sequence[Row]) -> Row:
    successes = sum(e["success"] for e in episodes)
    low, high = wilson(successes, len(episodes))
    frames = sum(e["frames"] for e in episodes)
    solved = [e for e in episodes if e["success"]]
    return {
        "episodes": len(episodes),
        "successes": successes,
        "low": low,
        "high": high,
        "steps_p50": _median(e["steps"] for e in solved),
        "seconds_p50": _median(e["seconds"] for e in solved),
        "path_p50_m": _median(e["path_m"] for e in solved),
        "jerk_p50": _median(e["jerk"] for e in solved),
        "trigger_rate": sum(e["triggered"] for e in episodes) / frames if frames else None,
    }


def _median(values: Iterable[float]) -> float | None:
    found = list(values)
    return float(np.median(found)) if found else None


def _against(dense: Pairs, episodes: Sequence[Row], margin: float | None) -> Row:
    """The paired comparison with dense on the same scenes; None where dense was not run."""
    pairs = [(dense[_key(e)]["success"], e["success"]) for e in episodes if _key(e) in dense]
    if len(pairs) < len(episodes) or all(e["method"] == "dense" for e in episodes):
        return dict.fromkeys(("only_dense", "only_this", "mcnemar_p", "difference_low", "margin", "verdict"))
    lost = sum(bool(before) and not now for before, now in pairs)
    won = sum(bool(now) and not before for before, now in pairs)
    verdict = None if margin is None else non_inferiority(lost, won, len(pairs), margin)
    return {
        "only_dense": lost,
        "only_this": won,
        "mcnemar_p": mcnemar(lost, won),
        "margin": margin,
        "difference_low": None if verdict is None else verdict.low,
        "verdict": None if verdict is None else verdict.text,
    }
