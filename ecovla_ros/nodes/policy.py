"""Lifecycle node `policy`: images, joints and instruction in; chunk, latency and pruning out, every frame.

Threads: the executor's thread runs the callbacks, which only put messages into the mailbox. The inference thread,
which lives while the node is active, waits for the mailbox, takes the joint states, decodes, runs the engine and
publishes. Whatever is wrong with the input, it says so and publishes no chunk: the guard lets the arm come to rest.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from rcl_interfaces.msg import ParameterDescriptor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import String

from ecovla_ros import wire
from ecovla_ros.config import Config
from ecovla_ros.errors import EcovlaError, ObservationError, unknown
from ecovla_ros.nodes.ros import diagnostics, freshness, process, qos, settings
from ecovla_ros.nodes.ros.interfaces import ActionChunk, LatencyReport, PruningState
from ecovla_ros.nodes.ros.mailbox import Mailbox
from ecovla_ros.nodes.ros.polling import PolledTopic

SAY_AGAIN_S = 2.0
"""The same kind of complaint is logged at most this often, s."""
STOP_S = 10.0
"""A frame in progress has this long to end when the node is deactivated, s."""


def built(config: Config) -> Any:
    """The engine of the configuration; torch is imported here and not before."""
    from ecovla_ros import build

    return build.engine(config)


class PolicyNode(LifecycleNode):
    """configure: load, validate, warm up. activate: publish. deactivate: stop. cleanup: let the engine go."""

    def __init__(self, engine: Callable[[Config], Any] = built, **options: Any) -> None:
        super().__init__("policy", **options)
        settings.declare(self)
        self.declare_parameter(
            "compressed", False, ParameterDescriptor(description="take CompressedImage from <camera>/image/compressed")
        )
        self._make_engine = engine
        self._engine: Any = None
        self._thread: threading.Thread | None = None
        self._frames = self._missed = 0
        self._instruction, self._new_episode = "", False
        self._mailbox = Mailbox(())
        self._made: list[Any] = []
        self._diagnostics = diagnostics.Diagnostics(self, self._values)
        self._diagnostics.set(diagnostics.OK, "unconfigured")

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Read the configuration and build the engine. What is wrong is logged, and the node stays unconfigured."""
        began = time.perf_counter()
        try:
            self._config = settings.configuration(self)
            self._engine = self._make_engine(self._config)
        except EcovlaError as error:
            self._diagnostics.set(diagnostics.ERROR, f"not configured: {error}")
            self.get_logger().error(f"not configured: {error}")
            return TransitionCallbackReturn.FAILURE
        self._spec = self._engine.policy.spec
        self._open_topics()
        self._diagnostics.set(diagnostics.OK, "inactive")
        self.get_logger().info(f"policy '{self._spec.name}' ready after {time.perf_counter() - began:.1f} s")
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start the inference thread."""
        self._frames = self._missed = 0
        self._mailbox = Mailbox(self._spec.cameras, round(self._config.node.sync_s * 1e9))
        self._since_ns = self._now_ns()
        self._new_episode = True
        result = super().on_activate(state)
        process.keep_loaded()
        self._thread = threading.Thread(target=self._infer, args=(self._mailbox,), name="inference")
        self._thread.start()
        self._diagnostics.set(diagnostics.OK, "waiting for images")
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """End the inference thread after the frame it is in."""
        self._stop()
        self._diagnostics.set(diagnostics.OK, "inactive")
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Close topics and engine."""
        self.close()
        self._diagnostics.set(diagnostics.OK, "unconfigured")
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop whatever runs."""
        self.close()
        return super().on_shutdown(state)

    def close(self) -> None:
        """End the thread, the topics and the engine. May be called twice."""
        self._stop()
        gc.unfreeze()
        for made in self._made:
            made()
        self._made = []
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def _open_topics(self) -> None:
        self._chunks = self._publisher(ActionChunk, "action_chunk", qos.COMMAND)
        self._latency = self._publisher(LatencyReport, "latency", qos.REPORT)
        self._pruning = self._publisher(PruningState, "pruning", qos.REPORT)
        compressed = bool(self.get_parameter("compressed").value)
        kind, ending = (CompressedImage, "image/compressed") if compressed else (Image, "image")
        self._topics = {}
        for camera in self._spec.cameras:
            receive = self._receiver(camera)
            self._topics[camera] = self._subscription(kind, f"{camera}/{ending}", receive, qos.SENSOR)
        self._joints = PolledTopic(self, JointState, "joint_states", qos.STATES)
        self._made.append(self._joints.close)
        self._subscription(String, "instruction", self._on_instruction, qos.LATCHED)

    def _publisher(self, kind: Any, topic: str, profile: Any) -> Any:
        made = self.create_lifecycle_publisher(kind, topic, profile)
        self._made.append(lambda: self.destroy_lifecycle_publisher(made))
        return made

    def _subscription(self, kind: Any, topic: str, callback: Callable[[Any], None], profile: Any) -> str:
        made = self.create_subscription(kind, topic, callback, profile)
        self._made.append(lambda: self.destroy_subscription(made))
        return str(made.topic_name)

    def _receiver(self, camera: str) -> Callable[[Any], None]:
        def receive(msg: Any) -> None:
            if not self._mailbox.put(camera, msg, wire.stamp_ns(msg.header.stamp), self._now_ns()):
                self._new_episode = True
                self.get_logger().warning(f"{camera}: the clock jumped back; history forgotten")

        return receive

    def _on_instruction(self, msg: String) -> None:
        """An instruction starts an episode, also when it is the same as before."""
        self._instruction, self._new_episode = msg.data, True

    def _infer(self, mailbox: Mailbox) -> None:
        """The inference thread."""
        patience = self._config.node.image_age_s / 2
        try:
            while self._thread is threading.current_thread():
                image_messages = mailbox.wait(patience)
                try:
                    if image_messages is None:
                        times_ns = self._since_ns, self._now_ns()
                        age_s = self._config.node.image_age_s
                        freshness.check_silence(mailbox, self._topics, self.count_publishers, times_ns, age_s)
                    else:
                        self._answer(image_messages)
                except (EcovlaError, RuntimeError) as error:  # torch raises RuntimeError
                    self._complain(str(error))
        finally:
            if self._thread is threading.current_thread():  # nobody stopped it: a defect, told before it is raised
                self._diagnostics.set(diagnostics.ERROR, "the inference thread broke; deactivate and activate")

    def _answer(self, image_messages: Mapping[str, Any]) -> None:
        """One frame. Raises ObservationError for input that gives no chunk."""
        began = time.perf_counter()
        if self._new_episode:
            self._new_episode = False
            self._engine.reset(self._config.policy.seed)
        newest = max(wire.stamp_ns(msg.header.stamp) for msg in image_messages.values())
        freshness.check_age(newest, self._now_ns(), self._config.node.image_age_s)
        joints = self._joints.nearest(newest)
        if joints is None:
            raise ObservationError(
                "no message on joint_states yet; valid: sensor_msgs/JointState with the arm's joints"
            )
        seen = wire.observation(image_messages, joints, self._instruction, self._config.node.sync_s)
        if self._spec.instructions and seen.instruction not in self._spec.instructions:
            raise ObservationError(unknown("instruction", seen.instruction, self._spec.instructions))
        decode_ms = 1e3 * (time.perf_counter() - began)
        step = self._engine.step(seen)
        self._publish(step, decode_ms)

    def _publish(self, step: Any, decode_ms: float) -> None:
        report = replace(step.report, stages_ms={**step.report.stages_ms, "decode": decode_ms})
        deadline = self._config.node.deadline_ms
        self._frames += 1
        self._missed += report.total_ms > deadline
        self._chunks.publish(wire.fill_chunk(ActionChunk(), step.chunk))
        age_ms = (self._now_ns() - report.stamp_ns) / 1e6
        latency = wire.fill_latency(LatencyReport(), report, self._frames, self._mailbox.dropped, age_ms, deadline)
        self._latency.publish(latency)
        self._pruning.publish(wire.fill_pruning(PruningState(), report))
        if report.fault:
            self._complain(report.fault)
        else:
            self._diagnostics.set(diagnostics.OK, "running")

    def _complain(self, message: str) -> None:
        self._diagnostics.set(diagnostics.WARN, message)
        self.get_logger().warning(message, throttle_duration_sec=SAY_AGAIN_S)

    def _stop(self) -> None:
        thread, self._thread = self._thread, None
        self._mailbox.close()
        if thread is not None:
            thread.join(STOP_S)

    def _now_ns(self) -> int:
        return int(self.get_clock().now().nanoseconds)

    def _values(self) -> dict[str, object]:
        values: dict[str, object] = {
            "instruction": self._instruction,
            "frames": self._frames,
            "frames_dropped": self._mailbox.dropped,
            "deadlines_missed": self._missed,
        }
        if self._engine is not None:
            prune = self._config.prune
            values |= {"policy": self._spec.name, "method": prune.method, "ratio": prune.ratio}
        return values


def main(arguments: list[str] | None = None) -> int:
    """Entry point of `ros2 run ecovla_ros policy`."""
    return process.run("policy", PolicyNode, arguments)
