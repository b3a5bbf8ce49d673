"""Lifecycle node `policy`: images, joints and instruction in; chunk, latency and pruning out, every frame.

Threads: the executor's thread runs the callbacks, which only put messages into the mailbox. The inference thread,
which lives while the node is active, waits for the mailbox, takes the joint states, decodes, runs the engine and
publishes. Messages are bytes until then, so that nothing that comes in can break the executor. Whatever is wrong with
the input, it says so and publishes no chunk: the guard lets the arm come to rest, and the next frame is answered.
"""

from __future__ import annotations

import gc
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String
from std_srvs.srv import Trigger

from ecovla_ros import wire
from ecovla_ros.config import Config
from ecovla_ros.errors import EcovlaError, ObservationError, short, unknown
from ecovla_ros.nodes.ros import diagnostics, freshness, process, qos, settings
from ecovla_ros.nodes.ros.arm_states import STATE_BYTES, ArmStates
from ecovla_ros.nodes.ros.intake import Intake, informed, peers, sender
from ecovla_ros.nodes.ros.interfaces import ActionChunk, LatencyReport, PruningState
from ecovla_ros.nodes.ros.mailbox import Mailbox
from ecovla_ros.wire import causes

SECTIONS = ("policy", "prune", "node", "arm")
PARAMETERS = (
    ("compressed", False, "take CompressedImage from <camera>/image/compressed"),
    ("gripper", "", "none: an arm without a gripper, as arm.gripper_joint=none"),
)
LAST, LEAST = 20, 10
"""Frames over which missed deadlines are judged, and the fewest that say something."""
SAY_AGAIN_S = 2.0
"""The same kind of complaint is logged at most this often, s."""
SAY_TRACE_S = 60.0
"""Where a frame broke is logged at most this often, s."""
PIXEL_BYTES = 8
"""Of the largest encoding, rgba16."""
TEXT_BYTES = 2**14
"""Longest instruction that is read, bytes."""
STATES_KEPT = 512
"""Joint states of the last half second at 1 kHz."""
LOOK_S = 1.0
"""Time between two looks at who else publishes pictures, s."""
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
        self._settings = settings.Settings(self, *SECTIONS, more=PARAMETERS, idle=lambda: self._engine is None)
        self._make_engine = engine
        self._engine: Any = None
        self._thread: threading.Thread | None = None
        self._frames = self._missed = self._cold_frames = 0
        self._late: deque[bool] = deque(maxlen=LAST)
        self._instruction, self._new_episode = "", False
        self._mailbox = Mailbox(())
        self._still, self._crowd = wire.Stillness(), ""
        self._made: list[Any] = []
        self.create_service(Trigger, "~/reset", self._on_reset)
        self._diagnostics = diagnostics.Diagnostics(self, self._values)
        self._diagnostics.set(diagnostics.OK, "unconfigured")

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Read the configuration and build the engine. What is wrong is logged, and the node stays unconfigured."""
        began = time.perf_counter()
        try:
            self._config = self._settings.read()
            self._engine = self._make_engine(self._config)
        except EcovlaError as error:
            self._diagnostics.set(diagnostics.ERROR, f"not configured: {error}")
            self.get_logger().error(f"not configured: {error}")
            return TransitionCallbackReturn.FAILURE
        self._spec = self._engine.policy.spec
        self._instruction = self._instruction or self._config.node.instruction
        self._open_topics()
        self._diagnostics.set(diagnostics.OK, "inactive")
        self.get_logger().info(f"policy '{self._spec.name}' ready after {time.perf_counter() - began:.1f} s")
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start the inference thread."""
        self._frames = self._missed = self._cold_frames = 0
        self._late.clear()
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
        compressed = bool(self._settings["compressed"])
        kind, ending = (CompressedImage, "image/compressed") if compressed else (Image, "image")
        self._topics, self._intakes = {}, {}
        for camera in self._spec.cameras:
            topic, receive = f"{camera}/{ending}", self._receiver(camera)
            self._intakes[camera] = Intake(self, kind, topic, PIXEL_BYTES * self._config.node.image_px + STATE_BYTES)
            self._topics[camera] = self._subscription(kind, topic, receive, qos.SENSOR)
        read = {camera: (topic, f"topic of the pictures of {camera}") for camera, topic in self._topics.items()}
        self._settings.show("topics", read)
        joints, age_s = settings.joints(self._settings, self._config), self._config.arm.part_age_s
        self._joints = ArmStates(self, joints, age_s, qos.STATES, STATES_KEPT)
        self._made.append(self._joints.close)
        self._texts = Intake(self, String, "instruction", TEXT_BYTES)
        looks = self.create_timer(LOOK_S, self._look_around, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self._made.append(lambda: self.destroy_timer(looks))
        for profile in (qos.LATCHED, qos.SENSOR):  # the last of a latched publisher, and whatever others send
            self._subscription(String, "instruction", self._on_instruction, profile)

    def _look_around(self) -> None:
        """Ask the graph, once a second, who else publishes pictures."""
        crowds = {topic: sorted(peer.name or "?" for peer in peers(self, topic)) for topic in self._topics.values()}
        self._crowd = next((causes.crowded(topic, who) for topic, who in crowds.items() if len(who) > 1), "")

    def _publisher(self, kind: Any, topic: str, profile: Any) -> Any:
        made = self.create_lifecycle_publisher(kind, topic, profile)
        self._made.append(lambda: self.destroy_lifecycle_publisher(made))
        return made

    def _subscription(self, kind: Any, topic: str, callback: Callable[[bytes, Any], None], profile: Any) -> str:
        made = self.create_subscription(kind, topic, informed(callback), profile, raw=True)
        self._made.append(lambda: self.destroy_subscription(made))
        return str(made.topic_name)

    def _receiver(self, camera: str) -> Callable[[bytes, Any], None]:
        def receive(raw: bytes, info: Any) -> None:
            gid, now_ns = sender(info), self._now_ns()
            try:
                stamp_ns = wire.raw_stamp_ns(raw)
                freshness.check_age(stamp_ns, now_ns, self._config.node.image_age_s)
            except ObservationError as error:  # it must not decide which of the sound ones are late
                self._intakes[camera].drop(gid, short(error))
                self._complain(f"{camera}: {error}")
                return
            if not self._mailbox.put(camera, (raw, gid), stamp_ns, now_ns):
                self._new_episode = True
                self.get_logger().warning(f"{camera}: the clock jumped back; history forgotten")

        return receive

    def _on_instruction(self, raw: bytes, info: Any) -> None:
        """Other words start an episode. The same words again (`ros2 topic pub` repeats them) change nothing."""
        msg = self._texts.read(raw, sender(info))
        if msg is None:
            self._complain(self._texts.complaint)
        elif msg.data != self._instruction:
            self._instruction, self._new_episode = msg.data, True

    def _on_reset(self, request: Any, response: Any) -> Any:
        """A new episode with the same words."""
        del request
        self._new_episode = True
        response.success, response.message = True, "the next frame begins an episode"
        return response

    def on_broken(self, what: str, error: Exception) -> None:
        """A callback raised what nobody expects: said, and the next message is taken."""
        self._complain(f"a message on {what} broke the policy ({type(error).__name__}: {short(error)})")

    def _infer(self, mailbox: Mailbox) -> None:
        """The inference thread. Nothing that a frame raises ends it, but the life of the node."""
        patience = self._config.node.image_age_s / 2
        while self._thread is threading.current_thread():
            image_messages = mailbox.wait(patience)
            try:
                if image_messages is None:
                    times_ns = self._since_ns, self._now_ns()
                    age_s = self._config.node.image_age_s
                    freshness.check_silence(mailbox, self._topics, self.count_publishers, times_ns, age_s)
                else:
                    self._answer(self._read(image_messages))
            except (EcovlaError, RuntimeError) as error:  # torch raises RuntimeError
                self._complain(str(error))
            except Exception as error:  # a defect: told with its place, and the next frame is answered
                self._complain(f"a frame broke: {type(error).__name__}: {short(error)}", diagnostics.ERROR)
                self.get_logger().error("".join(traceback.format_exception(error)), throttle_duration_sec=SAY_TRACE_S)

    def _read(self, image_messages: Mapping[str, tuple[bytes, bytes]]) -> dict[str, Any]:
        """The messages of one frame. Raises ObservationError for bytes that are none."""
        read = {}
        for camera, (raw, gid) in image_messages.items():
            read[camera] = self._intakes[camera].read(raw, gid)
            if read[camera] is None:
                raise ObservationError(self._intakes[camera].complaint)
        return read

    def _answer(self, image_messages: Mapping[str, Any]) -> None:
        """One frame. Raises ObservationError for input that gives no chunk."""
        began = time.perf_counter()
        if self._new_episode:
            self._new_episode = False
            self._still.clear()
            self._engine.reset(self._config.policy.seed)
        newest = max(wire.stamp_ns(msg.header.stamp) for msg in image_messages.values())
        freshness.check_age(newest, self._now_ns(), self._config.node.image_age_s)
        state = self._joints.nearest(newest)
        self._still.check(image_messages, state.joints)
        seen = wire.observation(
            image_messages, state, self._instruction, self._config.node.sync_s, self._config.node.image_px
        )
        if self._spec.instructions and seen.instruction not in self._spec.instructions:
            raise ObservationError(unknown("instruction", seen.instruction, self._spec.instructions))
        decode_ms = 1e3 * (time.perf_counter() - began)
        step = self._engine.step(seen, rest=False)
        self._publish(step, decode_ms)
        self._engine.rest()

    def _publish(self, step: Any, decode_ms: float) -> None:
        report = replace(step.report, stages_ms={**step.report.stages_ms, "decode": decode_ms})
        deadline = self._config.node.deadline_ms
        self._frames += 1
        self._cold_frames = report.cold_frames
        self._missed += report.total_ms > deadline
        self._late.append(report.total_ms > deadline)
        self._chunks.publish(wire.fill_chunk(ActionChunk(), step.chunk))
        age_ms = (self._now_ns() - report.stamp_ns) / 1e6
        latency = wire.fill_latency(LatencyReport(), report, self._frames, self._mailbox.dropped, age_ms, deadline)
        self._latency.publish(latency)
        self._pruning.publish(wire.fill_pruning(PruningState(), report))
        if report.fault:
            self._complain(report.fault)
        else:
            self._diagnostics.set(*self._pace(deadline))

    def _pace(self, deadline_ms: float) -> tuple[bytes, str]:
        """Level and message of a policy that runs: a warning when most of the last calls missed their deadline, or when
        several publishers take turns on the topic of a camera."""
        if self._crowd:
            return diagnostics.WARN, f"running; {self._crowd}"
        if self._cold_frames:
            left = f"{self._cold_frames} frames to the first pattern"
            return diagnostics.OK, f"running dense: no calibration, {left}"
        if len(self._late) < LEAST or 2 * sum(self._late) <= len(self._late):
            return diagnostics.OK, "running"
        return diagnostics.WARN, (
            f"running; most of the last {len(self._late)} policy calls took longer than {deadline_ms:.0f} ms"
        )

    def _complain(self, message: str, level: bytes = diagnostics.WARN) -> None:
        said = short(message, diagnostics.MOST_TEXT)
        self._diagnostics.set(level, said)
        self.get_logger().warning(said, throttle_duration_sec=SAY_AGAIN_S)

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
        if self._made:
            intakes = (*self._intakes.values(), self._joints.intake, self._texts)
            values["unreadable"] = sum(intake.dropped for intake in intakes)
        if self._engine is not None:
            prune = self._config.prune
            values |= {"policy": self._spec.name, "method": prune.method, "ratio": prune.ratio}
            values["dense_frames_to_first_pattern"] = self._cold_frames
        return values


def main(arguments: list[str] | None = None) -> int:
    """Entry point of `ros2 run ecovla_ros policy`."""
    return process.run("policy", PolicyNode, arguments)
