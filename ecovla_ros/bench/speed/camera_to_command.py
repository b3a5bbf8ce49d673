"""Camera stamp to command published, with the nodes as processes over ROS 2: the demo, once per variant and round.

What lies in it: the wait for the next image and for the replanning turn, two messages over shared memory, decoding, the
policy call, the guard's tick. Simulated camera and arm; the simulator draws on the same cores.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ecovla_ros.bench.variants import Variant
from ecovla_ros.errors import EcovlaError

SCOPES = {"command": "camera_to_command_ms", "policy": "policy_ms"}
LIMIT_S = 180.0
"""A demo of one task takes half a minute."""


def measure(
    chosen: Sequence[Variant],
    overrides: Sequence[str],
    task: str,
    seed: int,
    rounds: int,
    progress: Callable[[int, int], None],
) -> list[dict[str, Any]]:
    """Rows of `ecovla bench --nodes`: one for each variant and scope. Raises EcovlaError when a demo does not work."""
    samples: list[dict[str, list[float]]] = [{name: [] for name in SCOPES} for _ in chosen]
    triggered: list[list[float]] = [[] for _ in chosen]
    done = 0
    for turn in range(rounds):
        for index in range(len(chosen)) if turn % 2 == 0 else reversed(range(len(chosen))):
            found = _demo(chosen[index], overrides, task, seed)
            for scope, key in SCOPES.items():
                samples[index][scope] += found["samples"][0][key]
            triggered[index].append(found["rows"][0]["trigger_rate"] or 0.0)
            done += 1
            progress(done, rounds * len(chosen))
    rows = []
    for variant, own, rate in zip(chosen, samples, triggered):
        for scope, times in own.items():
            if not times:
                raise EcovlaError(f"the demo of {variant.method} measured no {SCOPES[scope]}")
            base = samples[0][scope]
            rows.append(
                {
                    "model": "mini",
                    "method": variant.method,
                    "refresh": variant.refresh,
                    "ratio": variant.ratio,
                    "scope": scope,
                    "frames": "all",
                    "n": len(times),
                    "mean_ms": float(np.mean(times)),
                    **{f"p{p}_ms": float(np.percentile(times, p)) for p in (50, 95, 99)},
                    "speedup": float(np.mean(base) / np.mean(times)),
                    "trigger_rate": float(np.mean(rate)),
                }
            )
    return rows


def _demo(variant: Variant, overrides: Sequence[str], task: str, seed: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "ecovla_ros.cli",
            "demo",
            "--task",
            task,
            "--seed",
            str(seed),
            "--out",
            folder,
            "--method",
            variant.method,
            "--ratio",
            str(variant.ratio),
            "--no-film",
        ]
        sets = [*overrides, *([f"prune.refresh={variant.refresh}"] if variant.refresh != "none" else [])]
        command += [word for text in sets for word in ("--set", text)]
        try:
            run = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
        except subprocess.TimeoutExpired as error:
            raise EcovlaError(f"the demo of {variant.method} did not end within {LIMIT_S:.0f} s") from error
        if run.returncode:
            said = (run.stderr or run.stdout)[-500:]
            raise EcovlaError(f"the demo of {variant.method} failed ({run.returncode}): {said}")
        found: dict[str, Any] = json.loads((Path(folder) / "summary.json").read_text(encoding="utf-8"))
        return found
