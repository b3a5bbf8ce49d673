"""What the arm may do: joint limits of one profile, read from config/gen3_limits.yaml. Strict: nothing is guessed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ecovla_ros import documents
from ecovla_ros.config import PROFILES, shipped
from ecovla_ros.errors import ConfigError, unknown
from ecovla_ros.types import CONTINUOUS, JOINTS, Floats
from ecovla_ros.wire import MOST_RAD, causes

FILE = "gen3_limits.yaml"
_BOUNDED = ("lower", "upper", "velocity", "acceleration")
_TURNING = ("continuous", "velocity", "acceleration")
_PROFILE = ("velocity", "acceleration", "jerk", "tool_speed", "ramp_s", "ramp_start")


@dataclass(frozen=True)
class Limits:
    """Limits of one profile. Arrays are (7,), in the order of `JOINTS`, and read-only."""

    profile: str
    lower: Floats
    """Lowest position, rad; minus infinity for a continuous joint."""
    upper: Floats
    """Highest position, rad; infinity for a continuous joint."""
    velocity: Floats
    """Largest speed, rad/s."""
    acceleration: Floats
    """Largest acceleration, rad/s^2."""
    jerk: Floats
    """Largest jerk, rad/s^3."""
    tool_speed: float
    """Largest speed of the tool point, m/s."""
    ramp_s: float
    """Time after the first motion in which the velocity limit grows to its full value, s."""
    ramp_start: float
    """Share of the velocity limit at the first motion, in (0, 1]."""

    def outside(self, joints: Floats) -> str:
        """Which joint of `joints` (7,), rad, stands outside its position limits; empty when none does."""
        far = int(np.abs(joints).argmax())
        if abs(joints[far]) > MOST_RAD:
            return causes.degrees(JOINTS[far], float(joints[far]))
        beyond = (joints < self.lower) | (joints > self.upper)
        if not beyond.any():
            return ""
        i = int(beyond.argmax())
        return f"{JOINTS[i]} stands at {joints[i]:.3f} rad, outside its limits [{self.lower[i]}, {self.upper[i]}]"

    def ramp(self, elapsed_s: float) -> float:
        """Share of the velocity limit `elapsed_s` after the first motion: linear from `ramp_start` to 1."""
        return self.ramp_start + (1.0 - self.ramp_start) * min(max(elapsed_s / self.ramp_s, 0.0), 1.0)


BESIDE_RAD = 0.1
"""Measured values may lie so far outside their range."""


def reported() -> tuple[Floats, Floats]:
    """Lowest and highest value, (7,), rad, at which a joint of this arm is ever reported: its limits and a little more,
    or two turns."""
    within = load("fast")
    low = np.where(CONTINUOUS, -MOST_RAD, np.maximum(within.lower, -MOST_RAD) - BESIDE_RAD)
    high = np.where(CONTINUOUS, MOST_RAD, np.minimum(within.upper, MOST_RAD) + BESIDE_RAD)
    return low, high


def load(profile: str = "normal", path: str | Path | None = None) -> Limits:
    """Limits of `profile`, from the shipped file or from `path`.

    Raises ConfigError for a file that cannot be read, an unknown or missing key, joint or profile, a number that is
    not positive and finite, and any profile that asks for more than the arm can do.
    """
    where = Path(path) if path is not None else shipped(FILE)
    data = _section(_read(where), ("joints", "profiles"), str(where))
    joints = _section(data["joints"], JOINTS, f"{where}: joints")
    profiles = _section(data["profiles"], PROFILES, f"{where}: profiles")
    if profile not in profiles:
        raise ConfigError(f"{where}: " + unknown("profile", profile, profiles))
    arm = [_joint(joints[name], turns, f"{where}: {name}") for name, turns in zip(JOINTS, CONTINUOUS)]
    read = {name: _profile(name, profiles[name], arm, f"{where}: {name}") for name in PROFILES}
    return read[profile]


def _profile(name: str, data: Any, arm: list[tuple[float, float, float, float]], where: str) -> Limits:
    lower, upper, velocity, acceleration = (_frozen(column) for column in zip(*arm))
    values = _section(data, _PROFILE, where)
    limits = Limits(
        name,
        lower,
        upper,
        _within(values["velocity"], velocity, f"{where}: velocity"),
        _within(values["acceleration"], acceleration, f"{where}: acceleration"),
        _within(values["jerk"], np.full(len(JOINTS), math.inf), f"{where}: jerk"),
        *(_positive(values[key], f"{where}: {key}") for key in ("tool_speed", "ramp_s", "ramp_start")),
    )
    if limits.ramp_start > 1.0:
        raise ConfigError(f"{where}: ramp_start: {limits.ramp_start} is outside (0, 1]")
    return limits


def _read(path: Path) -> Any:
    try:
        return documents.from_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read limits '{path}': {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"'{path}' cannot be read: {error}") from error


def _section(data: Any, keys: Iterable[str], where: str) -> Mapping[str, Any]:
    keys = tuple(keys)
    if not isinstance(data, dict):
        raise ConfigError(f"{where}: expected a mapping of {', '.join(keys)}")
    for key in data:
        if key not in keys:
            raise ConfigError(f"{where}: " + unknown("key", key, keys))
    missing = [key for key in keys if key not in data]
    if missing:
        raise ConfigError(f"{where}: {', '.join(missing)} missing; all of {', '.join(keys)} must be given")
    return data


def _joint(data: Any, turns: bool, where: str) -> tuple[float, float, float, float]:
    """One joint of the file: lower, upper, velocity, acceleration."""
    values = _section(data, _TURNING if turns else _BOUNDED, where)
    rates = tuple(_positive(values[key], f"{where}: {key}") for key in ("velocity", "acceleration"))
    if turns:
        if values["continuous"] is not True:
            raise ConfigError(f"{where}: this joint turns without end; continuous must be true")
        return -math.inf, math.inf, rates[0], rates[1]
    lower, upper = (_number(values[key], f"{where}: {key}") for key in ("lower", "upper"))
    if lower >= upper:
        raise ConfigError(f"{where}: lower {lower} must be below upper {upper}")
    return lower, upper, rates[0], rates[1]


def _within(values: Any, arm: Floats, where: str) -> Floats:
    if not isinstance(values, list) or len(values) != len(JOINTS):
        raise ConfigError(f"{where}: expected a list of {len(JOINTS)} numbers, {JOINTS[0]} to {JOINTS[-1]}")
    asked = [_positive(value, f"{where}: {name}") for name, value in zip(JOINTS, values)]
    for name, value, most in zip(JOINTS, asked, arm):
        if value > most:
            raise ConfigError(f"{where}: {name}: {value} is more than the arm's own limit {most}")
    return _frozen(asked)


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ConfigError(f"{where}: expected a finite number, got {value!r}")
    return float(value)


def _positive(value: Any, where: str) -> float:
    number = _number(value, where)
    if number <= 0.0:
        raise ConfigError(f"{where}: {number} is not positive")
    return number


def _frozen(values: Iterable[float]) -> Floats:
    array = np.array(list(values), float)
    array.setflags(write=False)
    return array
