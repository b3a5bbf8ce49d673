"""A process of its own: a joint trajectory controller by the rules of Kilted, on hardware that is where it is told.

It can be deactivated and activated, as ros2_control's can, and writes down what it commands in every cycle. The rules
are those of `bench.guard.release`; a controller that is not active hears its commands and drops them, and holds.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_srvs.srv import SetBool
from trajectory_msgs.msg import JointTrajectory

from ecovla_ros import wire
from ecovla_ros.bench.guard.release import CYCLE_NS, RELEASES, ReleasedController, points
from ecovla_ros.errors import EcovlaError
from ecovla_ros.nodes.ros import process, qos
from ecovla_ros.types import ArmState

WAKE_S, STATES = 0.005, 2
"""It wakes so often, s, makes up for the cycles that have passed, and tells its joints every so many times."""
FROZEN_NS = 200_000_000
"""A process that slept for longer was stopped: one cycle follows, as in the real one's loop, which makes up nothing."""
COMMANDS = "joint_trajectory_controller/joint_trajectory"
ROW = 15
"""Numbers of a row in the file: the time by the system's clock, s, positions, velocities."""


class MockController(Node):
    """Parameters: `start`, where the arm stands, rad; `trace`, the file for what is commanded."""

    def __init__(self) -> None:
        """Hold where it starts."""
        super().__init__("mock_controller")
        start = np.array(self.declare_parameter("start", [0.0] * 7).value, float)
        trace = Path(str(self.declare_parameter("trace", "trace.f64").value))
        self._trace = trace.open("ab", buffering=0)  # noqa: SIM115  closed by `close`; unbuffered: it may be killed
        self._sent, self._velocity, self._active, self._wakes = start, np.zeros(7), True, 0
        self._controller, self._done_ns = ReleasedController(start, RELEASES["kilted"]), time.time_ns()
        self._states = self.create_publisher(JointState, "joint_states", qos.COMMAND)
        self.create_subscription(JointTrajectory, COMMANDS, self._on, qos.COMMAND)
        self.create_service(SetBool, "mock_controller/activate", self._activate)
        self.create_timer(WAKE_S, self._wake, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _on(self, msg: JointTrajectory) -> None:
        if not self._active:
            return
        try:
            sent = points(wire.trajectory(msg))
            self._controller.accept(sent, time.time_ns(), wire.stamp_ns(msg.header.stamp), list(msg.joint_names))
        except EcovlaError as error:
            self.get_logger().error(str(error))

    def _activate(self, request: SetBool.Request, answer: SetBool.Response) -> SetBool.Response:
        """Hold where the arm is; what was under way is forgotten."""
        self._active = request.data
        self._controller = ReleasedController(self._sent, RELEASES["kilted"])
        answer.success = True
        return answer

    def _wake(self) -> None:
        now_ns = time.time_ns()
        cycles = (now_ns - self._done_ns) // CYCLE_NS
        if now_ns - self._done_ns > FROZEN_NS:
            self._done_ns, cycles = now_ns - CYCLE_NS, 1
        if cycles > 0:
            times = self._done_ns + CYCLE_NS * np.arange(1, cycles + 1)
            self._done_ns = int(times[-1])
            position, velocity = self._controller.run(times, times)
            self._sent, self._velocity = position[-1].copy(), velocity[-1].copy()
            self._trace.write(np.column_stack((times / 1e9, position, velocity)).tobytes())
        self._wakes += 1
        if not self._wakes % STATES:
            told = ArmState(now_ns, self._sent, self._velocity, 0.0)
            self._states.publish(wire.fill_joint_state(JointState(), told, now_ns))

    def close(self) -> None:
        """Nothing more is commanded."""
        self._trace.close()


def main() -> int:
    """Run it until a signal."""
    return process.run("mock_controller", MockController)


if __name__ == "__main__":
    sys.exit(main())
