"""The fault campaign: a guard, a controller that runs what it sends, and a policy, cameras, clocks and an arm that fail.

One case is about three seconds of simulated time: the arm is enabled and follows a healthy policy, then one fault (or a
mixture) acts for a while, then the policy is healthy again or silent. Judged is what the controller commanded at 1 kHz,
against position, velocity, acceleration, jerk, tool speed and box; that nothing raised; that every latch says why.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ecovla_ros.bench.controller import FakeController
from ecovla_ros.config import PROFILES, ControlConfig
from ecovla_ros.control.guard import Guard
from ecovla_ros.control.limits import load
from ecovla_ros.control.status import State
from ecovla_ros.errors import ControlError
from ecovla_ros.types import CONTINUOUS, ActionChunk

NS = 1_000_000_000
TICK_NS = 10_000_000
HOME = np.array([0.0, 0.5, 3.14, -1.6, 0.0, -1.0, 1.57])
SPREAD = np.array([0.4, 0.25, 0.3, 0.3, 0.4, 0.4, 1.0])
AHEAD = 0.1 * np.arange(1, 17)[:, None]
HEALTHY_TICKS, AFTER_TICKS, REST_TICKS = 80, 40, 85
"""Ticks of 10 ms: healthy policy before the fault, and after it, and silence at the end."""


@dataclass
class Rig:
    """Guard, controller and what a fault may turn: the guard's clock runs `skew_ns` ahead of the true one."""

    guard: Guard
    controller: FakeController
    rng: np.random.Generator
    skew_ns: int = 0
    frozen_ns: int | None = None
    drift: np.ndarray = field(default_factory=lambda: np.zeros(7))
    kept: list[ActionChunk] = field(default_factory=list)
    mixed: Callable[[Rig, int], None] | None = None
    """The fault of a mixture that acts now."""

    @property
    def clock(self) -> int:
        """What the guard takes for now, ns."""
        return self.frozen_ns if self.frozen_ns is not None else self.controller.now_ns + self.skew_ns

    def report(self, offset: np.ndarray | float = 0.0) -> None:
        """The arm says where it is."""
        state = self.controller.state(self.clock)
        self.guard.on_joint_state(type(state)(state.stamp_ns, state.joints + offset, state.velocity, 0.0), self.clock)

    def chunk(self, rows: Any = None, age_s: float = 0.1, period_s: float = 0.1) -> ActionChunk:
        """A chunk; by default a healthy one, that goes on in a direction which changes slowly."""
        if rows is None:
            self.drift = np.clip(self.drift + self.rng.normal(0.0, 0.08, 7), -0.4, 0.4)
            rows = self.controller.position + self.drift * (AHEAD - age_s)
        made = ActionChunk(self.clock - round(age_s * NS), period_s, rows, self.rng.uniform(0.0, 1.0, len(AHEAD)))
        return made

    def say(self, chunk: ActionChunk) -> None:
        """The policy publishes."""
        self.kept = [*self.kept[-7:], chunk]
        self.guard.on_chunk(chunk, self.clock)

    def tick(self) -> None:
        """The guard's tick, and 10 ms at the controller."""
        command = self.guard.tick(self.clock)
        if command.trajectory is not None:
            self.controller.accept(command.trajectory)
        self.controller.run(TICK_NS)


Fault = Callable[[Rig, int], None]
"""What happens in tick k of the fault, before the guard's own tick."""


def healthy(rig: Rig, k: int) -> None:
    """Joint states at 100 Hz, a chunk every 0.1 s."""
    rig.report()
    if k % 10 == 0:
        rig.say(rig.chunk())


def _rows(make: Callable[[Rig, np.ndarray], Any]) -> Fault:
    """A policy whose chunks have other rows: `make(rig, healthy rows)`."""

    def act(rig: Rig, k: int) -> None:
        rig.report()
        if k % 10 == 0:
            good = rig.chunk()
            rig.say(ActionChunk(good.stamp_ns, good.period_s, make(rig, np.asarray(good.joints)), good.gripper))

    return act


def _poison(value: float) -> Fault:
    def make(rig: Rig, rows: np.ndarray) -> np.ndarray:
        return np.where(rig.rng.random(rows.shape) < 0.1, value, rows)

    return _rows(make)


def _aged(low: float, high: float) -> Fault:
    def act(rig: Rig, k: int) -> None:
        rig.report()
        if k % 10 == 0:
            rig.say(rig.chunk(age_s=float(rig.rng.uniform(low, high))))

    return act


def _again(rig: Rig, k: int) -> None:
    healthy(rig, k)
    if rig.kept and k % 3 == 0:
        rig.say(rig.kept[int(rig.rng.integers(len(rig.kept)))])


def _lost(rig: Rig, k: int) -> None:
    rig.report()
    if k % 10 == 0 and rig.rng.random() < 0.4:
        rig.say(rig.chunk())


def _burst(rig: Rig, k: int) -> None:
    healthy(rig, k)
    if k % 10 == 5:
        for age in np.linspace(0.3, 0.0, 30):
            rig.say(rig.chunk(age_s=float(age)))


def _dead_policy(rig: Rig, k: int) -> None:
    rig.report()


def _dead_camera(rig: Rig, k: int) -> None:
    rig.report()
    if k % 10 == 0:
        last = rig.kept[-1]
        rig.say(ActionChunk(last.stamp_ns, 0.1, np.asarray(rig.chunk().joints), last.gripper))


def _clock(step_s: float, every: int) -> Fault:
    def act(rig: Rig, k: int) -> None:
        if k % every == 1:
            rig.skew_ns += round(step_s * float(rig.rng.uniform(0.5, 1.5)) * NS)
        healthy(rig, k)

    return act


def _slewed(rig: Rig, k: int) -> None:
    """As fast as NTP may slew a clock: 500 parts in a million."""
    rig.skew_ns += round(500e-6 * TICK_NS) * (1 if rig.drift[0] > 0.0 else -1)
    healthy(rig, k)


def _frozen(rig: Rig, k: int) -> None:
    rig.frozen_ns = rig.clock if k < 40 else None
    healthy(rig, k)


def _fast_states(rig: Rig, k: int) -> None:
    for _ in range(9):
        rig.report()
    healthy(rig, k)


def _no_states(rig: Rig, k: int) -> None:
    if k % 10 == 0:
        rig.say(rig.chunk())


def _states(make: Callable[[Rig], Any]) -> Fault:
    def act(rig: Rig, k: int) -> None:
        healthy(rig, k)
        rig.report(make(rig))

    return act


def _wishes(rig: Rig, k: int) -> None:
    """Everything an operator can press, at random."""
    healthy(rig, k)
    if k % 7 == 0:
        press: list[Callable[[], Any]] = [
            lambda: rig.guard.enable(True, rig.clock), lambda: rig.guard.enable(False, rig.clock),
            lambda: rig.guard.hold(rig.clock), lambda: rig.guard.reset(rig.clock),
            lambda: rig.guard.on_estop(bool(rig.rng.random() < 0.5), rig.clock),
        ]  # fmt: skip
        press[int(rig.rng.integers(len(press)))]()


def _garbage(rig: Rig, rows: np.ndarray) -> Any:
    odd = [None, "rows", [], [[1.0], [2.0, 3.0]], np.zeros((16, 6)), np.zeros((0, 7)), rows * 1e9, rows > 0, 3.0]
    return odd[int(rig.rng.integers(len(odd)))]


def _towards(rig: Rig, rows: np.ndarray) -> np.ndarray:
    """As fast as can be, in a direction that stays: into limits, walls and singularities."""
    return rig.controller.position + np.sign(rig.drift) * AHEAD * rig.rng.uniform(0.5, 3.0)


FAULTS: dict[str, Fault] = {
    "none": healthy,
    "NaN": _poison(np.nan),
    "infinity": _poison(np.inf),
    "garbage": _rows(_garbage),
    "jumps": _rows(lambda rig, rows: rows + rig.rng.uniform(-1.5, 1.5, 7)),
    "small jumps": _rows(lambda rig, rows: rows + rig.rng.uniform(-0.19, 0.19, 7)),
    "noise": _rows(lambda rig, rows: rows + rig.rng.normal(0.0, 0.05, rows.shape)),
    "adversarial": _rows(lambda rig, rows: rows + rig.rng.choice([-0.19, 0.19], rows.shape)),
    "into limits": _rows(_towards),
    "wrapped rows": _rows(lambda rig, rows: np.where(CONTINUOUS, (rows + np.pi) % (2 * np.pi) - np.pi, rows)),
    "whole turns": _rows(lambda rig, rows: rows + 2 * np.pi * rig.rng.integers(-2, 3, rows.shape)),
    "late": _aged(0.3, 0.9),
    "early": _aged(-0.5, 0.0),
    "duplicated, reordered": _again,
    "lost": _lost,
    "burst": _burst,
    "dead policy": _dead_policy,
    "dead camera": _dead_camera,
    "clock backward": _clock(-0.3, 30),
    "clock forward": _clock(1.0, 30),
    "clock slewed": _slewed,
    "clock frozen": _frozen,
    "joint states at 1 kHz": _fast_states,
    "joint states stopped": _no_states,
    "joint states NaN": _states(lambda rig: np.where(rig.rng.random(7) < 0.05, np.nan, 0.0)),
    "joint states displaced": _states(lambda rig: rig.rng.uniform(-1.0, 1.0, 7)),
    "operator": _wishes,
}


def mixture(rig: Rig, k: int) -> None:
    """Another fault every 0.15 s."""
    if k % 15 == 0:
        rig.mixed = FAULTS[str(rig.rng.choice(list(FAULTS)))]
    assert rig.mixed is not None
    rig.mixed(rig, k)


CASES: dict[str, Fault] = {**FAULTS, "mixture": mixture}


def case(name: str, seed: int) -> dict[str, Any]:
    """One case: what was violated, whether something raised, and how it ended. Deterministic in `seed`."""
    rng = np.random.default_rng([seed, list(CASES).index(name)])
    config = ControlConfig(profile=str(rng.choice(PROFILES)), replan_s=float(rng.choice([0.1, 0.25, 0.4])))
    limits = load(config.profile)
    turns = np.where(CONTINUOUS, 2 * np.pi * rng.integers(-1, 2, 7), 0.0)
    start = HOME + SPREAD * rng.uniform(-1.0, 1.0, 7) + turns
    rig = Rig(Guard(config, limits), FakeController(start, 100 * NS), rng)
    error, status = "", None
    try:
        _live(rig, CASES[name])
        status = rig.guard.tick(rig.clock).status
    except ControlError as refused:
        error = f"the controller refused: {refused}"
    except (ArithmeticError, LookupError, TypeError, ValueError, AttributeError, AssertionError) as raised:
        error = f"{type(raised).__name__}: {raised}"
    box = np.array(config.box_lower), np.array(config.box_upper)
    latched = status is not None and status.state == State.LATCHED.value
    return {
        "case": name, "seed": seed, "violations": sorted(rig.controller.violations(limits, box)), "crash": error,
        "commands": status.commands if status else 0, "refusals": status.refusals if status else 0,
        "state": status.state if status else "", "latched": latched,
        "unexplained": bool(latched and status is not None and len(status.reason) < 8),
        "moving": bool(status is not None and rig.controller.model.sample(rig.controller.now_ns)[1].any()),
    }  # fmt: skip


def _live(rig: Rig, fault: Fault) -> None:
    for k in range(3):
        rig.report()
        rig.tick()
    rig.guard.enable(True, rig.clock)
    for k in range(HEALTHY_TICKS):
        healthy(rig, k)
        rig.tick()
    for k in range(int(rig.rng.integers(40, 80))):
        fault(rig, k)
        rig.tick()
    rig.frozen_ns = None
    for k in range(AFTER_TICKS if rig.rng.random() < 0.5 else 0):
        healthy(rig, k)
        rig.tick()
    for _ in range(REST_TICKS):
        rig.report()
        rig.tick()


def run(count: int, seed: int, processes: int) -> Iterator[dict[str, Any]]:
    """`count` cases, the kinds in turn; in several processes when asked."""
    names = list(CASES)
    jobs = [(names[i % len(names)], seed + i // len(names)) for i in range(count)]
    if processes <= 1:
        yield from (case(*job) for job in jobs)
        return
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from pool.imap_unordered(_case, jobs, chunksize=8)


def _case(job: tuple[str, int]) -> dict[str, Any]:
    return case(*job)


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
