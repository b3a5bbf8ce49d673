"""The faults of policy, cameras, clocks, arm and operator, as a guard meets them: what `campaign` tries, by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ecovla_ros.bench.guard.controller import FakeController
from ecovla_ros.bench.guard.release import CYCLE_NS, GUARDED
from ecovla_ros.control.clocks import PlanClock
from ecovla_ros.control.guard import Guard
from ecovla_ros.control.states import TABLE
from ecovla_ros.control.status import Command
from ecovla_ros.types import CONTINUOUS, ActionChunk, ControllerState, Trajectory

NS = 1_000_000_000
SILENT_S = 0.3
"""A controller that is deactivated is away for at least so long, s."""
TICK_NS = 10_000_000
START_S = 0.03
"""A controller begins what it is sent at most so late, s."""
RESTARTED = -1
MOVING = [state.value for state, rule in TABLE.items() if rule.listens]
AHEAD = 0.1 * np.arange(1, 17)[:, None]


@dataclass(frozen=True)
class Scene:
    """What is so through a whole case: which controller, on which clock, and how late it begins what it is sent."""

    release: str
    """One of `release.GUARDED`."""
    clock: str
    """Of the controller: "same" machine as the guard's, "other" machine, or "never": nothing is stamped."""
    delay_s: tuple[float, float]
    """Least and most time from a trajectory being published to the controller having it, s."""
    turned: bool
    """Whether the controller counts its joints a whole turn from what the arm reports."""
    heard: bool = True
    """Whether the guard hears what the controller says of itself. Where it does not, it was told that both have one
    clock ("same"), or that they have not ("never")."""


def scene(rng: np.random.Generator) -> Scene:
    """One at random: no delay, a constant one, or jitter, up to `START_S`."""
    low, high = sorted(map(float, rng.uniform(0.0, START_S, 2)))
    delays = ((0.0, 0.001), (high, high), (0.0, high), (low, high))
    release = str(rng.choice(GUARDED))
    clock = str(rng.choice(("same", "other", "never"), p=(0.5, 0.35, 0.15)))
    delay_s = delays[int(rng.integers(len(delays)))]
    heard = clock == "other" or bool(rng.random() < {"same": 0.8, "never": 0.5}[clock])
    return Scene(release, clock, delay_s, heard and bool(rng.random() < 0.5), heard)


@dataclass
class Rig:
    """Guard, controller and what a fault may turn: the system's clock runs `skew_ns` ahead of the true one.

    The true time is the controller's `now_ns`. The guard's process reads its clocks `phase_ns` after a cycle of it.
    """

    guard: Guard
    controller: FakeController
    rng: np.random.Generator
    scene: Scene
    skew_ns: int = 0
    frozen_ns: int | None = None
    lossy: bool = False
    """Whether what is published may be lost on its way."""
    stopped_s: float = 0.0
    """The guard's process is stopped for so long between its next tick and what that publishes, s."""
    drift: np.ndarray = field(default_factory=lambda: np.zeros(7))
    kept: list[ActionChunk] = field(default_factory=list)
    plan: PlanClock = field(default_factory=PlanClock)
    mixed: Callable[[Rig, int], None] | None = None
    """The fault of a mixture that acts now."""
    phase_ns: int = 0
    clock_set: bool = False
    """Whether the controller's clock was set in this case: then Humble is not judged, see `set_clock`."""
    away_ticks: int = 0
    """The controller is deactivated for so many ticks: what it is sent is dropped, and it says nothing."""
    restarted: bool = False
    """Whether it was, in this case: another release would hold the arm a cycle's motion from there."""
    _heard: list[tuple[int, int, Trajectory | None, int]] = field(default_factory=list)
    """What the controller was sent, and when its clock was set (no trajectory) or it was deactivated (nor a stamp, but
    `RESTARTED`): true time, how far its clock is ahead from then on, trajectory and stamp."""
    _queue: list[tuple[int, Trajectory, int]] = field(default_factory=list)
    _state: str = ""
    _said: ControllerState | None = None
    """What the controller said last, on its way to the guard."""

    def __post_init__(self) -> None:
        self.phase_ns = int(self.rng.integers(NS // 1000))
        if self.scene.clock != "same":
            self.controller.apart_ns = int(self.rng.uniform(-1e4, 1e4) * NS)
            self.controller.rate = float(self.rng.uniform(-1e-4, 1e-4))
        self._apart_ns = self.controller.apart_ns
        self._begin = self.controller.position.copy(), self.controller.now_ns, self.controller.apart_ns

    @property
    def system(self) -> int:
        """The clock of the guard's machine, which also stamps what is observed, ns."""
        return self.frozen_ns if self.frozen_ns is not None else self.controller.now_ns + self.phase_ns + self.skew_ns

    @property
    def clock(self) -> int:
        """What the guard takes for now, ns."""
        if self.frozen_ns is not None:
            return self.frozen_ns
        steady = self.controller.now_ns + self.phase_ns
        now, set_s = self.plan.now(self.system, steady, self.guard.resting)
        if set_s:
            self.guard.on_clock_set(set_s, now)
        return now

    @property
    def quiet(self) -> bool:
        """Whether no message is under way."""
        return not self._queue

    def set_clock(self, step_s: float) -> None:
        """The system's clock of the guard's machine is set.

        Not where it is the controller's clock too and a message is under way, whose stamp would be wrong by that step;
        and not where that controller is Humble's, which follows it in the middle of a motion. Whatever is sent, such an
        arm makes a step when its clock does.
        """
        if self.scene.clock != "same" or (self.scene.release != "humble" and self.quiet):
            self.skew_ns += round(step_s * NS)
            self.clock_set |= self.scene.clock == "same"

    def set_controller_clock(self, step_s: float) -> None:
        """The clock of the controller's own machine is set.

        Not while a message is under way, nor before the guard could hear of it: a trajectory that is stamped by the
        clock from before makes the arm step. And not Humble's, which follows its clock, see `set_clock`.
        """
        if self.scene.clock != "other" or self.scene.release == "humble" or not self.quiet:
            return
        self.controller.apart_ns += round(step_s * NS)
        self.clock_set = True
        self.advance(CYCLE_NS)
        self._said = self.controller.reported()

    def deactivate(self, seconds: float) -> None:
        """The controller is deactivated, and activated after so long, s.

        Not before the guard has seen it. One that says `controller_state` falls silent; another is told by the way that
        the arm was to go and did not: where that is short, as without a stamp, it is not seen.
        """
        if self.scene.clock == "never" or self.away_ticks or not self.quiet:
            return
        self.away_ticks, self.restarted = round(max(seconds, SILENT_S) * NS) // TICK_NS, True
        self._heard.append((self.controller.now_ns, self.controller.apart_ns, None, RESTARTED))
        self.controller.restart()

    def report(self, offset: np.ndarray | float = 0.0) -> None:
        """The arm says where it is."""
        state = self.controller.state(self.system)
        self.guard.on_joint_state(type(state)(state.stamp_ns, state.joints + offset, state.velocity, 0.0), self.clock)

    def chunk(self, rows: Any = None, age_s: float = 0.1, period_s: float = 0.1) -> ActionChunk:
        """A chunk; by default a healthy one, that goes on in a direction which changes slowly."""
        if rows is None:
            self.drift = np.clip(self.drift + self.rng.normal(0.0, 0.08, 7), -0.4, 0.4)
            rows = self.controller.position + self.drift * (AHEAD - age_s)
        made = ActionChunk(self.system - round(age_s * NS), period_s, rows, self.rng.uniform(0.0, 1.0, len(AHEAD)))
        return made

    def say(self, chunk: ActionChunk) -> None:
        """The policy publishes."""
        self.kept = [*self.kept[-7:], chunk]
        self.guard.on_chunk(chunk, self.clock)

    def tick(self) -> None:
        """The controller says what it does, the guard ticks, and 10 ms pass at the controller."""
        if self.away_ticks:
            seen = self.scene.heard or self._state not in MOVING
            self.away_ticks, self._said = max(self.away_ticks - 1, 0 if seen else 1), None
        if self.frozen_ns is None and self.scene.heard and self._said is not None:
            self.guard.on_controller_state(self._said, self.clock)
        ticked = self.clock
        command = self.guard.tick(ticked)
        self._state = command.status.state
        stopped_ns, self.stopped_s = round(1e3 * self.stopped_s) * NS // 1000, 0.0
        self.advance(stopped_ns)
        if command.trajectory is not None and self.guard.in_time(self.clock):
            self._publish(command)
        self.advance(TICK_NS)
        self._said = self.controller.reported(int(self.rng.integers(4)) * CYCLE_NS)

    def _publish(self, command: Command) -> None:
        assert command.trajectory is not None
        if self.lossy and self.rng.random() < 0.3:
            return
        stamp = command.begin_ns and (
            self.plan.stamp(command.begin_ns) if command.apart_ns is None else command.begin_ns + command.apart_ns
        )
        arrives = self.controller.now_ns + self.phase_ns + int(self.rng.uniform(*self.scene.delay_s) * NS)
        earliest = self._queue[-1][0] if self._queue else 0
        self._queue.append((max(arrives, earliest), command.trajectory, stamp))

    def advance(self, span_ns: int) -> None:
        """Time passes at the controller, and what was published arrives."""
        end = self.controller.now_ns + span_ns
        while self._queue and self._queue[0][0] <= end - CYCLE_NS:
            arrives, trajectory, stamp = self._queue.pop(0)
            self._run(-(-max(arrives - self.controller.now_ns, 0) // CYCLE_NS) * CYCLE_NS)
            if self.away_ticks:
                continue
            self._heard.append((self.controller.now_ns, self.controller.apart_ns, trajectory, stamp))
            self.controller.accept(trajectory, stamp)
        self._run(end - self.controller.now_ns)

    def _run(self, span_ns: int) -> None:
        if self.scene.clock == "same":
            self.controller.apart_ns = self.skew_ns
        if self.controller.apart_ns != self._apart_ns:
            self._heard.append((self.controller.now_ns, self.controller.apart_ns, None, 0))
        self.controller.run(span_ns)
        self._apart_ns = self.controller.apart_ns

    def again(self, release: str, real: bool = False) -> FakeController:
        """The controller of any release, after the same messages at the same times. The guard hears nothing of it.

        Raises ControlError for what it would refuse.
        """
        other = FakeController(*self._begin[:2], release, real)
        other.apart_ns, other.rate = self._begin[2], self.controller.rate
        for now_ns, apart_ns, trajectory, stamp in self._heard:
            other.run(now_ns - other.now_ns)
            other.apart_ns = apart_ns
            if trajectory is not None:
                other.accept(trajectory, stamp)
            elif stamp == RESTARTED:
                other.restart()
        other.run(self.controller.now_ns - other.now_ns)
        return other


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
            rig.set_clock(step_s * float(rig.rng.uniform(0.5, 1.5)))
        healthy(rig, k)

    return act


def _set(rig: Rig, k: int) -> None:
    """The clock is set, by less than shows in one clock alone."""
    if k % 30 == 1:
        size = float(np.exp(rig.rng.uniform(np.log(0.002), np.log(0.5))))
        rig.set_clock(size * float(rig.rng.choice([-1.0, 1.0])))
    healthy(rig, k)


def _slewed(rig: Rig, k: int) -> None:
    """As fast as NTP may slew a clock: 500 parts in a million."""
    rig.set_clock(500e-6 * TICK_NS / NS * (1.0 if rig.drift[0] > 0.0 else -1.0))
    healthy(rig, k)


def _crept(rig: Rig, k: int) -> None:
    """Steps that are too small to be told from reading two clocks one after the other, and their sums."""
    if k % int(rig.rng.choice((1, 3, 10))) == 0:
        rig.set_clock(float(rig.rng.choice((0.0004, 0.00083, 0.0019))) * (1.0 if rig.drift[0] > 0.0 else -1.0))
    healthy(rig, k)


def _stopped(rig: Rig, k: int) -> None:
    """The guard's process is stopped now and then, between its tick and what that publishes or where it is."""
    if rig.rng.random() < 0.1:
        rig.stopped_s = float(rig.rng.choice((0.004, 0.012, 0.02, 0.05, 0.1, 0.2, 0.45)))
    healthy(rig, k)


def _struck(rig: Rig, k: int) -> None:
    """The e-stop, or another stop, at any instant of a motion, and everything allowed again as soon as it can be."""
    healthy(rig, k)
    if rig.rng.random() < 0.08:
        stop = int(rig.rng.integers(3))
        if stop == 0:
            rig.guard.on_estop(True, rig.clock)
            rig.guard.on_estop(False, rig.clock)
        elif stop == 1:
            rig.guard.hold(rig.clock)
        else:
            rig.guard.enable(False, rig.clock)
    rig.guard.reset(rig.clock)
    rig.guard.enable(True, rig.clock)


def _other_clock(rig: Rig, k: int) -> None:
    """The controller's machine has its clock set, by what shows in when messages come."""
    if k % 25 == 1:
        rig.set_controller_clock(float(rig.rng.choice((-0.3, -0.05, 0.05, 0.3))))
    healthy(rig, k)


def _other_crept(rig: Rig, k: int) -> None:
    """The same by less, and by sums of less."""
    if k % int(rig.rng.choice((3, 10, 25))) == 1:
        size = float(np.exp(rig.rng.uniform(np.log(0.0003), np.log(0.025))))
        rig.set_controller_clock(size * float(rig.rng.choice((-1.0, 1.0))))
    healthy(rig, k)


def _unheard(rig: Rig, k: int) -> None:
    """What the guard sends does not reach the controller, now and then, where the guard can hear of that."""
    rig.lossy = rig.scene.heard
    healthy(rig, k)


def _deactivated(rig: Rig, k: int) -> None:
    """The controller is deactivated in mid-motion, and activated later; then motion is allowed again now and then."""
    if k % 30 == 5:
        rig.deactivate(float(rig.rng.uniform(0.0, 1.5)))
    if not rig.away_ticks and rig.rng.random() < 0.1:
        rig.guard.enable(True, rig.clock)
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


def _changes(rig: Rig, k: int) -> None:
    """Somebody says without end that the scene changes, of any time, and chunks of any kind come ten times as often."""
    for _ in range(int(rig.rng.integers(4))):
        away_s = float(rig.rng.choice((0.0, -0.05, -0.1, -1.0, 0.3, 1e9)))
        rig.guard.on_scene_change(rig.clock + round(away_s * NS), rig.clock)
    rig.report()
    made = rig.chunk(age_s=float(rig.rng.uniform(0.0, 0.2)))
    rig.say(dataclasses.replace(made, joints=made.joints + rig.rng.uniform(-0.19, 0.19, 7)))


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
    "clock crept": _crept,
    "controller's clock set": _other_clock,
    "controller's clock crept": _other_crept,
    "trajectories lost": _unheard,
    "controller deactivated": _deactivated,
    "process stopped": _stopped,
    "stopped anywhere": _struck,
    "joint states at 1 kHz": _fast_states,
    "joint states stopped": _no_states,
    "joint states NaN": _states(lambda rig: np.where(rig.rng.random(7) < 0.05, np.nan, 0.0)),
    "joint states displaced": _states(lambda rig: rig.rng.uniform(-1.0, 1.0, 7)),
    "operator": _wishes,
    "scene changes told": _changes,
}


def mixture(rig: Rig, k: int) -> None:
    """Another fault every 0.15 s."""
    if k % 15 == 0:
        rig.mixed = FAULTS[str(rig.rng.choice(list(FAULTS)))]
    if rig.mixed is not None:
        rig.mixed(rig, k)


CASES: dict[str, Fault] = {**FAULTS, "mixture": mixture}
