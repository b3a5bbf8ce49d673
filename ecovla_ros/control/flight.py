"""What the guard believes to run on the arm's controller: the trajectories it sent, in a model of that controller.

The arm is measured late and droops under its weight, so a motion goes on from what is commanded, not from what is
measured: `interpolate_from_desired_state` of the joint trajectory controller.
"""

from __future__ import annotations

import numpy as np

from ecovla_ros.control.checks import distance
from ecovla_ros.control.curve import Motion
from ecovla_ros.control.limits import Limits
from ecovla_ros.control.pace import smooth_stop
from ecovla_ros.control.trajectory import TrajectoryController
from ecovla_ros.types import Trajectory

SEAT_RAD = 0.05
"""An arm at rest this near to its last command still holds it: the rest is droop (the arm warns at 3 degrees)."""


class Flight:
    """The commanded state over time. Unknown until the first `seat`."""

    def __init__(self) -> None:
        self._model: TrajectoryController | None = None
        self._settled_ns = 0

    @property
    def known(self) -> bool:
        """Whether a commanded state is known at all."""
        return self._model is not None

    def running(self, now_ns: int) -> bool:
        """Whether a trajectory has not ended yet."""
        return self._model is not None and now_ns < self._model.end_ns

    def settling(self, now_ns: int) -> bool:
        """Whether, after a jump of the clock, the arm may still move on a trajectory whose progress is not known."""
        return now_ns < self._settled_ns

    def commanded(self, now_ns: int) -> Motion:
        """Commanded position (7,), rad, velocity (7,), rad/s, and acceleration (7,), rad/s^2."""
        assert self._model is not None
        return self._model.state(now_ns)

    def seat(self, measured: np.ndarray) -> None:
        """The arm rests at `measured` (7,): keep the last command if that is near, else start from there."""
        if self._model is None:
            self._model = TrajectoryController(measured)
        elif np.abs(distance(measured, self._end())).max() > SEAT_RAD:
            self._model.hold(measured)

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

    def _end(self) -> np.ndarray:
        assert self._model is not None
        return self._model.sample(self._model.end_ns + 1)[0]
