"""Node `guard`: chunks, joint states and wishes in, trajectories within limits out. Imports no torch.

Threads: one, the executor's. `control.guard` decides; this node hands it the time and carries messages. To wait in the
executor costs rclpy most of a millisecond a tick, to sleep a tenth of it: it waits there while a chunk is due, which
is answered at once, and every `LOOK_TICKS` ticks. Joint states, the e-stop and what others send to the controller are
looked at in every tick, the graph once a second. Messages come as bytes: what cannot be read is dropped, not raised.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.clock import Clock, ClockType
from rclpy.logging import get_logger
from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, String
from std_srvs.srv import SetBool, Trigger
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from ecovla_ros import wire
from ecovla_ros.arms.trajectory_topic import TrajectoryTopic
from ecovla_ros.control.clocks import READ_S, PlanClock
from ecovla_ros.control.guard import Guard
from ecovla_ros.control.lease import EnableLease
from ecovla_ros.control.states import State
from ecovla_ros.control.status import Command, GuardStatus
from ecovla_ros.errors import ConfigError, ControlError, ObservationError, short
from ecovla_ros.nodes.ros import controller_state, diagnostics, gripper, process, qos, settings
from ecovla_ros.nodes.ros.arm_states import ArmStates
from ecovla_ros.nodes.ros.estop import EStop
from ecovla_ros.nodes.ros.intake import Intake, Reach, sender
from ecovla_ros.nodes.ros.interfaces import ActionChunk, PruningState
from ecovla_ros.nodes.ros.owners import Commands, Source
from ecovla_ros.nodes.ros.polling import OncePerSecond, PolledTopic

PARAMETERS = (
    ("gripper", "auto", "how to command it: " + ", ".join(gripper.KINDS)),
    ("chunks_from", "", "node whose chunks are taken; empty: the first that sends"),
    ("enable_lease_s", 0.0, "an enable ends unless asked for again within this time, s; 0: it lasts until taken back"),
)
LEASE_S = (0.2, 60.0)
"""Shortest and longest lease, s."""
LOOK_TICKS = 4
"""Ticks from one wait in the executor to the next while no chunk is due: a service answers within as many."""
MOST_TEXT = 500
"""Characters of a complaint at most."""
LINKS = (
    Reach(JointState, "joint_states", qos.SHARED),
    Reach(ActionChunk, "action_chunk", qos.CHUNKS),
    Reach(String, "arm_fault", qos.FAULTS),
)
"""What the guard must hear, beside the e-stop, which is heard whatever its quality of service."""
READS = 3
"""Both clocks are read at most so often, until nothing came in between."""
TICKS = 3000
"""Ticks over which the jitter is told."""
SAY_AGAIN_S = 2.0
"""The same kind of complaint is logged at most this often, s."""
CALM_S = 0.1
"""What is no change of state is told at most this often, and a complaint stands for so long at least, s."""
AROUND_S = 1.0
"""Time between two looks at who else is in the graph, s."""
CHUNK_BYTES, TEXT_BYTES = 2**18, 2**12
"""Longest chunk and text that is read, bytes."""
LEVELS = {
    State.HOLD.value: diagnostics.WARN, State.HELD.value: diagnostics.WARN, State.DEGRADED.value: diagnostics.WARN,
    State.LATCHED.value: diagnostics.ERROR,
}  # fmt: skip
"""State -> diagnostic level; the others are OK."""


class GuardNode(Node):
    """Disarmed until `~/enable`."""

    def __init__(self, **options: Any) -> None:
        """Read limits and configuration. Raises ConfigError."""
        super().__init__("guard", **options)
        told = settings.Settings(self, "control", "arm", more=PARAMETERS)
        loaded, within = told.read(), told.limits()
        config, joints = loaded.control, settings.joints(told, loaded)
        self._lease = EnableLease(lease_s(told["enable_lease_s"]))
        simulated = self._simulated_time = bool(self.get_parameter("use_sim_time").value)
        self._guard, self._plan = Guard(config, within, steady=not simulated), PlanClock()
        grips = str(told["gripper"])
        topics = ["joint_trajectory"] + ["gripper_trajectory"] * (grips in ("topic", "auto"))
        self._commands = Commands(self, [(JointTrajectory, topic) for topic in topics])
        publish = self.create_publisher(JointTrajectory, "joint_trajectory", qos.COMMAND).publish
        send_gripper = gripper.sender(self, grips, joints)
        self._inputs: dict[str, str] = {}  # topic -> what is wrong with its last message
        self._complained_s: dict[str, float] = {}
        self._mended: set[str] = set()  # topics on which a good message came since
        self._said: tuple[str, ...] = ()
        self._said_s = self._looked_s = 0.0
        self._strangers = 0
        self._claiming = False
        self._last: GuardStatus | None = None
        self._acted_ns = 0
        self._period_s, self._ticked_s = 1.0 / config.rate_hz, 0.0
        self._late_ms: deque[float] = deque(maxlen=TICKS)
        self._judged_s = self._jitter_ms = 0.0
        self._answers, self._delay_ms = 0, float("nan")  # of the last trajectory that answers a chunk
        self._commands.own()
        self._arm = TrajectoryTopic(publish, JointTrajectory, JointTrajectoryPoint, send_gripper, joints.arm)
        self._status = self.create_publisher(DiagnosticStatus, "status", qos.LATCHED)
        self._diagnostics = diagnostics.Diagnostics(self, self._values)
        self._states = ArmStates(self, joints, loaded.arm.part_age_s, qos.SHARED, 1, config.joint_state_age_s)
        self._others: list[str] = []  # joints of others on the same topic, as told
        self._names = joints.arm
        self._controller = controller_state.topic(self)
        create: Any = self.create_subscription  # raw callbacks get bytes
        self._estop, self._pressed = EStop(self, "estop", config.estop_timeout_s), False
        self._askings = PolledTopic(self, Bool, "~/enable_lease", qos.REPORT, TEXT_BYTES)
        self._chunks: Any = create(ActionChunk, "action_chunk", self._on_chunk, qos.CHUNKS, raw=True)
        self._chunk_intake = Intake(self, ActionChunk, "action_chunk", CHUNK_BYTES)
        self._chunk_source = Source(self, "action_chunk", self._told(), config.chunk_silence_s)
        self._frames = PolledTopic(self, PruningState, "pruning", qos.REPORT, TEXT_BYTES)
        self._faults = PolledTopic(self, String, "arm_fault", qos.FAULTS, TEXT_BYTES)
        polled = (self._states, self._faults, self._askings, self._frames, self._controller)
        self._intakes = (self._chunk_intake, *(topic.intake for topic in polled if topic is not None))
        names = ("joint_trajectory", "joint_states", "action_chunk", "pruning", "estop", "arm_fault", "status")
        told.show("topics", {name: (self.resolve_topic_name(name), f"full name of {name}") for name in names})
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

    def claim(self, executor: Any) -> None:
        """Take the arm. Raises ControlError where another guard commands the same controller."""
        self._claiming = True
        self._commands.claim(lambda seconds: executor.spin_once(timeout_sec=seconds))
        self._claiming = False

    def on_broken(self, what: str, error: Exception) -> None:
        """A callback raised what nobody expects: motion ends, and the guard lives on to say so."""
        self._guard.latch(
            f"a message on {what} broke the guard ({type(error).__name__}: {short(error)})", self._now_ns()
        )

    def _read_joint_state(self, now_ns: int) -> None:
        """Take what is true now: a driver at 1 kHz sends ten times as much as is needed, and none of it wakes us."""
        try:
            state = self._states.newest(finite=False)
        except ObservationError as error:  # the guard holds once the last good one is too old
            self._complain("joint_states", str(error))
            return
        if state is not None:
            self._guard.on_joint_state(state, now_ns)
            if self._states.wrong:
                self._complain("joint_states", self._states.wrong)
            else:
                self._mend("joint_states")
            if (others := self._states.others) != self._others:
                self._others = others
                said = short(", ".join(others))
                self.get_logger().info(f"joint_states also has {said}: not this arm's, passed over")

    def _on_chunk(self, raw: bytes, info: Mapping[str, Any]) -> None:
        """The chunk that woke us, and those that came with it: among many of others the owner's is found."""
        taken: tuple[bytes, Mapping[str, Any]] | None = (raw, info)
        heard = False
        for _ in range(qos.CHUNKS.depth):
            if taken is None:
                break
            heard = self._take_chunk(taken[0], sender(taken[1])) or heard
            with self._chunks.handle:
                taken = self._chunks.handle.take_message(ActionChunk, True)
        if heard:
            self._act()  # a chunk whose turn it is need not wait for the next tick

    def _take_chunk(self, raw: bytes, gid: bytes) -> bool:
        """Hand a chunk of the owner to the guard. Whether there was one."""
        stranger = self._chunk_source.admit(gid, time.monotonic())
        msg = None if stranger else self._chunk_intake.read(raw, gid)
        if msg is None:
            self._complain("action_chunk", stranger or self._chunk_intake.complaint)
            return False
        try:
            self._guard.on_chunk(wire.chunk(msg), self._now_ns())
            self._mend("action_chunk")
        except ControlError as error:  # the guard holds once nothing better comes
            self._complain("action_chunk", str(error))
        return True

    def _hear_faults(self, now_ns: int) -> None:
        """Every one counts, also one that is taken back at once, and one that cannot be read."""
        for raw, gid in reversed(self._faults.newest()):
            msg = self._faults.intake.read(raw, gid)
            if msg is None:
                self._guard.latch(f"the arm's fault cannot be read: {self._faults.intake.complaint}", now_ns)
            else:
                self._guard.on_fault(short(msg.data), now_ns)

    def _hear_changes(self, now_ns: int) -> None:
        """Whether the policy saw another scene. Whoever says so, a chunk is taken a little earlier at most."""
        for raw, gid in reversed(self._frames.newest()):
            frame = self._frames.intake.read(raw, gid)
            if frame is not None and frame.triggered:
                self._guard.on_scene_change(wire.stamp_ns(frame.header.stamp), now_ns)

    def _on_enable(self, request: Any, response: Any) -> Any:
        now_ns = self._now_ns()
        self._hear_estop(now_ns)
        self._read_joint_state(now_ns)
        refused = self._unready() if request.data else ""
        if refused:
            response.success, response.message = False, f"cannot enable: {refused}"
            return response
        response.success, response.message = self._guard.enable(request.data, now_ns)
        if request.data and response.success:
            self._lease.begin(time.monotonic())
            if self._lease.lease_s:
                response.message += f"; for {self._lease.lease_s:.1f} s, unless asked for again: `ecovla enable` does"
        elif not request.data:
            self._lease.end()
            self._chunk_source.release()
        return response

    def _unready(self) -> str:
        """Why motion must not be allowed, by what the graph says; empty when it may."""
        if self._claiming:
            return "this guard is looking for another one on its controller; call again in a second"
        self._look_around()
        others = self._commands.others()
        if others:
            return f"{', '.join(others)}: somebody else can command the arm; valid: this guard alone"
        deaf = [link.deaf(self) for link in LINKS]
        return self._estop.unready(time.monotonic()) or self._chunk_source.several() or next(filter(None, deaf), "")

    def _on_reset(self, request: Any, response: Any) -> Any:
        del request
        now_ns = self._now_ns()
        self._estop.forget_gone()
        self._hear_estop(now_ns)
        self._hear_faults(now_ns)
        response.success, response.message = self._guard.reset(now_ns)
        if response.success:
            self._chunk_source.release()
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
        self._hear_estop(now_ns)
        self._hear_faults(now_ns)
        self._hear_changes(now_ns)
        self._overhear(now_ns)
        self._see_lease(now_ns)
        self._read_joint_state(now_ns)
        self._read_controller_state(now_ns)
        if self._mended:
            self._end_complaints()
        self._carry_out(self._guard.tick(now_ns), now_ns)
        if time.monotonic() - self._looked_s >= AROUND_S:
            self._look_around()

    def _hear_estop(self, now_ns: int) -> None:
        """Every message counts: one True among them latches, and holds until nobody says so any more."""
        why = self._estop.look(time.monotonic())
        if why:
            self._guard.on_estop(True, now_ns, why)
        if not self._estop.held and (why or self._pressed):
            self._guard.on_estop(False, now_ns)
        self._pressed = self._estop.held

    def _overhear(self, now_ns: int) -> None:
        """Another's command to the same controller: two owners are none."""
        intruder = self._commands.intruder()
        if not intruder:
            return
        self._complain("joint_trajectory", intruder)
        if self._last is None or self._last.state != State.DISARMED.value:
            self._guard.latch(intruder, now_ns)

    def _look_around(self) -> None:
        """Who is in the graph: publishers of the e-stop, and whoever else could command the arm."""
        self._looked_s = time.monotonic()
        self._estop.look_around(self._looked_s)
        others = self._commands.others()
        if others:
            self._complain("joint_trajectory", f"{', '.join(others)}: somebody else can command the arm")
        else:
            self._mend("joint_trajectory")
        if self._estop.fault:
            self._complain("estop", self._estop.fault)
        else:
            self._mend("estop")

    def _see_lease(self, now_ns: int) -> None:
        """Whoever enabled must keep asking."""
        if not self._lease.lease_s:
            return
        now_s = time.monotonic()
        for raw, gid in reversed(self._askings.newest()):
            asking = self._askings.intake.read(raw, gid)
            if asking is None:  # unreadable: counted, and nobody asked
                continue
            if asking.data:
                self._lease.renew(now_s)
            else:
                self._lease.end()
                self._guard.withdraw("whoever enabled gave it back", now_ns)
        if self._lease.lapsed(now_s):
            self._guard.withdraw(
                f"enable was not asked for again for {self._lease.lease_s:.1f} s: whoever enabled is gone", now_ns
            )

    def _read_controller_state(self, now_ns: int) -> None:
        """Take the newest: its stamp tells the controller's clock."""
        if self._controller is None:
            return
        for raw, gid in self._controller.newest():
            msg = self._controller.intake.read(raw, gid)
            if msg is None:
                continue  # unreadable: counted
            try:
                self._guard.on_controller_state(wire.controller_state(msg, self._names), now_ns)
                self._mend("controller_state")
            except ObservationError as error:
                self._complain("controller_state", str(error))
            return

    def _carry_out(self, command: Command, now_ns: int) -> None:
        """Publish what the guard decided, and say so."""
        status = self._last = command.status
        if status.counters.get("reference", 0) > self._strangers:
            self._name_strangers(status)
        self._acted_ns = now_ns
        if command.trajectory is not None and self._guard.in_time(self._now_ns()):
            self._arm.send(command.trajectory, self._stamp(command))
        if command.gripper is not None:
            self._arm.gripper(command.gripper)
        answered = command.trajectory is not None and status.chunk_age_s == status.chunk_age_s
        said = (status.state, status.reason, status.refusal, self._estop.text(), *self._inputs.values())
        if command.trajectory is None and (said == self._said or (said[:2] == self._said[:2] and self._calm())):
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

    def _name_strangers(self, status: GuardStatus) -> None:
        """The controller runs what this guard did not send: say who could have sent it by action."""
        self._strangers = status.counters["reference"]
        found = self._commands.by_action()
        if found:
            self._complain("follow_joint_trajectory", f"{', '.join(found)} can command the controller by its action")

    def _calm(self) -> bool:
        """Whether what is no change of state was told a moment ago."""
        return time.monotonic() - self._said_s < CALM_S

    def _say(self, status: GuardStatus) -> None:
        self._said_s = time.monotonic()
        level, message = LEVELS.get(status.state, diagnostics.OK), self._message(status)
        name = self.get_fully_qualified_name()
        self._status.publish(diagnostics.status(name, level, message, self._values()))
        self._diagnostics.set(level, message)

    def _message(self, status: GuardStatus) -> str:
        unheard = () if self._estop.publishers else (f"no e-stop: {self._estop.text()}",)
        return "; ".join((status.reason, *self._inputs.values(), *unheard))

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
        self._inputs[topic], self._complained_s[topic] = short(message, MOST_TEXT), time.monotonic()
        self._mended.discard(topic)
        self.get_logger().warning(self._inputs[topic], throttle_duration_sec=SAY_AGAIN_S)

    def _mend(self, topic: str) -> None:
        """A good message came: the complaint ends, but not so fast that it could not be read."""
        if topic in self._inputs:
            self._mended.add(topic)

    def _end_complaints(self) -> None:
        now_s = time.monotonic()
        for topic in [t for t in self._mended if now_s - self._complained_s[t] >= CALM_S]:
            self._mended.discard(topic)
            self._inputs.pop(topic, None)

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
            "estop": self._estop.text(),
            "chunks_from": self._chunk_source.name or "nobody yet",
            "chunks_of_others": self._chunk_source.refused,
            "unreadable": sum(intake.dropped for intake in self._intakes) + self._estop.broken,
            "tick_jitter_p99_ms": self._jitter(),
            **self._guard.controller_known(self._acted_ns),
            **{f"count_{name}": count for name, count in status.counters.items()},
        }

    def _jitter(self) -> float:
        """How late or early ticks were, p99, ms; of a second ago at most: thousands are sorted for it."""
        if self._ticked_s >= self._judged_s + 1.0:
            self._judged_s, late = self._ticked_s, sorted(self._late_ms)
            self._jitter_ms = late[int(0.99 * len(late))] if late else 0.0
        return self._jitter_ms

    def _told(self) -> str:
        """Full name of the node whose chunks are taken; empty: the first that sends."""
        name = str(self.get_parameter("chunks_from").value)
        return name if not name or name.startswith("/") else f"{self.get_namespace().rstrip('/')}/{name}"

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


def lease_s(asked: float) -> float:
    """The lease that was asked for. Raises ConfigError."""
    if asked != 0.0 and not LEASE_S[0] <= asked <= LEASE_S[1]:
        raise ConfigError(f"parameter enable_lease_s: {asked}; valid: 0 (none), or {LEASE_S[0]} to {LEASE_S[1]} s")
    return float(asked)


def main(arguments: list[str] | None = None) -> int:
    """Entry point of `ros2 run ecovla_ros guard`."""
    if not process.ask_for_priority():
        get_logger("guard").info("no real-time priority: ticks may be late while others compute")
    return process.run("guard", GuardNode, arguments)
