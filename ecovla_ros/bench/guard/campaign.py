"""The fault campaign: a guard, a controller that runs what it sends, and a policy, cameras, clocks and arm that fail.

One case is about three seconds of simulated time: the arm is enabled and follows a healthy policy, then one fault (or a
mixture) acts for a while, then the policy is healthy again or silent. Judged is what the controller commanded at 1 kHz,
against position, velocity, acceleration, jerk, tool speed and box; that nothing raised; that every latch says why.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ecovla_ros.bench.guard.controller import FakeController
from ecovla_ros.bench.guard.faults import CASES, NS, Fault, Rig, healthy, scene
from ecovla_ros.bench.guard.judge import library
from ecovla_ros.bench.guard.release import GUARDED
from ecovla_ros.bench.pool import pool
from ecovla_ros.config import PROFILES, ControlConfig
from ecovla_ros.control.guard import Guard
from ecovla_ros.control.limits import Limits, load
from ecovla_ros.control.states import State
from ecovla_ros.errors import ControlError
from ecovla_ros.types import CONTINUOUS

HOME = np.array([0.0, 0.5, 3.14, -1.6, 0.0, -1.0, 1.57])
SPREAD = np.array([0.4, 0.25, 0.3, 0.3, 0.4, 0.4, 1.0])
SEEN_TICKS, HEALTHY_TICKS, AFTER_TICKS, REST_TICKS = 25, 60, 40, 95
"""Ticks of 10 ms: before the guard is enabled; healthy policy before the fault, and after it; silence at the end, in
which the longest motion that could be under way ends by itself."""
SEAT_TICKS = 80
"""More of a healthy policy where the guard must first bring the controller to where the arm stands."""


REACT_S = 0.02
"""The shortest `react_s` that has a meaning at the guard's rate, s: no less is safer."""
_limits = functools.cache(load)


def case(name: str, seed: int) -> dict[str, Any]:
    """One case: what was violated, whether something raised, and how it ended. Deterministic in `seed`."""
    rng = np.random.default_rng([seed, list(CASES).index(name)])
    config = ControlConfig(
        profile=str(rng.choice(PROFILES)), replan_s=float(rng.choice([0.1, 0.25, 0.4])), react_s=REACT_S
    )
    limits = _limits(config.profile)
    where = scene(rng)
    if where.clock == "never" or not where.heard:
        config = dataclasses.replace(config, stamp_commands="never" if where.clock == "never" else "always")
    turns = np.where(CONTINUOUS, 2 * np.pi * rng.integers(-1, 2, 7), 0.0) if where.turned else 0.0
    start = HOME + SPREAD * rng.uniform(-1.0, 1.0, 7) + turns
    if not where.heard:  # nobody tells its turns: it was activated where the arm reports to be
        start = np.where(CONTINUOUS, (start + np.pi) % (2.0 * np.pi) - np.pi, start)
    rig = Rig(Guard(config, limits, steady=True), FakeController(start, 100 * NS, where.release), rng, where)
    error, status = "", None
    try:
        _live(rig, CASES[name])
        status = rig.guard.tick(rig.clock).status
    except ControlError as refused:
        error = f"the controller refused: {refused}"
    except (ArithmeticError, LookupError, TypeError, ValueError, AttributeError, AssertionError) as raised:
        error = f"{type(raised).__name__}: {raised}"
    box = np.array(config.box_lower), np.array(config.box_upper)
    by_model = {where.release: rig.controller}
    try:
        for release in GUARDED:
            if release != where.release and not (release == "humble" and rig.clock_set) and not rig.restarted:
                by_model[release] = rig.again(release)
    except ControlError as refused:
        error = error or f"another controller refused: {refused}"
    judged = {release: sorted(model.violations(limits, box)) for release, model in by_model.items()}
    real = _real(rig, by_model, limits, box)
    latched = status is not None and status.state == State.LATCHED.value
    return {
        "case": name, "seed": seed, **vars(where), "crash": error,
        "violations": sorted({name for found in judged.values() for name in found}), "judged": judged, "real": real,
        "commands": status.commands if status else 0, "refusals": status.refusals if status else 0,
        "state": status.state if status else "", "latched": latched,
        "unexplained": bool(latched and status is not None and len(status.reason) < 8),
        "moving": bool(status is not None and rig.controller.moving),
    }  # fmt: skip


def _real(
    rig: Rig, by_model: Mapping[str, FakeController], limits: Limits, box: tuple[np.ndarray, np.ndarray]
) -> dict[str, Any]:
    """What the real controllers of the same releases made of it, where there are some (see `judge`).

    Release -> limits they were outside of, and how far from the model they were at most, rad.
    """
    found: dict[str, Any] = {}
    for release, model in by_model.items():
        if library(release) is None:
            continue
        real = rig.again(release, real=True)
        off = np.abs(model.commanded()[0] - real.commanded()[0]).max()
        found[release] = {"violations": sorted(real.violations(limits, box)), "off_rad": float(off)}
    return found


def _live(rig: Rig, fault: Fault) -> None:
    for _ in range(SEEN_TICKS):
        rig.report()
        rig.tick()
    rig.guard.enable(True, rig.clock)
    for k in range(HEALTHY_TICKS + (0 if rig.scene.heard else SEAT_TICKS)):
        healthy(rig, k)
        rig.tick()
    for k in range(int(rig.rng.integers(40, 80))):
        fault(rig, k)
        rig.tick()
    rig.frozen_ns, rig.lossy = None, False
    for k in range(AFTER_TICKS if rig.rng.random() < 0.5 else 0):
        healthy(rig, k)
        rig.tick()
    for _ in range(REST_TICKS):
        rig.report()
        rig.tick()


def run(count: int, seed: int, processes: int, done: int = 0) -> Iterator[dict[str, Any]]:
    """`count` cases, the kinds in turn, without the first `done`; in several processes when asked, in this order."""
    names = list(CASES)
    jobs = [(names[i % len(names)], seed + i // len(names)) for i in range(done, count)]
    if processes <= 1:
        yield from (case(*job) for job in jobs)
        return
    with pool(processes) as running:
        yield from running.map(_case, jobs, chunksize=8)


def _case(job: tuple[str, int]) -> dict[str, Any]:
    return case(*job)


def releases(outcomes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a release: the cases judged by its rules, how many of them drove the guard, and those outside limits."""
    return [
        {
            "release": release,
            "judged": sum(release in o["judged"] for o in outcomes),
            "drove": sum(o["release"] == release for o in outcomes),
            "outside": sum(bool(o["judged"].get(release)) for o in outcomes),
            "by_the_real": sum(release in o["real"] for o in outcomes),
            "outside_by_the_real": sum(bool(o["real"].get(release, {}).get("violations")) for o in outcomes),
            "largest_difference_rad": max(
                (o["real"][release]["off_rad"] for o in outcomes if release in o["real"]), default=None
            ),
        }
        for release in GUARDED
    ]


def table(outcomes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a kind of case, and their sum: count, violations, crashes, latches, unexplained latches, not at rest."""
    rows = []
    for name in ("all", *CASES):
        some = [o for o in outcomes if name in ("all", o["case"])]
        rows.append({
            "case": name, "count": len(some), "violations": sum(bool(o["violations"]) for o in some),
            "crashes": sum(bool(o["crash"]) for o in some), "latched": sum(o["latched"] for o in some),
            "unexplained": sum(o["unexplained"] for o in some), "moving": sum(o["moving"] for o in some),
            "commands": sum(o["commands"] for o in some), "refusals": sum(o["refusals"] for o in some),
        })  # fmt: skip
    return rows
