"""The guard as a target: an arm that stands still, a policy that wants to stay, and whoever presses the e-stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.serialization import serialize_message
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, String
from std_srvs.srv import SetBool, Trigger
from trajectory_msgs.msg import JointTrajectoryPoint

from ecovla_ros import wire
from ecovla_ros.errors import EcovlaError
from ecovla_ros.nodes.ros import controller_state, qos
from ecovla_ros.nodes.ros.interfaces import ActionChunk as ChunkMessage
from ecovla_ros.stage.fuzz_range import ANSWER_S, MEMORY_MB, START_RAD, Row, Target
from ecovla_ros.types import GEN3, ActionChunk, ArmState

ANYWHERE = ("control.box_lower=[-2, -2, -2]", "control.box_upper=[2, 2, 2]", "control.joint_state_age_s=1.0")
PRESSED_S = 1.0
"""A press must latch the guard within this time, s."""


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
            "enable_lease": create(Bool, "guard/enable_lease", qos.COMMAND),
            "/clock": create(Clock, "/clock", qos.COMMAND),
        }
        if controller_state.KIND is not None:
            state = create(controller_state.KIND, controller_state.NAME, qos.COMMAND)
            self.publishers[controller_state.NAME] = state
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
        made = {
            "joint_states": self.state, "action_chunk": self.chunk, "estop": Bool, "arm_fault": String,
            "enable_lease": lambda: Bool(data=True), controller_state.NAME: self.controller,
        }  # fmt: skip
        return made[topic]()

    def controller(self) -> Any:
        """What the controller says of itself: it commands that the arm stays."""
        point = JointTrajectoryPoint(positions=[START_RAD] * len(GEN3.arm), velocities=[0.0] * len(GEN3.arm))
        msg: Any = controller_state.KIND(joint_names=list(GEN3.arm), reference=point, feedback=point)  # type: ignore[misc]
        wire.set_stamp(msg.header.stamp, self.now_ns())
        return msg

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
            if number == count // 10:
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
