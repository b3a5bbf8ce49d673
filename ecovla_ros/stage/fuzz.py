"""`ecovla fuzz` sends hostile messages to the real nodes, and counts what ends, grows or falls silent.

Each subscribed topic of guard and policy gets broken messages from the very publisher that it trusts, since what others
send is not even read; between batches the same publisher sends a good message, which must be answered. The e-stop is
pressed while its topic and the joint states are flooded. Nothing here is simulated but the arm, which stands still.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.executors import SingleThreadedExecutor
from rclpy.serialization import serialize_message
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import Bool, String
from std_srvs.srv import SetBool, Trigger

from ecovla_ros import wire
from ecovla_ros.errors import EcovlaError
from ecovla_ros.nodes.ros import qos
from ecovla_ros.nodes.ros.interfaces import ActionChunk as ChunkMessage
from ecovla_ros.nodes.ros.process import start_ros
from ecovla_ros.stage import children, hostile
from ecovla_ros.stage.children import Child
from ecovla_ros.types import ActionChunk, ArmState

BATCH = 500
"""Hostile messages between two good ones."""
PACE = {
    "joint_states": (8, 0.011), "action_chunk": (20, 0.045), "estop": (50, 0.011), "arm_fault": (20, 0.011),
    "/clock": (1, 0.0015), "third_person": (1, 0.0015), "instruction": (1, 0.0015), "policy joint_states": (128, 0.0),
}  # fmt: skip
"""Topic -> messages at once, and the pause behind them, s: as many as the node keeps until it looks, so that most are
read; faster, and they would only push each other out."""
WARM = 0.1
"""Share of the messages after which memory is first read."""
ANSWER_S = 10.0
"""A good message must be answered within this time; the machine computes other things meanwhile, s."""
PRESSED_S = 1.0
"""A press must latch the guard within this time, s."""
MEMORY_MB = 5.0
"""Resident memory may grow by so much."""
START_RAD = 0.1
ANYWHERE = ("control.box_lower=[-2, -2, -2]", "control.box_upper=[2, 2, 2]", "control.joint_state_age_s=1.0")
Row = dict[str, Any]
Here = TypeVar("Here", bound="Range")


@dataclass
class Tally:
    """What became of one topic's messages."""

    sent: int = 0
    ends: int = 0
    good: int = 0
    answered: int = 0
    slowest_s: float = 0.0
    kinds: Counter[str] = field(default_factory=Counter)


class Range:
    """A node as a process, and this process's node that shoots at it. A context manager."""

    def __init__(self, name: str, out: Path, overrides: Sequence[str], **parameters: Any) -> None:
        out.mkdir(parents=True, exist_ok=True)
        domain = children.free_domain()
        surroundings = children.environment(domain, out)
        os.environ.update({k: v for k, v in surroundings.items() if k.startswith(("ROS_", "FASTDDS_", "AMENT_"))})
        self.child = Child(name, {"overrides": list(overrides), **parameters}, surroundings, out / f"{name}.log")
        start_ros([])
        self.node = rclpy.create_node("range")
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)

    def __enter__(self: Here) -> Here:
        return self

    def __exit__(self, *_: object) -> None:
        self.child.stop()
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.try_shutdown()

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        try:
            self.child.check()
        except EcovlaError:
            return False
        return True

    def memory_mb(self) -> float:
        """Resident memory of the process, MB."""
        text = Path(f"/proc/{self.child.pid}/status").read_text(encoding="ascii")
        return float(text.partition("VmRSS:")[2].split()[0]) / 1000.0

    def now_ns(self) -> int:
        """Time of the node's clock, ns."""
        return int(self.node.get_clock().now().nanoseconds)

    def spin(self, seconds: float = 0.0) -> None:
        """Let messages come."""
        end = time.monotonic() + seconds
        self._executor.spin_once(timeout_sec=0.0)
        while (left_s := end - time.monotonic()) > 0.0:
            self._executor.spin_once(timeout_sec=min(left_s, 0.01))

    def until(self, there: Callable[[], Any], seconds: float = ANSWER_S) -> bool:
        """Spin until it is there. Returns whether it came."""
        end = time.monotonic() + seconds
        while not there():
            if time.monotonic() > end or not self.alive:
                return False
            self._executor.spin_once(timeout_sec=0.005)
        return True

    def call(self, kind: Any, name: str, request: Any, seconds: float = ANSWER_S) -> Any:
        """The answer of a service; None when none came."""
        client: Any = self.node.create_client(kind, name)
        try:
            if not self.until(client.service_is_ready, seconds):
                return None
            future = client.call_async(request)
            return future.result() if self.until(future.done, seconds) else None
        finally:
            self.node.destroy_client(client)


class Target(Range):
    """What a node that is shot at has to have."""

    publishers: dict[str, Any]
    unreadable = 0
    """Messages of which the node has said that it could not read them."""

    def sound(self, topic: str) -> Any:
        """A good message of a topic."""
        raise NotImplementedError


class GuardRange(Target):
    """The guard, an arm that stands still, and a policy that wants to stay."""

    def __init__(self, out: Path, more: Sequence[str] = (), **parameters: Any) -> None:
        """`more`: overrides of the configuration."""
        super().__init__("guard", out, (*ANYWHERE, *more), config="mini_sim.yaml", gripper="none", **parameters)
        create = self.node.create_publisher
        self.publishers = {
            "joint_states": create(JointState, "joint_states", qos.COMMAND),
            "action_chunk": create(ChunkMessage, "action_chunk", qos.COMMAND),
            "estop": create(Bool, "estop", qos.COMMAND),
            "arm_fault": create(String, "arm_fault", qos.LATCHED),
            "/clock": create(Clock, "/clock", qos.COMMAND),
        }
        self.values: dict[str, str] = {}
        self.node.create_subscription(DiagnosticStatus, "status", self._on_status, qos.LATCHED)
        self.node.create_timer(0.02, self.talk)
        if not self.until(lambda: self.values, 30.0):
            raise EcovlaError(f"the guard did not start:\n{self.child.last_words()}")
        self.until(lambda: all(self.publishers[t].get_subscription_count() for t in ("joint_states", "action_chunk")))

    def _on_status(self, msg: DiagnosticStatus) -> None:
        self.values = {pair.key: pair.value for pair in msg.values} | {"message": msg.message}
        self.unreadable = int(self.values.get("unreadable", 0))

    def talk(self) -> None:
        """The arm says that it stands."""
        self.publishers["joint_states"].publish(self.state())

    def state(self) -> JointState:
        """Where the arm is."""
        still = ArmState(0, np.full(7, START_RAD), np.zeros(7), 0.5)
        return wire.fill_joint_state(JointState(), still, self.now_ns())

    def chunk(self) -> ChunkMessage:
        """Stay."""
        rows = np.full((8, 7), START_RAD)
        return wire.fill_chunk(ChunkMessage(), ActionChunk(self.now_ns() - 10_000_000, 0.1, rows, np.zeros(8)))

    def sound(self, topic: str) -> Any:
        """A good message of a topic."""
        if topic == "/clock":
            clock = Clock()
            wire.set_stamp(clock.clock, time.time_ns())
            return clock
        made = {"joint_states": self.state, "action_chunk": self.chunk, "estop": Bool, "arm_fault": String}
        return made[topic]()

    def good(self) -> bool:
        """Reset and enable, and have a chunk answered."""
        for name in ("estop", "arm_fault"):
            self.publishers[name].publish(self.sound(name))
        end = time.monotonic() + ANSWER_S
        while time.monotonic() < end and self.alive:
            self.call(Trigger, "guard/reset", Trigger.Request())
            self.spin(0.1)
            enabled = self.call(SetBool, "guard/enable", SetBool.Request(data=True))
            if enabled is not None and enabled.success:
                break
        else:
            return False
        before = int(self.values.get("chunks_answered", 0))
        while time.monotonic() < end:
            self.publishers["action_chunk"].publish(self.chunk())
            if self.until(lambda: int(self.values.get("chunks_answered", 0)) > before, 0.2):
                return self.call(SetBool, "guard/enable", SetBool.Request(data=False)) is not None
        return False

    def good_by_clock(self) -> bool:
        """With simulated time: a service is answered, and after a sound clock the guard is there."""
        self.publishers["/clock"].publish(self.sound("/clock"))
        return self.call(Trigger, "guard/hold", Trigger.Request()) is not None


def shoot(range_: Target, topic: str, good: Callable[[], bool], pace: tuple[int, float], messages: int,
          rng: np.random.Generator) -> Row:  # fmt: skip
    """`messages` broken ones, and a good one after every `BATCH`, or after each burst where a frame takes one."""
    tally, before_mb, began_s = Tally(), 0.0, time.monotonic()
    (burst, pause_s), publisher = pace, range_.publishers[topic]
    batch = BATCH if pause_s else burst
    while tally.sent < messages:
        raw = serialize_message(range_.sound(topic))
        for _ in range(min(batch, messages - tally.sent)):
            how, hostile_ = hostile.broken(rng, raw)
            tally.kinds[how] += 1
            tally.sent += 1
            try:
                publisher.publish(hostile_)
            except RuntimeError:  # longer than the middleware lets out for a type of fixed size
                publisher.publish(hostile_[:8])
            if tally.sent % burst == 0:
                range_.spin()
                time.sleep(pause_s)
        asked_s = time.monotonic()
        tally.good += 1
        tally.answered += good()
        tally.slowest_s = max(tally.slowest_s, time.monotonic() - asked_s)
        if not range_.alive:
            tally.ends += 1
            break
        if not before_mb and tally.sent >= WARM * messages:
            before_mb = range_.memory_mb()
    grown = range_.memory_mb() - before_mb if range_.alive else float("nan")
    return {
        "sent": tally.sent, "unreadable": range_.unreadable, "ends": tally.ends,
        "good": tally.good, "answered": tally.answered,
        "slowest_s": round(tally.slowest_s, 2), "memory_mb": round(grown, 1),
        "seconds": round(time.monotonic() - began_s),
        "kinds": dict(tally.kinds),
        "reached": tally.ends == 0 and tally.answered == tally.good and grown <= MEMORY_MB,
    }  # fmt: skip


def guard(topic: str, messages: int, out: Path, seed: int) -> Row:
    """Hostile messages on one topic of the guard."""
    simulated = topic == "/clock"
    with GuardRange(out, use_sim_time=simulated) as range_:
        answer = range_.good_by_clock if simulated else range_.good
        row = shoot(range_, topic, answer, PACE[topic], messages, np.random.default_rng([seed, 1]))
    return {"node": "guard", "topic": topic, **row}


def presses(count: int, out: Path) -> Row:
    """Presses of a button while another publisher says "released" all the time and the joint states are flooded."""
    with GuardRange(out) as range_:
        going, sent = [True], [0]
        other = rclpy.create_node("crowd")
        crowd, states = other.create_publisher(Bool, "estop", qos.COMMAND), range_.publishers["joint_states"]
        noise = serialize_message(range_.state())[:100]

        def flood() -> None:
            while going[0]:
                for _ in range(10):
                    crowd.publish(Bool(data=False))
                    states.publish(noise)
                sent[0] += 20
                time.sleep(0.005)

        thread = threading.Thread(target=flood)
        thread.start()
        heard, slowest_s, began_s, before_mb = 0, 0.0, time.monotonic(), 0.0
        for number in range(count):
            range_.until(lambda: _reset(range_), ANSWER_S)
            pressed_s = time.monotonic()
            range_.publishers["estop"].publish(Bool(data=True))
            range_.publishers["estop"].publish(Bool(data=False))
            heard += range_.until(lambda: range_.values["state"] == "LATCHED", PRESSED_S)
            slowest_s = max(slowest_s, time.monotonic() - pressed_s)
            if number == int(WARM * count):
                before_mb = range_.memory_mb()
        going[0] = False
        thread.join()
        grown, seconds = range_.memory_mb() - before_mb, time.monotonic() - began_s
        other.destroy_node()
        return {
            "node": "guard", "topic": "estop, pressed under load", "sent": sent[0], "ends": int(not range_.alive),
            "good": count, "answered": heard, "slowest_s": round(slowest_s, 3), "memory_mb": round(grown, 1),
            "seconds": round(seconds), "rate_hz": round(sent[0] / seconds),
            "reached": heard == count and range_.alive and grown <= MEMORY_MB,
        }  # fmt: skip


def _reset(range_: GuardRange) -> bool:
    range_.call(Trigger, "guard/reset", Trigger.Request())
    range_.spin(0.02)
    return range_.values.get("state") == "DISARMED"


class PolicyRange(Target):
    """The policy with the built-in model, and two cameras."""

    TASK = "place the apple in the basket"

    def __init__(self, out: Path, compressed: bool) -> None:
        from lifecycle_msgs.msg import Transition
        from lifecycle_msgs.srv import ChangeState

        overrides = ("policy.threads=1", "node.image_age_s=2.0", "node.sync_s=1.0")
        super().__init__("policy", out, overrides, config="mini_sim.yaml", compressed=compressed)
        create, kind = self.node.create_publisher, CompressedImage if compressed else Image
        ending = "image/compressed" if compressed else "image"
        self._compressed = compressed
        self.publishers = {
            "third_person": create(kind, f"third_person/{ending}", qos.COMMAND),
            "wrist": create(kind, f"wrist/{ending}", qos.COMMAND),
            "joint_states": create(JointState, "joint_states", qos.COMMAND),
            "instruction": create(String, "instruction", qos.LATCHED),
        }
        self.chunks = 0
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, qos.REPORT)
        self.node.create_subscription(ChunkMessage, "action_chunk", self._on_chunk, qos.COMMAND)
        for transition in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE):
            request = ChangeState.Request(transition=Transition(id=transition))
            answer = self.call(ChangeState, "policy/change_state", request, 120.0)
            if answer is None or not answer.success:
                raise EcovlaError(f"the policy did not come up:\n{self.child.last_words()}")
        self.until(lambda: all(p.get_subscription_count() for p in self.publishers.values()))

    def _on_diagnostics(self, msg: DiagnosticArray) -> None:
        for pair in msg.status[0].values:
            if pair.key == "unreadable":
                self.unreadable = int(pair.value)

    def _on_chunk(self, _msg: ChunkMessage) -> None:
        self.chunks += 1

    def sound(self, topic: str) -> Any:
        """A good message of a topic."""
        if topic == "instruction":
            return String(data=self.TASK)
        if topic == "joint_states":
            still = ArmState(0, np.full(7, START_RAD), np.zeros(7), 0.5)
            return wire.fill_joint_state(JointState(), still, self.now_ns())
        picture = np.full((128, 128, 3), 100, np.uint8)
        if not self._compressed:
            return wire.fill_image(Image(), picture, self.now_ns(), topic)
        msg = CompressedImage(format="png", data=wire.compressed.encode(picture))
        wire.set_stamp(msg.header.stamp, self.now_ns())
        return msg

    def good(self) -> bool:
        """A frame is answered."""
        before, end = self.chunks, time.monotonic() + ANSWER_S
        while time.monotonic() < end and self.alive:
            for name in ("instruction", "joint_states", "third_person", "wrist"):
                self.publishers[name].publish(self.sound(name))
            if self.until(lambda: self.chunks > before, 0.5):
                return True
        return False


def policy(topic: str, messages: int, out: Path, seed: int) -> Row:
    """Hostile messages on one topic of the policy; `third_person/compressed` for compressed pictures."""
    compressed = topic.endswith("/compressed")
    name = topic.removesuffix("/compressed")
    with PolicyRange(out, compressed) as range_:
        for _ in range(20):
            range_.good()
        pace = PACE["policy joint_states" if name == "joint_states" else name]
        row = shoot(range_, name, range_.good, pace, messages, np.random.default_rng([seed, 2]))
    return {"node": "policy", "topic": topic, **row}


GUARD_TOPICS = ("joint_states", "action_chunk", "estop", "arm_fault", "/clock")
POLICY_TOPICS = ("third_person", "third_person/compressed", "joint_states", "instruction")
