"""Stops of the guard beside those of ruckig (PyPI, MIT): `python -m ecovla_ros.bench.guard.stops --json FILE`.

Both come to rest from the same states, within the acceleration and jerk that a stop may have. Told is how long that
takes, what it costs, how many knots a message with it needs, and how many stops leave a limit: the arm's controller runs
cubics between knots that are the same for every joint, and ruckig's joints change their jerk each at times of its own.
"""

from __future__ import annotations

import argparse
import importlib
import time
from pathlib import Path
from typing import Any

import numpy as np

from ecovla_ros.bench import document
from ecovla_ros.config import PROFILES
from ecovla_ros.control.curve import Motion
from ecovla_ros.control.limits import Limits, load
from ecovla_ros.control.pace import STOP_JERK, envelope, smooth_stop
from ecovla_ros.control.playback import BRAKE
from ecovla_ros.errors import ConfigError
from ecovla_ros.types import Trajectory

STATES = 300
"""States a profile."""
APART_S = 1e-4
"""Changes of jerk nearer than this are one knot, s."""


def states(limits: Limits, rng: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Positions, velocities and accelerations, each (7,), of arms in mid-motion."""
    middle = np.array([0.0, 0.5, 3.14, -1.6, 0.0, -1.0, 1.57])
    return [
        (middle, 0.9 * limits.velocity * rng.uniform(-1, 1, 7), 0.5 * limits.acceleration * rng.uniform(-1, 1, 7))
        for _ in range(STATES)
    ]


def measure(profile: str, seed: int) -> list[dict[str, Any]]:
    """Two rows: our stops and ruckig's. Raises ConfigError without ruckig."""
    try:
        ruckig: Any = importlib.import_module("ruckig")
    except ImportError as error:
        raise ConfigError("ruckig is not installed; `pip install ruckig`") from error
    limits, rng = load(profile), np.random.default_rng(seed)
    ours: list[tuple[float, float, int, bool]] = []
    theirs: list[tuple[float, float, int, bool]] = []
    refused = 0
    for state in states(limits, rng):
        begin = time.process_time()
        trajectory = smooth_stop(state, limits)
        cost = time.process_time() - begin
        if trajectory is None:
            refused += 1
        else:
            ours.append(
                (float(trajectory.times_s[-1]), cost, len(trajectory.times_s), _outside(trajectory, state, limits))
            )
        begin = time.process_time()
        found = _ruckig_stop(ruckig, state, limits)
        cost = time.process_time() - begin
        message = _message(found)
        theirs.append((float(found.duration), cost, len(message.times_s), _outside(message, state, limits)))
    return [_row("the guard", profile, ours, refused), _row("ruckig", profile, theirs, 0)]


def _ruckig_stop(ruckig: Any, state: tuple[np.ndarray, np.ndarray, np.ndarray], limits: Limits) -> Any:
    """Every joint to rest as soon as it can be, all at the same time."""
    given = ruckig.InputParameter(7)
    given.control_interface = ruckig.ControlInterface.Velocity
    given.current_position, given.current_velocity, given.current_acceleration = (part.tolist() for part in state)
    given.target_velocity = given.target_acceleration = [0.0] * 7
    given.max_acceleration = (BRAKE * limits.acceleration).tolist()
    given.max_jerk = (BRAKE * STOP_JERK * limits.jerk).tolist()
    found = ruckig.Trajectory(7)
    ruckig.Ruckig(7).calculate(given, found)
    return found


def _message(found: Any) -> Trajectory:
    """The same motion as cubics between knots: one wherever the jerk of any joint changes."""
    changes = np.concatenate([np.cumsum(profile_.t) for profile_ in found.profiles[0]] + [[found.duration]])
    changes = np.unique(changes[changes <= found.duration])
    times = changes[np.concatenate((np.diff(changes) > APART_S, [True]))]
    positions, velocities, _ = (
        np.array(part) for part in zip(*(found.at_time(float(t)) for t in times if t > APART_S))
    )
    velocities[-1] = 0.0
    return Trajectory(times[times > APART_S], positions, velocities)


def _outside(trajectory: Trajectory, state: Motion, limits: Limits) -> bool:
    """Whether what the controller makes of a stop from `state` leaves the limits that a stop has."""
    within = envelope(limits, 1.0, 0.0, state, 1.0)
    return not within.excess(trajectory, 0, state).fits


def _row(who: str, profile: str, stops: list[tuple[float, float, int, bool]], refused: int) -> dict[str, Any]:
    rest, cost, knots, outside = (np.array(part) for part in zip(*stops))
    return {
        "who": who, "profile": profile, "stops": len(stops), "refused": refused, "rest_s_mean": float(rest.mean()),
        "rest_s_most": float(rest.max()), "cpu_ms_mean": 1e3 * float(cost.mean()), "knots_mean": float(knots.mean()),
        "knots_most": int(knots.max()), "outside": int(outside.sum()),
    }  # fmt: skip


def main() -> int:
    """Print and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="seed of the states")
    parser.add_argument("--json", type=Path, help="write rows, settings, machine, versions and commit to this file")
    options = parser.parse_args()
    rows = [row for profile in PROFILES for row in measure(profile, options.seed)]
    for row in rows:
        print(row)
    if options.json:
        document.write(options.json, rows, {"seed": options.seed, "states": STATES})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
