"""`ecovla doctor` checks the running system before any motion. It listens for some seconds and moves nothing.

It prints one line for each check: ok, a warning (it works, but look at it) or a fault (do not move). What it cannot
see it calls unseen.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from ecovla_ros import documents, wire
from ecovla_ros.config import Config
from ecovla_ros.control import limits
from ecovla_ros.errors import EcovlaError
from ecovla_ros.nodes.ros import cdr_bounds, freshness, qos, settings
from ecovla_ros.nodes.ros.intake import deserialized
from ecovla_ros.nodes.ros.interfaces import ActionChunk, LatencyReport
from ecovla_ros.nodes.ros.process import start_ros
from ecovla_ros.stage import controllers
from ecovla_ros.stage.running import Running, ask
from ecovla_ros.stage.topics import FAULT, OK, WARNING, ExpectedTopic, Finding, TopicTraffic
from ecovla_ros.wire import causes

CONTROLLER = "joint_trajectory"
"""The guard's own name of its command topic."""
UNTOLD = "joint_trajectory_controller/joint_trajectory"
"""Where a guard that does not say it is taken to send its commands."""
CLOCK_S = 0.05
"""Stamps of joint states that lie further from this clock mean that two machines do not agree, s."""
ACTION_DIMS = (7, 8)
"""Joint targets with or without the gripper; delta poses with the gripper."""


class Doctor(Node):
    """Subscribes to everything that the policy and the guard read and write."""

    def __init__(self, loaded: Config, running: Running | None = None, **options: Any) -> None:
        """Start to listen, to the topics that remappings of this node or the nodes of `running` name."""
        super().__init__("doctor", **options)
        self._config, self._running = loaded, running or Running()
        compressed = bool(self._running.policy.get("compressed"))
        pictures, ending = (CompressedImage, "image/compressed") if compressed else (Image, "image")
        self.spec, self._spec_fault = _spec(loaded)
        self._cameras = tuple(self.spec.get("cameras", {})) or ("third_person", "wrist")
        self.topics = [
            *(ExpectedTopic(f"{camera}/{ending}", pictures, qos.SENSOR, True) for camera in self._cameras),
            ExpectedTopic("joint_states", JointState, qos.SENSOR, True),
            ExpectedTopic("instruction", String, qos.LATCHED, True),
            ExpectedTopic("action_chunk", ActionChunk, qos.COMMAND, True),
            ExpectedTopic("latency", LatencyReport, qos.REPORT, True),
            ExpectedTopic("status", DiagnosticStatus, qos.LATCHED, True),
            ExpectedTopic(CONTROLLER, JointTrajectory, qos.COMMAND, False),
        ]
        self._pictures_of = {camera: f"{camera}/{ending}" for camera in self._cameras}
        self.heard = {topic.name: TopicTraffic() for topic in self.topics if topic.written}
        for topic in self.topics:
            if topic.written:
                self.create_subscription(topic.kind, self.place(topic.name), self._listener(topic.name), topic.profile)
        self._states = wire.JointStates(
            lambda raw: deserialized(raw, JointState), loaded.arm.joints, loaded.arm.part_age_s
        )
        self._malformed = ""
        self._clocks: dict[str, bool] = {}
        self._span: list[tuple[float, float]] = []
        self._still, self._frozen = wire.Stillness(), dict[str, str]()
        self.create_subscription(JointState, self.place("joint_states"), self._on_joint_states, qos.SHARED, raw=True)

    def place(self, name: str) -> str:
        """The full name of a topic of ours: by our remappings, else as the node that uses it says, else by its name."""
        ours = self.resolve_topic_name(name)
        if ours != self.resolve_topic_name(name, only_expand=True):
            return ours
        untold = self.resolve_topic_name(UNTOLD) if name == CONTROLLER else ours
        return self._running.topic(name) or untold

    def ask_controllers(self, executor: SingleThreadedExecutor) -> None:
        """Which clock the controllers go by. Spins the executor, which has this node."""
        self._clocks = controllers.clocks(self, executor, self.place(CONTROLLER))

    def _on_joint_states(self, raw: bytes) -> None:
        try:
            self._states.put(raw)
        except EcovlaError as error:
            self._malformed = str(error)

    def _listener(self, topic: str) -> Callable[[Any], None]:
        def hear(msg: Any) -> None:
            camera = next((c for c, name in self._pictures_of.items() if name == topic), "")
            if camera:
                self._look(camera, msg)
            if topic != "joint_states" or set(msg.name) & set(self._config.arm.joints.arm):  # others publish there too
                now_ns = int(self.get_clock().now().nanoseconds)
                steady_s = time.monotonic()
                self._span.append((steady_s, now_ns / 1e9))
                self.heard[topic].hear(msg, now_ns, now_ns / 1e9 if self._running.simulated_time else steady_s)

        return hear

    def _look(self, camera: str, msg: Any) -> None:
        """Whether a camera shows the same picture while the arm is moved by hand or by somebody else."""
        last = self.heard["joint_states"].last
        try:
            joints = wire.arm_state(last, joints=self._config.arm.joints).joints if last is not None else None
        except EcovlaError:  # said among the joints' findings
            return
        if joints is not None and (why := self._still.look(camera, msg.data, joints)):
            self._frozen[camera] = why

    def findings(self) -> list[Finding]:
        """What was found. Call it after some seconds of spinning."""
        parts = (self._topics, self._pictures, self._together, self._joints, self._stamps, self._checkpoint,
                 self._device, self._pace, self._guard, self._estop, self._owners, self._middleware)  # fmt: skip
        return [finding for part in parts for finding in part()]

    def _topics(self) -> Iterator[Finding]:
        """Every topic is there, with its type, and with a quality of service that lets messages through."""
        for name in self._running.silent:
            text = "it runs and does not say its parameters: its topics are taken to have their own names; try again"
            yield Finding(WARNING, f"node {name}", text)
        for topic in self.topics:
            name = self.place(topic.name)
            if not topic.written:
                yield from controllers.findings(self, name, topic)
                if (
                    self._running.guard and self._config.control.stamp_commands == "always"
                ):  # else it stamps as it finds
                    yield from controllers.other_clocks(self._clocks, self._running.simulated_time)
                continue
            ends = [end for end in self.get_publishers_info_by_topic(name) if end.node_name != "doctor"]
            packed = f"{name}{freshness.PACKED}"
            if not ends and topic.kind is Image and self.count_publishers(packed):
                yield Finding(FAULT, name, causes.packed(name, packed))
                continue
            if not ends:
                why = {"instruction": "no instruction yet: the policy waits for one",
                       "action_chunk": "no publisher: is the policy configured?"}  # fmt: skip
                level = WARNING if topic.name in ("instruction", "latency") else FAULT
                yield Finding(
                    level,
                    name,
                    why.get(topic.name, "no publisher; valid: remap yours to this name, or tell me: --ros-args -r"),
                )
                continue
            wrong = sorted({end.topic_type for end in ends} - {topic.type_name})
            deaf = [reason for end in ends if (reason := topic.deaf(end.qos_profile))]
            if wrong:
                yield Finding(FAULT, name, f"type {', '.join(wrong)}; valid: {topic.type_name}")
            elif deaf:
                yield Finding(FAULT, name, f"quality of service does not match: {deaf[0]}")
            elif len(ends) > 1 and topic.name in self._pictures_of.values():
                who = [f"{e.node_namespace.rstrip('/')}/{e.node_name}" for e in ends]
                yield Finding(WARNING, name, causes.crowded(name, who))
            elif len(ends) > 1 and topic.name != "instruction":
                yield Finding(WARNING, name, f"{len(ends)} publishers: {', '.join(sorted(e.node_name for e in ends))}")
            else:
                yield Finding(OK, name, f"{topic.type_name}, publisher {ends[0].node_name}")

    def _pictures(self) -> Iterator[Finding]:
        """Pictures come often enough, are decodable, and are of now."""
        most_s = self._config.node.image_age_s
        for camera in self._cameras:
            heard, check = self.heard[self._pictures_of[camera]], f"{camera} pictures"
            if heard.last is None:
                yield Finding(FAULT, check, "none came")
                continue
            age_s = float(np.median(heard.ages_s))
            try:
                size = wire.decode_image(heard.last, camera).shape[:2]
            except EcovlaError as error:
                yield Finding(FAULT, check, str(error))
                continue
            text = f"{heard.rate_hz:.1f} Hz, {size[1]} x {size[0]} px, {1e3 * age_s:.0f} ms old"
            if why := self._frozen.get(camera, ""):
                yield Finding(FAULT, check, f"{text}; {why}")
            elif wire.stamp_ns(heard.last.header.stamp) == 0:
                yield Finding(FAULT, check, causes.unstamped("the newest image"))
            elif age_s > most_s:
                yield Finding(FAULT, check, f"{text}; {causes.old(age_s, most_s)}")
            elif age_s < -CLOCK_S:
                yield Finding(FAULT, check, f"{text}; {causes.future('the newest image', -age_s)}")
            else:
                rare = heard.longest_s > most_s
                hint = f"; none for {heard.longest_s:.2f} s; valid: one every {most_s:.2f} s" if rare else ""
                yield Finding(FAULT if rare else OK, check, text + hint)

    def _together(self) -> Iterator[Finding]:
        """The cameras' stamps come near each other."""
        ages = {c: self.heard[name].ages_s for c, name in self._pictures_of.items()}
        middle = {camera: float(np.median(age)) for camera, age in ages.items() if age}
        if len(middle) < 2:
            return
        newest, most_s = min(middle.values()), self._config.node.sync_s
        for camera, age_s in middle.items():
            if age_s - newest > most_s:
                yield Finding(FAULT, "cameras", causes.apart(camera, age_s - newest, most_s))

    def _joints(self) -> Iterator[Finding]:
        """Joint states come often enough, name the arm's joints, and the arm stands within its limits."""
        heard, most_s = self.heard["joint_states"], self._config.control.joint_state_age_s
        try:
            state = self._states.newest() or self._states.nearest(0)
        except EcovlaError as error:
            yield Finding(FAULT, "joint states", self._malformed or str(error))
            return
        if self._states.passed_over:
            others = f"not this arm's, passed over: {', '.join(self._states.others)}"
            yield Finding(OK, "other joints", others)
        slow = heard.longest_s > most_s
        text = f"{heard.rate_hz:.0f} Hz, longest silence {1e3 * heard.longest_s:.0f} ms"
        yield Finding(FAULT if slow else OK, "joint states", text + (f"; valid: {1e3 * most_s:.0f} ms" if slow else ""))
        within, names = limits.load(self._config.control.profile), self._config.arm.joints.arm
        out = [
            f"{name} at {at:.2f} rad" for name, at, low, high in zip(names, state.joints, within.lower, within.upper)
            if not low <= at <= high
        ]  # fmt: skip
        far = int(np.abs(state.joints).argmax())
        if abs(state.joints[far]) > wire.MOST_RAD:
            yield Finding(FAULT, "joint ranges", causes.degrees(names[far], float(state.joints[far])))
            return
        text = f"{', '.join(out)}, outside limits" if out else "within limits"
        yield Finding(FAULT if out else OK, "joint ranges", text)

    def _stamps(self) -> Iterator[Finding]:
        """The arm's machine and this one have one clock."""
        ages = self.heard["joint_states"].ages_s
        if not ages:
            yield Finding(WARNING, "clock", "unseen: no joint states")
            return
        offset_s = float(np.median(ages))
        apart = abs(offset_s) > CLOCK_S
        hint = "; valid: one clock (chrony, or use_sim_time on all)" if apart else ""
        yield Finding(FAULT if apart else OK, "clock", f"joint states are stamped {1e3 * offset_s:+.1f} ms ago{hint}")

    def _checkpoint(self) -> Iterator[Finding]:
        """The checkpoint is there, and fits cameras and action space."""
        if self._spec_fault:
            yield Finding(FAULT, "checkpoint", self._spec_fault)
            return
        size, horizon = int(self.spec["action_dim"]), int(self.spec["horizon"]) * float(self.spec["period_s"])
        text = f"{self.spec['name']}: cameras {', '.join(self._cameras)}; {size} numbers, {horizon:.1f} s a chunk"
        if size not in ACTION_DIMS:
            yield Finding(FAULT, "checkpoint", f"{text}; valid: {ACTION_DIMS} numbers for seven joints and a gripper")
        else:
            yield Finding(OK, "checkpoint", text)

    def _device(self) -> Iterator[Finding]:
        """Where the model will run."""
        from ecovla_ros import build

        try:
            device = build.device_of(self._config.policy)
        except EcovlaError as error:
            yield Finding(FAULT, "device", str(error))
            return
        gpu = device.type == "cuda"
        yield Finding(OK if gpu else WARNING, "device", "cuda" if gpu else "cpu: no GPU, or not asked for")

    def _pace(self) -> Iterator[Finding]:
        """The policy keeps its deadline, and the guard's patience is longer than its period."""
        heard, patience_s = self.heard["action_chunk"], self._config.control.chunk_silence_s
        latency = self.heard["latency"].last
        if heard.last is None or latency is None:
            yield Finding(WARNING, "deadline", "unseen: no chunk came (is the policy active?)")
            return
        slow = heard.longest_s > patience_s
        text = f"a chunk every {1e3 * (1.0 / heard.rate_hz if heard.rate_hz else math.inf):.0f} ms"
        hint = f"; the guard stops after {1e3 * patience_s:.0f} ms (control.chunk_silence_s)" if slow else ""
        yield Finding(FAULT if slow else OK, "chunks", text + hint)
        allowed_ms = latency.deadline_ms / self._simulated_share()
        missed = latency.policy_ms > allowed_ms
        text = f"policy call {latency.policy_ms:.0f} ms of {allowed_ms:.0f} ms"
        yield Finding(FAULT if missed else OK, "deadline", text + ("; not feasible on this machine" if missed else ""))

    def _simulated_share(self) -> float:
        """Seconds by the nodes' clock in one of ours: 1 unless they follow a simulator that is slow, or fast."""
        if not self._running.simulated_time or len(self._span) < 2:
            return 1.0
        (began_s, first_s), (ended_s, last_s) = self._span[0], self._span[-1]
        return max((last_s - first_s) / (ended_s - began_s), 1e-3) if ended_s > began_s else 1.0

    def _guard(self) -> Iterator[Finding]:
        """The guard is there and not latched."""
        said = self.heard["status"].last
        if said is None:
            yield Finding(FAULT, "guard", "says nothing: is it running?")
            return
        values = {pair.key: pair.value for pair in said.values}
        state = values.get("state", "")
        level = FAULT if state == "LATCHED" else WARNING if state not in ("DISARMED", "") else OK
        yield Finding(level, "guard", f"{state}: {said.message}")
        yield from controllers.guarded(values)

    def _estop(self) -> Iterator[Finding]:
        """Somebody can stop the arm by message, and can be heard."""
        name = self.place("estop")
        ends = self.get_publishers_info_by_topic(name)
        wrong = sorted({end.topic_type for end in ends} - {"std_msgs/msg/Bool"})
        beat_s = self._config.control.estop_timeout_s
        if wrong:
            yield Finding(FAULT, "e-stop", f"{name}: type {', '.join(wrong)} is not heard; valid: std_msgs/msg/Bool")
        elif not ends:
            text = f"nobody publishes {name}: only the arm's own button stops it"
            yield Finding(FAULT if beat_s else WARNING, "e-stop", text)
        else:
            beat = f"a heartbeat every {beat_s} s" if beat_s else "no heartbeat (control.estop_timeout_s is 0)"
            yield Finding(OK, "e-stop", f"{name} by {', '.join(sorted(e.node_name for e in ends))}; {beat}")

    def _owners(self) -> Iterator[Finding]:
        """Nobody but the guard can command the controller's topic."""
        name = self.place(CONTROLLER)
        ends = self.get_publishers_info_by_topic(name)
        if len(ends) > 1:
            text = f"{', '.join(sorted(e.node_name for e in ends))} publish to {name}; valid: the guard alone"
            yield Finding(FAULT, "owner", text)

    def _middleware(self) -> Iterator[Finding]:
        """Of this installation, which is that of the nodes on this machine."""
        text = cdr_bounds.fault()
        yield Finding(WARNING if text else OK, "middleware", text or "its reader keeps within messages")


def main(config_name: str, overrides: list[str], seconds: float, arguments: Sequence[str] = ()) -> int:
    """Listen, print a line a finding, and return 1 when one is a fault. `arguments`: remappings for ROS.

    Without `config_name` the configuration is the one that the running nodes read. Raises ConfigError.
    """
    if config_name:
        settings.load(config_name, overrides)  # what is wrong with it is said before anything is waited for
    start_ros(list(arguments))
    executor = SingleThreadedExecutor()
    asking = rclpy.create_node("doctor_asks")
    executor.add_node(asking)
    running = ask(asking, executor)
    executor.remove_node(asking)
    asking.destroy_node()
    told, keys = running.config
    name = config_name or told or settings.DEFAULT_FILE
    loaded = settings.load(name, overrides if config_name else [*keys, *overrides])
    print(f"configuration {name}" + ("" if config_name or not told else ", as the running nodes say"))
    doctor = Doctor(loaded, running, parameter_overrides=followed(running))
    executor.add_node(doctor)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        executor.spin_once(timeout_sec=0.05)
    doctor.ask_controllers(executor)
    found = doctor.findings()
    executor.shutdown()
    doctor.destroy_node()
    rclpy.try_shutdown()
    for finding in found:
        print(finding)
    faults = sum(finding.level == FAULT for finding in found)
    print(f"{faults} faults: do not move" if faults else "no fault found; the arm and its cell are yours to check")
    return int(faults > 0)


def followed(running: Running) -> list[Parameter]:
    """What makes a node follow the clock that the running nodes follow."""
    return [Parameter("use_sim_time", value=True)] if running.simulated_time else []


def _spec(loaded: Config) -> tuple[Mapping[str, Any], str]:
    """What the checkpoint says of itself, and why it cannot be read."""
    from ecovla_ros import build

    try:
        path = Path(build.checkpoint_of(loaded.policy)) / "config.json"
        return documents.read_json(path)["spec"], ""
    except EcovlaError as error:
        return {}, str(error)
    except (OSError, ValueError, KeyError) as error:
        return {}, f"{path} does not say what the policy is: {error}"
