"""An arm that is where it is commanded to be, for tests and campaigns: ros2_control's controller, and no mass."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ecovla_ros.control.trajectory import TrajectoryController
from ecovla_ros.types import CONTINUOUS, ArmState, Trajectory


class PerfectArm:
    """Runs what it is sent as the real controller would, and refuses what it would refuse. Time is handed in."""

    fault = ""

    def __init__(self, positions: np.ndarray, clock: Callable[[], int]) -> None:
        """At rest at `positions` (7,), rad. `clock`: nanoseconds."""
        self.controller, self._clock, self.closed = TrajectoryController(positions), clock, 0.0

    def send(self, trajectory: Trajectory, begin_ns: int = 0) -> None:
        """`trajectory` begins at `begin_ns`; 0: now. Raises ControlError for what the real controller would drop."""
        self.controller.accept(trajectory, self._clock(), stamp_ns=begin_ns)

    def gripper(self, closed: float) -> None:
        """At once."""
        self.closed = closed

    def state(self) -> ArmState:
        """Continuous joints in [-pi, pi], as the real driver reports them."""
        now_ns = self._clock()
        position, velocity = self.controller.sample(now_ns)
        wrapped = np.where(CONTINUOUS, (position + math.pi) % math.tau - math.pi, position)
        return ArmState(now_ns, wrapped, velocity, self.closed)

    def close(self) -> None:
        """Stand where it is."""
        self.controller.hold(self.controller.sample(self._clock())[0])
