"""The real joint_trajectory_controller as a judge, where somebody has built one: for tests and figures, never needed.

A judge is a shared library a release, `<folder>/<release>.so`, in the folder that the environment variable
`ECOVLA_JUDGE` names: the controller's own `update`, message checks and interpolation behind four C functions, driven in
simulated time. None comes with this package.

    void *judge_new(const double *positions);                      // seven, rad; the controller holds them
    int judge_send(void *, int64 now, int64 stamp, int n, const int64 *times, const double *positions,
                   const double *velocities, int effort);           // ns; a row of NaN: none given; 0: refused
    void judge_run(void *, int n, const int64 *times, const int64 *periods, double *positions, double *velocities);
    void judge_free(void *);
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import numpy as np

from ecovla_ros.bench.guard.release import Points
from ecovla_ros.errors import ControlError
from ecovla_ros.types import JOINTS

FOLDER = "ECOVLA_JUDGE"
BEGIN_NS = 20_000_000_000_000
"""Added to every time: the real one's clock never is before zero, and a campaign's may be."""
_INT64, _DOUBLE = ctypes.POINTER(ctypes.c_int64), ctypes.POINTER(ctypes.c_double)


def library(release: str) -> Path | None:
    """The judge of a release; None where there is none."""
    folder = os.environ.get(FOLDER, "")
    path = Path(folder) / f"{release}.so"
    return path if folder and path.is_file() else None


class Judge:
    """One real controller. `accept` and `run` as `release.ReleasedController`, without the command limiter."""

    def __init__(self, positions: np.ndarray, release: str) -> None:
        """Holds `positions` (7,), rad. Raises ControlError where there is no judge of this release."""
        path = library(release)
        if path is None:
            raise ControlError(f"no judge of {release}; {FOLDER} must name a folder with {release}.so")
        self._library = ctypes.CDLL(str(path))
        self._library.judge_new.restype = ctypes.c_void_p
        start = np.ascontiguousarray(positions, float)
        self._handle = ctypes.c_void_p(self._library.judge_new(start.ctypes.data_as(_DOUBLE)))
        self._passed_ns: int | None = None
        self.position = start.copy()
        """What was commanded last, rad, (7,)."""

    @property
    def reference(self) -> np.ndarray:
        """As `position`: there is no command limiter here."""
        return self.position

    def close(self) -> None:
        """Let go of it."""
        self._library.judge_free(self._handle)

    def accept(self, message: Points, now_ns: int, stamp_ns: int = 0, effort: bool = False) -> None:
        """Raises ControlError for what the controller refuses."""
        times = np.ascontiguousarray(message.times_ns, np.int64)
        positions, velocities = (np.ascontiguousarray(part, float) for part in (message.positions, message.velocities))
        now, stamp = now_ns + BEGIN_NS, stamp_ns and stamp_ns + BEGIN_NS
        taken = self._library.judge_send(
            self._handle, ctypes.c_int64(now), ctypes.c_int64(stamp), len(times), times.ctypes.data_as(_INT64),
            positions.ctypes.data_as(_DOUBLE), velocities.ctypes.data_as(_DOUBLE), int(effort),
        )  # fmt: skip
        if not taken:
            raise ControlError("the real controller refused it")

    def run(self, times_ns: np.ndarray, passed_ns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Commands of the cycles at `times_ns` (N,) of its clock, `passed_ns` (N,) by a steady one: two of (N, 7)."""
        n = len(times_ns)
        first = passed_ns[0] - 1_000_000 if self._passed_ns is None else self._passed_ns
        periods = np.ascontiguousarray(np.diff(np.concatenate(([first], passed_ns))), np.int64)
        self._passed_ns = int(passed_ns[-1])
        positions, velocities = np.empty((n, len(JOINTS))), np.empty((n, len(JOINTS)))
        times = np.ascontiguousarray(times_ns + BEGIN_NS, np.int64)
        self._library.judge_run(
            self._handle, n, times.ctypes.data_as(_INT64), periods.ctypes.data_as(_INT64),
            positions.ctypes.data_as(_DOUBLE), velocities.ctypes.data_as(_DOUBLE),
        )  # fmt: skip
        self.position = positions[-1].copy()
        return positions, velocities
