"""Stops of the guard beside those of ruckig (PyPI, MIT): `python -m ecovla_ros.bench.guard.stops --json FILE`.

Both come to rest from the same states, within the acceleration and jerk that a stop may have. Told is how long that
takes, what it costs, how many knots a message with it needs, how many stops leave a limit, and how many lines of this
package it takes. The arm's controller runs cubics between knots that are the same for every joint, and ruckig's joints
change their jerk each at times of its own.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import time
from pathlib import Path
from typing import Any

import numpy as np

from ecovla_ros.bench import document
from ecovla_ros.config import PROFILES
from ecovla_ros.control import smooth
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
            ours.append(_told(trajectory, cost, state, limits))
        begin = time.process_time()
        found = _ruckig_stop(ruckig, state, limits)
        cost = time.process_time() - begin
        theirs.append(_told(_message(found), cost, state, limits))
    rows = [_row("the guard", profile, ours, refused), _row("ruckig", profile, theirs, 0)]
    for row, parts in zip(rows, ((smooth.stop_times, smooth.stop, smooth_stop), (_ruckig_stop, _message))):
        row["lines"] = sum(len(inspect.getsource(part).splitlines()) for part in parts)
    return rows


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
    times = times[times > APART_S]
    positions, velocities, _ = (np.array(part) for part in zip(*(found.at_time(float(t)) for t in times)))
    velocities[-1] = 0.0
    return Trajectory(times, positions, velocities)


def _told(trajectory: Trajectory, cost_s: float, state: Motion, limits: Limits) -> tuple[float, float, int, bool]:
    """Time to rest, s, its cost, s, knots, and whether the controller would leave the limits that a stop has."""
    outside = not envelope(limits, 1.0, 0.0, state, 1.0).excess(trajectory, 0, state).fits
    return float(trajectory.times_s[-1]), cost_s, len(trajectory.times_s), outside


def _row(who: str, profile: str, stops: list[tuple[float, float, int, bool]], refused: int) -> dict[str, Any]:
    rest, cost, knots, outside = (np.array(part) for part in zip(*stops))
    return {
        "who": who, "profile": profile, "stops": len(stops), "refused": refused, "rest_s_mean": float(rest.mean()),
        "rest_s_most": float(rest.max()), "cpu_ms_median": 1e3 * float(np.median(cost)),
        "knots_mean": float(knots.mean()), "knots_most": int(knots.max()), "outside": int(outside.sum()),
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
