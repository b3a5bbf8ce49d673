"""Keeps every command to the simulated arm's controller, so that `ecovla trial` can run them again at 1 kHz."""

from __future__ import annotations

from typing import Any

import numpy as np
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory

from ecovla_ros import wire
from ecovla_ros.bench.guard.controller import FakeController
from ecovla_ros.control.trajectory import TrajectoryController
from ecovla_ros.errors import ControlError, ObservationError
from ecovla_ros.nodes.ros import qos
from ecovla_ros.types import GEN3, ArmJoints, Trajectory

COMMANDS = "joint_trajectory_controller/joint_trajectory"
TRANSPORT_NS = 3_000_000
"""A command reaches the controller so much later than it was planned, ns."""
LATE_NS = 50_000_000
"""This process may hear a command so much later than the controller, ns: the processors have other work."""


class RecordedController:
    """What the controller was told, in order, to be run again at 1 kHz."""

    def __init__(self, node: Any, joints: ArmJoints = GEN3) -> None:
        """`joints`: what the arm's joint states name."""
        self._node, self._names = node, joints
        self._told: list[tuple[int, int, Trajectory]] = []  # stamp, arrival here, ns
        self._live: TrajectoryController | None = None
        self._start: tuple[int, np.ndarray] | None = None
        self._joints: np.ndarray | None = None
        node.create_subscription(JointState, "joint_states", self._on_joints, qos.SENSOR)
        node.create_subscription(JointTrajectory, COMMANDS, self._on, qos.COMMAND)

    @property
    def heard(self) -> bool:
        """Whether a joint state has come."""
        return self._joints is not None

    @property
    def joints(self) -> np.ndarray:
        """Where the arm was said to be last (7,), rad."""
        assert self._joints is not None
        return self._joints

    def begin(self) -> None:
        """Start from where the arm is, at rest."""
        assert self._joints is not None
        self._start, self._told, self._live = (self._now(), self._joints), [], TrajectoryController(self._joints)

    def end(self) -> None:
        """Listen no more: what ends may still command, and be heard late."""
        self._live = None

    def speed(self) -> float:
        """Largest commanded joint speed now, rad/s."""
        return float(np.abs(self._live.sample(self._now())[1]).max()) if self._live else 0.0

    def again(self) -> FakeController:
        """The commands from `begin` to now, by a controller that gets each `TRANSPORT_NS` after it was planned.

        One that came here later than `LATE_NS` was held up on its way out, and the controller got it then too.
        """
        assert self._start is not None
        controller = FakeController(self._start[1], self._start[0])
        for stamp_ns, came_ns, trajectory in self._told:
            late = not stamp_ns or came_ns - stamp_ns > LATE_NS
            controller.run(max((came_ns if late else stamp_ns + TRANSPORT_NS) - controller.now_ns, 0))
            controller.accept(trajectory, stamp_ns)
        controller.run(max(self._now() - controller.now_ns, 0))
        return controller

    def _on(self, msg: JointTrajectory) -> None:
        if self._live is not None:
            stamp_ns, trajectory = wire.stamp_ns(msg.header.stamp), wire.trajectory(msg)
            now_ns = self._now()
            try:
                self._live.accept(trajectory, now_ns, stamp_ns=stamp_ns)
            except ControlError:
                return  # it has ended before it was heard: a controller drops it too
            self._told.append((stamp_ns, now_ns, trajectory))

    def _on_joints(self, msg: JointState) -> None:
        try:
            self._joints = wire.arm_state(msg, joints=self._names).joints
        except ObservationError:
            return  # of somebody else on the same topic

    def _now(self) -> int:
        return int(self._node.get_clock().now().nanoseconds)
