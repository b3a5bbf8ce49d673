"""The arm behind kortex_api, for machines without ros2_kortex: `server` as a process with its own Python, and its pipe.

Start it with the Python of an environment that holds kortex_api and nothing else (docs/ros2.md, "Without
ros2_kortex"). Where ros2_kortex runs, use the trajectory topic instead: it interpolates at 1 kHz, this
takes a speed every 25 ms.
"""

from __future__ import annotations

import contextlib
import json
import logging
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ecovla_ros.arms.base import Arm
from ecovla_ros.control.limits import Limits
from ecovla_ros.errors import ConfigError, ControlError
from ecovla_ros.types import ArmState, Trajectory

SERVER = Path(__file__).with_name("server.py")
log = logging.getLogger(__name__)
STOP_S = 3.0
"""The process has this long to stop the arm and end, s."""


class KortexArm(Arm):
    """A client of one server process. `send` and `gripper` may be called from one thread, the rest from any."""

    def __init__(
        self, python: str, limits: Limits, clock: Callable[[], int], arguments: Sequence[str] = (),
        password: str = "admin",
    ) -> None:  # fmt: skip
        """Start the server with the interpreter `python`. `limits` become the arm's soft limits; `clock`: ns.

        `password`: told through the pipe, where no list of processes shows it. Raises ConfigError when the interpreter
        cannot be run.
        """
        command = [python, str(SERVER), *arguments]
        for name in ("velocity", "acceleration"):
            command += [f"--{name}", ",".join(f"{value:.6g}" for value in getattr(limits, name))]
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, errors="replace", bufsize=1,
                start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise ConfigError(
                f"cannot start '{python}' ({error.strerror}); valid: the Python of an environment with kortex_api"
            ) from error
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended: `fault` says so
            self._process.stdin.write(json.dumps({"password": password}) + "\n")
        self._clock = clock
        self._state: ArmState | None = None
        self._fault, self._strange = "", False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Process id of the server."""
        return self._process.pid

    @property
    def fault(self) -> str:
        """What the arm, or the process, reports; empty when nothing is wrong."""
        code = self._process.poll()
        if code is not None:
            return f"the kortex process ended with code {code}"
        return self._fault if self._reader.is_alive() else "the kortex process runs and reports no more"

    def state(self) -> ArmState | None:
        """The newest state, stamped on arrival."""
        return self._state

    def send(self, trajectory: Trajectory) -> None:
        """Raises ControlError when velocities are missing or the process is gone."""
        if trajectory.velocities is None:
            raise ControlError("a trajectory without velocities; valid: positions and velocities")
        self._write(
            {"op": "trajectory", "times": trajectory.times_s.tolist(), "positions": trajectory.positions.tolist(),
             "velocities": trajectory.velocities.tolist()}
        )  # fmt: skip

    def gripper(self, closed: float) -> None:
        """Raises ControlError when the process is gone."""
        self._write({"op": "gripper", "closed": min(max(closed, 0.0), 1.0)})

    def clear(self) -> None:
        """Clear the arm's faults. Raises ControlError when the process is gone."""
        self._write({"op": "clear"})

    def close(self) -> None:
        """End the process, which stops the arm; killed when it does not end, and then the arm's time-out stops it."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(STOP_S)

    def _write(self, order: dict[str, object]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({**order, "sent": time.monotonic()}) + "\n")
        except (BrokenPipeError, ValueError) as error:
            raise ControlError(f"the arm cannot be commanded: {self.fault or error}") from error

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            try:
                self._take(json.loads(line))
            except (ValueError, KeyError, TypeError):
                if not self._strange:
                    log.warning("the kortex process says what is no report (said once): %.200s", line.rstrip())
                self._strange = True
        self._process.stdout.close()

    def _take(self, said: dict[str, Any]) -> None:
        fault, state = str(said["fault"]), self._state
        if said["joints"] is not None:
            state = ArmState(
                self._clock(), np.array(said["joints"]), np.array(said["velocity"]), float(said["gripper"])
            )
        self._fault, self._state = fault, state
