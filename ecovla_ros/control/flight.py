"""What the guard believes to run on the arm's controller: the trajectories it sent, in a model of that controller.

The arm is measured late and droops under its weight, so a motion goes on from what is commanded, not from what is
measured: `interpolate_from_desired_state` of the joint trajectory controller.
"""

from __future__ import annotations

import numpy as np

from ecovla_ros.control.checks import distance
from ecovla_ros.control.curve import STEP_S, Motion
from ecovla_ros.control.limits import Limits
from ecovla_ros.control.pace import smooth_stop
from ecovla_ros.control.trajectory import TrajectoryController
from ecovla_ros.types import Trajectory

SEAT_RAD = 0.05
"""An arm at rest this near to its last command still holds it: the rest is droop (the arm warns at 3 degrees)."""
SEAT_SHARE = 0.9
"""Share of the limits that the way to the seat uses."""
SEAT_MOST_RAD = 1.0
"""An arm further from its last command is not brought there: it would take minutes."""
SEATED_S = 0.1
"""After the way to the seat the controller is waited for so long, s."""


class Flight:
    """The commanded state over time. Unknown until the first `seat`."""

    def __init__(self) -> None:
        self._model: TrajectoryController | None = None
        self._settled_ns = 0
        self._settles = ""

    @property
    def known(self) -> bool:
        """Whether a commanded state is known at all."""
        return self._model is not None

    def running(self, now_ns: int) -> bool:
        """Whether a trajectory has not ended yet."""
        return self._model is not None and now_ns < self._model.end_ns

    def settling(self, now_ns: int) -> str:
        """Why what is commanded now is not known, only where it ends; empty when it is known."""
        return self._settles if now_ns < self._settled_ns else ""

    def commanded(self, now_ns: int) -> Motion:
        """Commanded position (7,), rad, velocity (7,), rad/s, and acceleration (7,), rad/s^2."""
        assert self._model is not None
        return self._model.state(now_ns)

    def away(self, measured: np.ndarray) -> float:
        """How far an arm at `measured` (7,) is from where its last motion ends, rad; 0 when nothing was commanded."""
        return 0.0 if self._model is None else float(np.abs(distance(measured, self._end())).max())

    def start(self, measured: np.ndarray) -> None:
        """Nothing was commanded yet, or what was is void: the controller holds the arm where it is, `measured` (7,)."""
        self._model = TrajectoryController(measured)

    def seat(self, measured: np.ndarray, now_ns: int, limits: Limits, anew: bool) -> Trajectory | None:
        """Let the next motion start where the arm rests, at `measured` (7,), rad.

        None where the last command ends near that place: then nothing is to be sent. Otherwise the arm was blocked or
        pushed, or its driver was started anew (`anew`: it may have been), and the controller commands either the old
        place or this one; nobody can tell which. The trajectory returned is right in both cases and must be sent now.
        Its only point is `measured`. A controller that commands this place moves nothing. One that commands the old
        place gets enough time to move slowly, and its acceleration steps by no more than the jerk limit gives in one
        cycle.
        """
        assert self._model is not None
        way = distance(measured, self._end())
        off, place = np.abs(way), self._end() + way
        if off.max() <= (0.0 if anew else SEAT_RAD):
            return None
        slow = 1.5 * off / (limits.ramp_start * limits.velocity)
        smooth = np.sqrt(6.0 * off / np.minimum(limits.acceleration, limits.jerk * STEP_S))
        length_s = max(float(slow.max()), float(smooth.max()), SEATED_S) / SEAT_SHARE
        self._model.hold(place)
        self._settled_ns = now_ns + round((length_s + SEATED_S) * 1e9)
        self._settles = f"for {length_s:.1f} s the controller is brought from its last command to where the arm stands"
        return Trajectory(np.array([length_s]), place[None], np.zeros((1, len(place))))

    def send(self, trajectory: Trajectory, now_ns: int) -> None:
        """`trajectory` starts now. Raises ControlError for what the controller would refuse."""
        assert self._model is not None
        self._model.accept(trajectory, now_ns)

    def stop(self, now_ns: int, limits: Limits) -> Trajectory | None:
        """Sent and returned: a smooth stop from what is commanded. None where it would pass a position limit."""
        trajectory = smooth_stop(self.commanded(now_ns), limits)
        if trajectory is not None:
            self.send(trajectory, now_ns)
        return trajectory

    def clock_jumped(self, last_ns: int, now_ns: int) -> None:
        """The clock went from `last_ns` to `now_ns`: only the end of the trajectory is known, and by when."""
        end_ns = self._settled_ns
        if self._model is not None:
            end_ns = max(end_ns, self._model.end_ns)
            self._model.hold(self._end())
        self._settled_ns = now_ns + max(end_ns - last_ns, 0)
        self._settles = "the clock jumped, and the arm may still be coming to rest"

    def _end(self) -> np.ndarray:
        assert self._model is not None
        return self._model.sample(self._model.end_ns + 1)[0]
