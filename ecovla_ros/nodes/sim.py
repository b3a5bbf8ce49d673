"""Node `sim`: the simulated Gen3 behind the real arm's interface, with cameras, `/clock` and scene services.

Stamps are simulated time anchored to the wall clock when the node starts, and physics is paced to the wall, so that
other nodes work with and without use_sim_time. When this machine cannot keep up, the anchor moves and physics is slow;
stamps stay near the wall clock. In lock step nothing happens between trajectories: each one advances one period.

Threads: the executor's thread owns the world; `SimCameras` draws in a thread of its own.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rosgraph_msgs.msg import Clock as ClockMessage
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from ecovla_ros import wire
from ecovla_ros.errors import ConfigError, ControlError, EcovlaError, SimulationError, unknown
from ecovla_ros.nodes.ros import intake, process, qos, settings
from ecovla_ros.nodes.ros.interfaces import ApplyEvent, ResetScene
from ecovla_ros.nodes.ros.sim_cameras import SimCameras
from ecovla_ros.sim import events
from ecovla_ros.sim.env import PERIOD_TICKS
from ecovla_ros.sim.events import KINDS, Event
from ecovla_ros.sim.world import TICK_NS, World

TICK_HZ = 1e9 / TICK_NS
BEHIND_NS = 100_000_000
"""Farther behind the wall clock than this, lost time is given up, ns."""


class SimNode(Node):
    """One world, in real time or in lock step."""

    def __init__(self, **options: Any) -> None:
        """Compile the scene and start the cameras. Raises ConfigError or SimulationError."""
        super().__init__("sim", **options)
        loaded = settings.Settings(self, "sim", "arm").read()
        self._config, self._joints = loaded.sim, loaded.arm.joints
        for key in ("state_hz", "image_hz"):
            if getattr(self._config, key) > TICK_HZ:
                raise ConfigError(f"sim.{key} {getattr(self._config, key)} Hz; the simulator ticks at {TICK_HZ:.0f} Hz")
        size = (self._config.width, self._config.height)
        self._world = World(*size)
        self._wall = Clock(clock_type=ClockType.SYSTEM_TIME)
        self._offset_ns = self._wall.now().nanoseconds - self._world.now_ns
        self._cameras = SimCameras(self, self._world.model, self._config.renderer, size)
        self._success, self._ticks = False, 0
        self._open_topics()
        self._reset(self._config.task, self._config.seed, self._config.looks)
        self._offset_ns = max(self._offset_ns, self._wall.now().nanoseconds - self._world.now_ns)
        self._due = time.monotonic_ns()
        if not self._config.lock_step:
            self.create_timer(TICK_NS * 1e-9, self._keep_pace, clock=Clock(clock_type=ClockType.STEADY_TIME))
        pace = "in lock step" if self._config.lock_step else "in real time"
        self.get_logger().info(f"simulating {pace}, pictures by {self._cameras.renderer}, {size[0]} x {size[1]} px")

    def _open_topics(self) -> None:
        self._clock_topic = self.create_publisher(ClockMessage, "/clock", qos.SENSOR)
        self._states = self.create_publisher(JointState, "joint_states", qos.COMMAND)
        self._instruction = self.create_publisher(String, "instruction", qos.LATCHED)
        self._successes = self.create_publisher(Bool, "success", qos.LATCHED)
        for topic, receive in (
            ("joint_trajectory_controller/joint_trajectory", self._on_trajectory),
            ("robotiq_gripper_controller/joint_trajectory", self._on_gripper),
        ):
            intake.subscribe(self, JointTrajectory, topic, receive, qos.COMMAND, intake.TRAJECTORY_BYTES)
        self.create_service(ResetScene, "~/reset", self._on_reset)
        self.create_service(ApplyEvent, "~/event", self._on_event)
        self.create_service(Trigger, "~/step", self._on_step)

    @property
    def _stamp_ns(self) -> int:
        return self._offset_ns + self._world.now_ns

    def _keep_pace(self) -> None:
        """Tick as often as the wall clock asks for; give up what cannot be caught up with."""
        late = time.monotonic_ns() - self._due
        if late > BEHIND_NS:
            self._due += late
            self._offset_ns = max(self._offset_ns, self._wall.now().nanoseconds - self._world.now_ns)
            late = 0
        for _ in range(late // TICK_NS + 1):
            self._due += TICK_NS
            self._tick()

    def _tick(self, wait: bool = False) -> None:
        self._world.tick()
        self._ticks += 1
        clock = ClockMessage()
        wire.set_stamp(clock.clock, self._stamp_ns)
        self._clock_topic.publish(clock)
        if self._every(self._config.state_hz):
            self._states.publish(self._state())
        if self._every(self._config.image_hz):
            self._cameras.shoot(self._world.data, self._stamp_ns, wait)
        success = self._world.success()
        if success != self._success:
            self._say_success(success)

    def _state(self) -> JointState:
        return wire.fill_joint_state(JointState(), self._world.arm_state(), self._stamp_ns, self._joints)

    def _every(self, rate_hz: float) -> bool:
        """Whether something that happens `rate_hz` times a second happens in this tick."""
        return int(self._ticks * rate_hz / TICK_HZ) > int((self._ticks - 1) * rate_hz / TICK_HZ)

    def _advance(self) -> None:
        for _ in range(PERIOD_TICKS):
            self._tick(wait=True)

    def _on_trajectory(self, msg: JointTrajectory) -> None:
        stamp = wire.stamp_ns(msg.header.stamp)
        try:
            trajectory = wire.trajectory(msg)
            begins_ns = max(1, stamp - self._offset_ns) if stamp else 0
            self._world.accept(trajectory, self._joints.plain(msg.joint_names), begins_ns)
        except ControlError as error:
            self.get_logger().error(f"trajectory rejected: {error}", throttle_duration_sec=1.0)
            return
        if self._config.lock_step:
            self._advance()

    def _on_gripper(self, msg: JointTrajectory) -> None:
        try:
            self._world.gripper(wire.gripper(msg, self._joints))
        except EcovlaError as error:
            self.get_logger().error(f"gripper target rejected: {error}", throttle_duration_sec=1.0)

    def _on_reset(self, request: Any, response: Any) -> Any:
        try:
            self._reset(request.task, request.seed, request.looks)
        except SimulationError as error:
            response.success, response.message = False, str(error)
            return response
        response.success, response.instruction = True, self._world.task.instruction
        return response

    def _on_event(self, request: Any, response: Any) -> Any:
        try:
            events.apply(self._world, event(request.kind, request.target, request.values))
        except SimulationError as error:
            response.success, response.message = False, str(error)
            return response
        response.success = True
        return response

    def _on_step(self, request: Any, response: Any) -> Any:
        del request
        response.success = self._config.lock_step
        if self._config.lock_step:
            self._advance()
        else:
            response.message = "the simulator runs in real time; valid: start it with overrides sim.lock_step=true"
        return response

    def _reset(self, task: str, seed: int, looks: bool) -> None:
        """Lay the scene anew; stamps go on. Raises SimulationError and changes nothing for an unknown task."""
        before = self._stamp_ns
        self._cameras.settle()  # no picture may be half of one scene and half of the next
        self._world.reset(task, seed)
        self._offset_ns = before - self._world.now_ns
        if looks:
            events.randomise_looks(self._world, np.random.default_rng([seed, 1]))
        self._say_success(False)
        self._instruction.publish(String(data=self._world.task.instruction))

    def _say_success(self, success: bool) -> None:
        self._success = success
        self._successes.publish(Bool(data=success))

    def close(self) -> None:
        """End the cameras' thread."""
        self._cameras.close()


def event(kind: str, target: str, values: Sequence[float]) -> Event:
    """An event from a service request: `target` is its name, `values` its numbers in the order of `KINDS`.

    What is left out keeps its default. Raises SimulationError for an unknown kind or values that do not fit.
    """
    if kind not in KINDS:
        raise SimulationError(unknown("event", kind, KINDS))
    given: dict[str, Any] = {}
    rest = list(values)
    for key, default in KINDS[kind].defaults.items():
        if isinstance(default, str):
            given |= {key: target} if target else {}
        elif rest:
            size = int(np.size(default))
            part, rest = rest[:size], rest[size:]
            given[key] = part if size > 1 else type(default)(part[0])
    if rest:
        sizes = {key: int(np.size(value)) for key, value in KINDS[kind].defaults.items() if not isinstance(value, str)}
        raise SimulationError(f"event '{kind}': {len(values)} values; valid, in this order: {sizes}")
    return Event(kind, values=given)


def main(arguments: list[str] | None = None) -> int:
    """Entry point of `ros2 run ecovla_ros sim`."""
    return process.run("sim", SimNode, arguments)
