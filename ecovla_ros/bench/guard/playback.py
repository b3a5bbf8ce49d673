"""One smooth motion, played in five ways under random inference delays: why chunks, and why chunks that are aligned.

The policy knows the motion exactly and answers an observation after 0.1 s and a random more. Everything else about the
five ways is equal; the last one is what this package does, through its guard.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ecovla_ros.bench.guard.controller import FakeController
from ecovla_ros.config import ControlConfig
from ecovla_ros.control.guard import Guard
from ecovla_ros.control.limits import load
from ecovla_ros.types import ActionChunk, ControllerState, Trajectory

NS = 1_000_000_000
TICK_NS = 10_000_000
PERIOD_S, ROWS = 0.1, 16
DELAY_S, SPREAD_S = 0.1, 0.03
"""An inference takes DELAY_S and a half-normal more of this spread, s."""
SETTLE_S, MEASURED_S = 6.0, 20.0
HOME = np.array([0.0, 0.26, 3.14, -2.0, 0.0, -0.95, 1.57])
SIZE = np.array([0.12, 0.05, 0.10, 0.06, 0.15, 0.12, 0.15])
"""Amplitudes, rad: the tool stays below 0.25 m/s."""
RATE = 3.0
"""rad/s, of the sines: up to 0.45 rad/s and 1.35 rad/s^2."""


def motion(t: Any) -> np.ndarray:
    """Positions (..., 7), rad, at the time `t`, s: every joint a sine of its own, begun smoothly at rest."""
    t = np.maximum(np.asarray(t, float), 0.0)[..., None]
    warped = np.where(t < 4.0, t**2 / 8.0, t - 2.0)
    phase = np.arange(7.0)
    return HOME + SIZE * (np.sin(RATE * warped + phase) - np.sin(phase))


def measure(seed: int = 0) -> list[dict[str, Any]]:
    """One row a way to play: rms acceleration and its ratio to the ideal's, time at rest, distance from the ideal."""
    times = np.arange(0.0, SETTLE_S + MEASURED_S, 0.001)
    wanted = motion(times)
    ideal = np.diff(wanted[round(SETTLE_S * 1000) :], 2, axis=0) * 1e6
    best = float(np.sqrt((ideal**2).mean()))
    rows = [{"way": "ideal", "rms_acceleration": best, "ratio": 1.0, "rest_share": 0.0, "rms_error_mrad": 0.0,
             "peak_jerk": float(np.abs(np.diff(ideal, axis=0)).max() * 1e3)}]  # fmt: skip
    for way, play in WAYS.items():
        controller = FakeController(HOME, NS)
        play(controller, np.random.default_rng(seed))
        smooth = controller.smoothness(wanted, round(SETTLE_S * 1000))
        rows.append({
            "way": way, "rms_acceleration": smooth.rms_acceleration, "ratio": smooth.rms_acceleration / best,
            "rest_share": smooth.rest_share, "rms_error_mrad": 1e3 * smooth.rms_error, "peak_jerk": smooth.peak_jerk,
        })  # fmt: skip
    return rows


def _answers(controller: FakeController, rng: np.random.Generator, send: Callable[[float, float], None]) -> None:
    """One inference after the other: `send` is told when it observed and when it answers, s."""
    while controller.now_ns < NS + round((SETTLE_S + MEASURED_S) * NS):
        observed = (controller.now_ns - NS) / NS
        controller.run(round((DELAY_S + abs(rng.normal(0.0, SPREAD_S))) * NS))
        send(observed, (controller.now_ns - NS) / NS)


def one_point(controller: FakeController, rng: np.random.Generator) -> None:
    """The next point alone, due in one period: a message a policy step."""

    def send(observed: float, _: float) -> None:
        controller.accept(Trajectory(np.array([PERIOD_S]), motion(observed + PERIOD_S)[None]))

    _answers(controller, rng, send)


def _chunk(velocities: bool, aligned: bool) -> Callable[[FakeController, np.random.Generator], None]:
    def play(controller: FakeController, rng: np.random.Generator) -> None:
        def send(observed: float, now: float) -> None:
            due = PERIOD_S * np.arange(1, ROWS + 1)
            at = due - (now - observed) if aligned else due
            keep = at > 0.02
            speed = (motion(observed + due + 0.01) - motion(observed + due - 0.01)) / 0.02
            speed[-1] = 0.0
            controller.accept(Trajectory(at[keep], motion(observed + due)[keep], speed[keep] if velocities else None))

        _answers(controller, rng, send)

    return play


def guarded(controller: FakeController, rng: np.random.Generator) -> None:
    """What this package does: chunk, stamp, guard."""
    guard = Guard(ControlConfig(stamp_commands="always"), load("normal"))
    waiting: list[tuple[int, ActionChunk]] = []
    observed_ns = controller.now_ns
    ahead = PERIOD_S * np.arange(1, ROWS + 1)
    for tick in range(round((SETTLE_S + MEASURED_S) * NS) // TICK_NS):
        now = controller.now_ns
        guard.on_joint_state(controller.state(now), now)
        guard.on_controller_state(ControllerState(now, controller.model.reference, controller.velocity), now)
        if tick == 3:
            guard.enable(True, now)
        if not waiting:
            rows = motion((observed_ns - NS) / NS + ahead)
            answer_ns = observed_ns + round((DELAY_S + abs(rng.normal(0.0, SPREAD_S))) * NS)
            waiting.append((answer_ns, ActionChunk(observed_ns, PERIOD_S, rows, np.zeros(ROWS))))
        if waiting[0][0] <= now:
            guard.on_chunk(waiting.pop()[1], now)
            observed_ns = now
        command = guard.tick(now)
        if command.trajectory is not None:
            controller.accept(command.trajectory, command.begin_ns)
        controller.run(TICK_NS)


WAYS: dict[str, Callable[[FakeController, np.random.Generator], None]] = {
    "one point per message": one_point,
    "chunks, positions only": _chunk(velocities=False, aligned=False),
    "chunks with velocities": _chunk(velocities=True, aligned=False),
    "chunks with velocities, aligned": _chunk(velocities=True, aligned=True),
    "through the guard": guarded,
}
"""Name -> how to play the motion. Without alignment a chunk starts on arrival, as if it had been observed then."""
