"""The conditions of an episode: what changes while the arm works, and how late the policy's answer arrives."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ecovla_ros.errors import ConfigError
from ecovla_ros.sim.events import Event

ENVIRONMENTS = ("calm", "looks", "shift", "latency")
"""calm: the plain scene. looks: random lights, colours, textures, camera pose and distractors, new each episode.
shift: the light falls, a distractor appears and the object is moved while the arm is on its way.
latency: the plain scene; the arm moves on while the policy thinks, for as long as was measured."""


def schedule(environment: str, seed: int, target: str) -> list[Event]:
    """What happens during an episode; drawn from the seed, the same for every variant."""
    if environment != "shift":
        return []
    rng = np.random.default_rng([seed, 2])
    level, dx, dy = rng.uniform(0.5, 0.75), rng.uniform(-0.04, 0.04), rng.uniform(-0.04, 0.04)
    at = int(rng.integers(60, 160))
    return [
        Event("light_level", at, {"level": float(level)}),
        Event("distractor", at + 20, {"object": "cube_0", "x": 0.40, "y": -0.16}),
        Event("object_move", at + 40, {"object": target, "dx": float(dx), "dy": float(dy)}),
    ]


@dataclass(frozen=True)
class Delays:
    """Measured times of the policy call, s, by variant (method, refresh, ratio) and kind of frame."""

    seconds: Mapping[tuple[str, str, float], Mapping[str, float]]
    source: str
    """File and factor they come from."""

    def mean_ms(self, variant: tuple[str, str, float]) -> float | None:
        """Mean time of all frames, ms; None where it was not measured."""
        known = self.seconds.get(variant)
        return None if known is None else 1000 * known["all"]

    def ticks(self, variant: tuple[str, str, float], kind: str, tick_s: float) -> int:
        """Control ticks a frame of that kind takes, rounded up. Raises ConfigError where it was not measured."""
        known = self.seconds.get(variant)
        if known is None:
            have = ", ".join(f"{m} ({r}) {100 * p:.4g} %" for m, r, p in sorted(self.seconds))
            raise ConfigError(
                f"no measured time of {variant[0]} ({variant[1]}) at {100 * variant[2]:.4g} % in {self.source}; it "
                f"holds: {have}. Measure it: ecovla bench --method {variant[0]} --ratios {variant[2]:g} --json FILE"
            )
        return math.ceil(known.get(kind, known["all"]) / tick_s - 1e-9)


def measured(path: Path, factor: float = 1.0) -> Delays:
    """Mean policy times of a file that `ecovla bench` wrote, times `factor`.

    A factor other than 1 stands for a model that is so much slower than the one measured. Raises ConfigError.
    """
    if not (math.isfinite(factor) and factor > 0):
        raise ConfigError(f"latency factor {factor}; valid: a positive number")
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
        found: dict[tuple[str, str, float], dict[str, float]] = {}
        for row in rows:
            if row["scope"] == "policy" and row.get("pace", "paced") == "paced":
                key = (str(row["method"]), str(row["refresh"]), float(row["ratio"]))
                found.setdefault(key, {})[str(row["frames"])] = factor * float(row["mean_ms"]) / 1000
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"'{path}' is no result of `ecovla bench --json` ({error!r})") from error
    times = {key: kinds for key, kinds in found.items() if "all" in kinds}
    return Delays(times, f"'{path}'" + (f" times {factor:g}" if factor != 1 else ""))
