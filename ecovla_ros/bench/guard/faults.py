"""The faults of policy, cameras, clocks, arm and operator, as a guard meets them: what `campaign` tries, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ecovla_ros.bench.guard.controller import FakeController
from ecovla_ros.control.guard import Guard
from ecovla_ros.control.watch import SetWatch
from ecovla_ros.types import CONTINUOUS, ActionChunk

NS = 1_000_000_000
TICK_NS = 10_000_000
AHEAD = 0.1 * np.arange(1, 17)[:, None]


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
    steady: SetWatch = field(default_factory=SetWatch)
    """The second clock, which a node has where time is not simulated."""
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


def _set(rig: Rig, k: int) -> None:
    """The clock is set, by less than shows in one clock alone; the guard is told by whoever has two."""
    rig.steady.see(rig.clock, rig.controller.now_ns)  # what another fault of a mixture did to the clock is not told
    if k % 30 == 1:
        size = float(np.exp(rig.rng.uniform(np.log(0.002), np.log(0.5))))
        rig.skew_ns += round(size * float(rig.rng.choice([-1.0, 1.0])) * NS)
    step_s = rig.steady.see(rig.clock, rig.controller.now_ns)
    if step_s:
        rig.guard.on_clock_set(step_s, rig.clock)
    healthy(rig, k)


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
    "clock set": _set,
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
