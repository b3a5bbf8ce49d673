"""Node `kortex`: the Gen3 through Kinova's kortex_api, where ros2_kortex does not run. The guard sees no difference.

Takes trajectories, publishes joint states and the arm's fault. Threads: the executor's; the arm is in a process of its
own (`arms.kortex`), with the Python of the parameter `python`. Not run on an arm yet.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from ecovla_ros import wire
from ecovla_ros.arms.kortex.process import KortexArm
from ecovla_ros.control.trajectory import ordered, still_due
from ecovla_ros.errors import ConfigError, ControlError, EcovlaError
from ecovla_ros.nodes.ros import diagnostics, intake, process, qos, settings
from ecovla_ros.types import Trajectory

RATE_HZ = 40.0
STOOD_S, AFTER_S = 0.25, 0.1
"""A process that did nothing for so long stood still, s, and what it is given in the time after that lay there."""
SECRET, FACTORY = "KORTEX_PASSWORD", "admin"
"""Environment variable with the arm's password, and what it is as delivered."""
PARAMETERS = (
    ("python", "python3", "Python of an environment with kortex_api and nothing else"),
    ("robot_ip", "192.168.1.10", "address of the arm"),
    ("port", 10000, "TCP port of the arm"),
    ("username", "admin", "login"),
    ("password_file", "", "file whose first line is the password; empty: KORTEX_PASSWORD of the environment, or admin"),
    ("inactivity_ms", 200, "silence after which the arm stops by itself, ms"),
)


class KortexNode(Node):
    """One arm."""

    def __init__(self, **options: Any) -> None:
        """Start the arm's process. Raises ConfigError."""
        super().__init__("kortex", **options)
        asked = settings.Settings(self, "control", "arm", more=PARAMETERS)
        self._joints = asked.read().arm.joints
        arguments = ["--ip", asked["robot_ip"], "--port", asked["port"], "--username", asked["username"]]
        arguments += ["--inactivity-ms", asked["inactivity_ms"]]
        secret = password(str(asked["password_file"]))
        self._arm = KortexArm(asked["python"], asked.limits(), self._now_ns, [str(a) for a in arguments], secret)
        self._states = self.create_publisher(JointState, "joint_states", qos.COMMAND)
        self._faults = self.create_publisher(String, "arm_fault", qos.LATCHED)
        self._fault, self._stamp_ns, self._refused = "starting", 0, 0
        self._alive_s, self._woke_s = time.monotonic(), -AFTER_S
        self._diagnostics = diagnostics.Diagnostics(self, lambda: {"fault": self._fault, "refused": self._refused})
        for topic, receive in (
            ("joint_trajectory_controller/joint_trajectory", self._on_trajectory),
            ("robotiq_gripper_controller/joint_trajectory", self._on_gripper),
        ):
            intake.subscribe(self, JointTrajectory, topic, receive, qos.COMMAND, intake.TRAJECTORY_BYTES)
        self.create_service(Trigger, "~/clear_faults", self._on_clear)
        self.create_timer(1.0 / RATE_HZ, self._tick, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def close(self) -> None:
        """Stop the arm."""
        self._arm.close()

    def _stood(self) -> None:
        """Raises ControlError for what lay here while this process stood still: its time is over."""
        now_s = time.monotonic()
        if now_s - self._alive_s > STOOD_S:
            self._woke_s = now_s
        self._alive_s = now_s
        if now_s - self._woke_s < AFTER_S:
            raise ControlError("this process stood still, and the order is from before; valid: a new one")

    def _tick(self) -> None:
        with contextlib.suppress(ControlError):
            self._stood()
        state, fault = self._arm.state(), self._arm.fault
        if state is not None and state.stamp_ns != self._stamp_ns:
            self._stamp_ns = state.stamp_ns
            self._states.publish(wire.fill_joint_state(JointState(), state, state.stamp_ns, self._joints))
        if fault != self._fault:
            self._fault = fault
            self._faults.publish(String(data=fault))
            self._diagnostics.set(diagnostics.ERROR if fault else diagnostics.OK, fault or "ready")

    def _on_trajectory(self, msg: JointTrajectory) -> None:
        self._order(lambda: self._arm.send(self._taken(msg)))

    def _taken(self, msg: JointTrajectory) -> Trajectory:
        """What ros2_control's controller would make of it. Raises ControlError for what that would refuse."""
        self._stood()
        trajectory = ordered(wire.trajectory(msg), self._joints.plain(msg.joint_names))
        return still_due(trajectory, self._now_ns(), wire.stamp_ns(msg.header.stamp))

    def _on_gripper(self, msg: JointTrajectory) -> None:
        def grip() -> None:
            self._stood()
            self._arm.gripper(wire.gripper(msg, self._joints))

        self._order(grip)

    def _order(self, call: Any) -> None:
        self._refused += not self._try(call)

    def _on_clear(self, request: Any, response: Any) -> Any:
        del request
        response.success, response.message = self._try(self._arm.clear), "asked for"
        return response

    def _try(self, call: Any) -> bool:
        try:
            call()
        except EcovlaError as error:
            self.get_logger().error(f"refused: {error}", throttle_duration_sec=1.0)
            return False
        return True

    def _now_ns(self) -> int:
        return int(self.get_clock().now().nanoseconds)


def password(file: str) -> str:
    """The arm's password: from the file, else the environment, which it is taken out of. Raises ConfigError.

    It is no parameter: those can be read by everybody in the graph, and arguments by everybody on the machine.
    """
    told = os.environ.pop(SECRET, FACTORY)
    if not file:
        return told
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"parameter password_file: '{file}': {error}; valid: a text file of one line") from error
    if not lines or not lines[0].strip():
        raise ConfigError(f"parameter password_file: '{file}' is empty; valid: a text file of one line")
    return lines[0].strip()


def main(arguments: list[str] | None = None) -> int:
    """Entry point of `ros2 run ecovla_ros kortex`."""
    return process.run("kortex", KortexNode, arguments)
