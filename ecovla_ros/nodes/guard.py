"""Node `guard`: chunks, joint states and wishes in, trajectories within limits out. Imports no torch.

Threads: one, the executor's. `control.guard` decides; this node hands it the time and carries messages. To wait in the
executor costs rclpy most of a millisecond a tick, to sleep a tenth of it: it waits there while a chunk is due, which
is answered at once, and every `LOOK_TICKS` ticks. Joint states and the e-stop are looked at in every tick.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.clock import Clock, ClockType
from rclpy.logging import get_logger
from rclpy.node import Node
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, String
from std_srvs.srv import SetBool, Trigger
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from ecovla_ros import wire
from ecovla_ros.arms.trajectory_topic import TrajectoryTopic
from ecovla_ros.control import limits
from ecovla_ros.control.clocks import READ_S, PlanClock
from ecovla_ros.control.guard import Guard
from ecovla_ros.control.states import State
from ecovla_ros.control.status import Command, GuardStatus
from ecovla_ros.errors import ControlError, ObservationError
from ecovla_ros.nodes.ros import controller_state, diagnostics, gripper, process, qos, settings
from ecovla_ros.nodes.ros.interfaces import ActionChunk
from ecovla_ros.nodes.ros.polling import OncePerSecond, PolledTopic

LOOK_TICKS = 4
"""Ticks from one wait in the executor to the next while no chunk is due: a service answers within as many."""
READS = 3
"""Both clocks are read at most so often, until nothing came in between."""
TICKS = 3000
"""Ticks over which the jitter is told."""
SAY_AGAIN_S = 2.0
"""The same kind of complaint is logged at most this often, s."""
LEVELS = {
    State.HOLD.value: diagnostics.WARN, State.HELD.value: diagnostics.WARN, State.DEGRADED.value: diagnostics.WARN,
    State.LATCHED.value: diagnostics.ERROR,
}  # fmt: skip
"""State -> diagnostic level; the others are OK."""


class GuardNode(Node):
    """Disarmed until `~/enable`."""

    def __init__(self, **options: Any) -> None:
        """Read limits and configuration. Raises ConfigError."""
        super().__init__("guard", start_parameter_services=False, **options)  # none can be changed while it runs
        settings.declare(self)
        self.declare_parameter(
            "gripper", "auto", ParameterDescriptor(description="how to command it: " + ", ".join(gripper.KINDS))
        )
        config = settings.configuration(self).control
        simulated = self._simulated_time = bool(self.get_parameter("use_sim_time").value)
        self._guard, self._plan = Guard(config, limits.load(config.profile), steady=not simulated), PlanClock()
        send_gripper = gripper.sender(self, str(self.get_parameter("gripper").value))
        self._inputs: dict[str, str] = {}  # topic -> what is wrong with its last message
        self._said: tuple[str, ...] = ()
        self._last: GuardStatus | None = None
        self._period_s, self._ticked_s = 1.0 / config.rate_hz, 0.0
        self._late_ms: deque[float] = deque(maxlen=TICKS)
        self._judged_s = self._jitter_ms = 0.0
        self._answers, self._delay_ms = 0, float("nan")  # of the last trajectory that answers a chunk
        publish = self.create_publisher(JointTrajectory, "joint_trajectory", qos.COMMAND).publish
        self._arm = TrajectoryTopic(publish, JointTrajectory, JointTrajectoryPoint, send_gripper)
        self._status = self.create_publisher(DiagnosticStatus, "status", qos.LATCHED)
        self._diagnostics = diagnostics.Diagnostics(self, self._values)
        self._reader = wire.StateReader(lambda raw: deserialize_message(raw, JointState))
        self._states = PolledTopic(self, JointState, "joint_states", qos.SENSOR)
        self._estops = PolledTopic(self, Bool, "estop", qos.EVENT)
        self._controller = controller_state.topic(self) if config.stamp_commands != "never" else None
        self.create_subscription(ActionChunk, "action_chunk", self._on_chunk, qos.COMMAND)
        self.create_subscription(String, "arm_fault", self._on_fault, qos.LATCHED)
        self.create_service(SetBool, "~/enable", self._on_enable)
        self.create_service(Trigger, "~/reset", self._on_reset)
        self.create_service(Trigger, "~/hold", self._on_hold)
        self.create_service(Trigger, "~/forget", self._on_forget)
        self._timer = self.create_timer(self._period_s, self._tick, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self.get_logger().info(f"disarmed; profile {config.profile}, {config.rate_hz:.0f} Hz")

    def drive(self, executor: Any, going: Callable[[], bool]) -> None:
        """Tick by the steady clock, and wait in between: a timer would cost the executor a second wait a tick."""
        self.destroy_timer(self._timer)
        process.keep_loaded()
        events, due_s, ticks = OncePerSecond(), time.monotonic(), 0
        while going():
            due_s, ticks = max(due_s + self._period_s, time.monotonic()), ticks + 1
            self._tick()
            wait: Callable[[float], None] = time.sleep
            if ticks % LOOK_TICKS == 0 or self._listens():
                events.turn(self, due_s)
                wait = executor.spin_once
                wait(max(due_s - time.monotonic(), 0.0))  # also when a tick took longer than its period
            while (left_s := due_s - time.monotonic()) > 0.0:
                wait(left_s)

    def _listens(self) -> bool:
        """Whether a message that comes before the next tick must be heard at once."""
        return self._simulated_time or self._guard.due(self._now_ns() + round(self._period_s * 1e9))

    def close(self) -> None:
        """The last word: whatever moves is brought to rest."""
        now_ns = self._now_ns()
        self._guard.hold(now_ns)
        self._carry_out(self._guard.tick(now_ns), now_ns)
        self.get_logger().info("ended; the arm holds")

    def _read_joint_state(self, now_ns: int) -> None:
        """Take the newest: a driver at 1 kHz sends ten times as many as are needed, and none of them wakes us."""
        raw = self._states.newest()
        if raw is None:
            return
        try:
            self._guard.on_joint_state(self._reader.read(raw, finite=False), now_ns)
            self._inputs.pop("joint_states", None)
        except ObservationError as error:  # the guard holds once the last good one is too old
            self._complain("joint_states", str(error))

    def _on_chunk(self, msg: ActionChunk) -> None:
        try:
            self._guard.on_chunk(wire.chunk(msg), self._now_ns())
            self._inputs.pop("action_chunk", None)
        except ControlError as error:  # the guard holds once nothing better comes
            self._complain("action_chunk", str(error))
        self._act()  # a chunk whose turn it is need not wait for the next tick

    def _on_fault(self, msg: String) -> None:
        self._guard.on_fault(msg.data, self._now_ns())

    def _on_enable(self, request: Any, response: Any) -> Any:
        now_ns = self._now_ns()
        self._read_joint_state(now_ns)
        response.success, response.message = self._guard.enable(request.data, now_ns)
        return response

    def _on_reset(self, request: Any, response: Any) -> Any:
        del request
        response.success, response.message = self._guard.reset(self._now_ns())
        return response

    def _on_hold(self, request: Any, response: Any) -> Any:
        del request
        response.success, response.message = self._guard.hold(self._now_ns())
        return response

    def _on_forget(self, request: Any, response: Any) -> Any:
        del request
        response.success, response.message = self._guard.forget(self._now_ns())
        return response

    def _tick(self) -> None:
        ticked_s = time.monotonic()
        if self._ticked_s:
            self._late_ms.append(1e3 * abs(ticked_s - self._ticked_s - self._period_s))
        self._ticked_s = ticked_s
        self._act()

    def _act(self) -> None:
        now_ns = self._now_ns()
        for pressed in self._estops.every():
            self._guard.on_estop(pressed.data, now_ns)
        self._read_joint_state(now_ns)
        self._read_controller_state(now_ns)
        self._carry_out(self._guard.tick(now_ns), now_ns)

    def _read_controller_state(self, now_ns: int) -> None:
        """Take the newest: its stamp tells the controller's clock."""
        msg = None if self._controller is None else self._controller.newest()
        if msg is None:
            return
        try:
            self._guard.on_controller_state(
                wire.controller_state(deserialize_message(msg, controller_state.KIND)), now_ns
            )
            self._inputs.pop("controller_state", None)
        except ObservationError as error:
            self._complain("controller_state", str(error))

    def _carry_out(self, command: Command, now_ns: int) -> None:
        """Publish what the guard decided, and say so."""
        status = self._last = command.status
        if command.trajectory is not None and self._guard.in_time(self._now_ns()):
            self._arm.send(command.trajectory, self._stamp(command))
        if command.gripper is not None:
            self._arm.gripper(command.gripper)
        answered = command.trajectory is not None and status.chunk_age_s == status.chunk_age_s
        said = (status.state, status.reason, status.refusal, *self._inputs.values())
        if command.trajectory is None and said == self._said:
            return
        if answered:
            self._answers += 1
            self._delay_ms = 1e3 * status.chunk_age_s + (self._now_ns() - now_ns) / 1e6
        self._say(status)
        if said != self._said:
            if said[:2] != self._said[:2] or status.state != State.DISARMED.value:
                self._log(status)
            self._said = said

    def _stamp(self, command: Command) -> int:
        """When a trajectory begins by the controller's clock, ns; 0: on arrival."""
        if not command.begin_ns or command.apart_ns is not None:
            return command.begin_ns + (command.apart_ns or 0)
        return command.begin_ns if self._simulated_time else self._plan.stamp(command.begin_ns)

    def _say(self, status: GuardStatus) -> None:
        level, message = LEVELS.get(status.state, diagnostics.OK), self._message(status)
        name = self.get_fully_qualified_name()
        self._status.publish(diagnostics.status(name, level, message, self._values()))
        self._diagnostics.set(level, message)

    def _message(self, status: GuardStatus) -> str:
        return "; ".join((status.reason, *self._inputs.values()))

    def _log(self, status: GuardStatus) -> None:
        refused = status.refusal if status.state != State.DISARMED.value else ""  # to be expected while disarmed
        text = f"{status.state}: {self._message(status)}" + (f" (refused: {refused})" if refused else "")
        log = self.get_logger()
        if status.state == State.LATCHED.value:
            log.error(text)
        elif status.state == State.HOLD.value or refused or self._inputs:
            log.warning(text, throttle_duration_sec=SAY_AGAIN_S)
        else:
            log.info(text)

    def _complain(self, topic: str, message: str) -> None:
        self._inputs[topic] = message
        self.get_logger().warning(message, throttle_duration_sec=SAY_AGAIN_S)

    def _values(self) -> dict[str, object]:
        status = self._last
        if status is None:
            return {}
        return {
            "state": status.state,
            "refusal": status.refusal,
            "chunk_age_ms": 1e3 * status.chunk_age_s,
            "chunk_stamp_ns": status.chunk_stamp_ns,
            "stretch": status.stretch,
            "chunks_answered": self._answers,
            "camera_to_command_ms": self._delay_ms,
            "commands": status.commands,
            "refusals": status.refusals,
            "tick_jitter_p99_ms": self._jitter(),
            **{f"count_{name}": count for name, count in status.counters.items()},
        }

    def _jitter(self) -> float:
        """How late or early ticks were, p99, ms; of a second ago at most: thousands are sorted for it."""
        if self._ticked_s >= self._judged_s + 1.0:
            self._judged_s, late = self._ticked_s, sorted(self._late_ms)
            self._jitter_ms = late[int(0.99 * len(late))] if late else 0.0
        return self._jitter_ms

    def _now_ns(self) -> int:
        """What the guard plans with, ns: steady time with the system's date, or simulated time.

        The guard is told when the system's clock was set.
        """
        if self._simulated_time:  # the controller has the same clock
            return int(self.get_clock().now().nanoseconds)
        for _ in range(READS):
            before_ns = time.monotonic_ns()
            system_ns, after_ns = time.time_ns(), time.monotonic_ns()
            if after_ns - before_ns < 1e9 * READ_S:
                break
        between_ns = after_ns - before_ns
        now_ns, set_s = self._plan.now(system_ns, before_ns + between_ns // 2, self._guard.resting, between_ns / 1e9)
        if set_s:
            self._guard.on_clock_set(set_s, now_ns)
        return now_ns


def main(arguments: list[str] | None = None) -> int:
    """Entry point of `ros2 run ecovla_ros guard`."""
    if not process.ask_for_priority():
        get_logger("guard").info("no real-time priority: ticks may be late while others compute")
    return process.run("guard", GuardNode, arguments)
