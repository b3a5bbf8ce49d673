"""Draws the scene. There are three renderers with one interface; the ray caster needs nothing but the mujoco wheel.

`choose` finds one by name; `auto` probes egl, then osmesa, in a process of its own, and falls back to ray. Pictures
of different renderers differ: record `name` with every data set and result.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from ecovla_ros.config import RENDERERS
from ecovla_ros.errors import SimulationError, unknown
from ecovla_ros.sim.cameras import intrinsics as camera_info
from ecovla_ros.sim.raycast import RayRenderer

PROBE_SECONDS = 60.0
_PROBE = "from ecovla_ros.sim.opengl import GlRenderer; GlRenderer.probe({name!r})"


class Renderer(Protocol):
    """Draws a snapshot of the physics state.

    One thread calls all of it; physics has to stand still (microseconds) for `snapshot` alone.
    """

    name: str

    def snapshot(self, data: Any) -> None:
        """Copy the state (mujoco.MjData) to draw; physics may go on afterwards."""
        ...

    def render(self, camera: str) -> np.ndarray:
        """Image of the snapshot, uint8 RGB (H, W, 3). Raises SimulationError for an unknown camera."""
        ...

    def segmentation(self, camera: str) -> np.ndarray:
        """Class of every pixel, int32 (H, W), ids of `scene.CLASSES`. Raises SimulationError."""
        ...

    def close(self) -> None:
        """Free what it holds."""
        ...


def choose(name: str = "auto") -> Callable[[Any, int, int], Renderer]:
    """A function (model, width, height) -> Renderer for that name.

    Raises SimulationError for an unknown name, or for one that cannot draw here, saying what can.
    """
    if name not in RENDERERS:
        raise SimulationError(unknown("renderer", name, RENDERERS))
    if name == "ray":
        return RayRenderer
    for candidate in ("egl", "osmesa") if name == "auto" else (name,):
        reason = probe(candidate)
        if not reason:
            return _opengl(candidate)
    if name == "auto":
        return RayRenderer
    other = [n for n in ("egl", "osmesa") if n != name and not probe(n)]
    raise SimulationError(f"renderer '{name}' cannot draw here ({reason}); available: {', '.join([*other, 'ray'])}")


_PROBED: dict[str, str] = {}


def probe(name: str) -> str:
    """Draw one frame with egl or osmesa in another process; empty when it works, else why not. Asked once a process."""
    if name not in _PROBED:
        environment = {**os.environ, "MUJOCO_GL": name, "PYOPENGL_PLATFORM": name}
        environment["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
        command = [sys.executable, "-c", _PROBE.format(name=name)]
        try:
            run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PROBE_SECONDS)
        except subprocess.TimeoutExpired:
            _PROBED[name] = f"no frame within {PROBE_SECONDS:.0f} s"
        else:
            lines = run.stderr.strip().splitlines() or [f"exit code {run.returncode}"]
            _PROBED[name] = "" if run.returncode == 0 else lines[-1]
    return _PROBED[name]


def _opengl(name: str) -> Callable[[Any, int, int], Renderer]:
    def open_renderer(model: Any, width: int, height: int) -> Renderer:
        from ecovla_ros.sim.opengl import GlRenderer

        return GlRenderer(model, width, height, name)

    return open_renderer


__all__ = ["Renderer", "RayRenderer", "camera_info", "choose", "probe"]
