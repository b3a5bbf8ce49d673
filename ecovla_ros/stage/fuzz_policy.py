"""The policy as a target: the built-in model, two cameras and an arm that stands still."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import String

from ecovla_ros import wire
from ecovla_ros.errors import EcovlaError
from ecovla_ros.nodes.ros import qos
from ecovla_ros.nodes.ros.interfaces import ActionChunk as ChunkMessage
from ecovla_ros.stage.fuzz_range import ANSWER_S, START_RAD, Target
from ecovla_ros.types import ArmState

UP_S = 120.0
"""The policy has this long to become active, s."""


class PolicyRange(Target):
    """The policy with the built-in model, and two cameras."""

    TASK = "place the apple in the basket"

    def __init__(self, out: Path, compressed: bool) -> None:
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
        if not self.up():
            raise EcovlaError(f"the policy did not come up:\n{self.child.last_words()}")

    def up(self) -> bool:
        """Make it active, wherever it is. Whether it is."""
        steps = {
            "unconfigured": Transition.TRANSITION_CONFIGURE, "inactive": Transition.TRANSITION_ACTIVATE, "active": None,
        }  # fmt: skip
        end = time.monotonic() + UP_S
        while time.monotonic() < end and self.alive:
            told = self.call(GetState, "policy/get_state", GetState.Request())
            step = steps.get(told.current_state.label, "between two") if told is not None else "silent"
            if step is None:
                return self.until(lambda: all(p.get_subscription_count() for p in self.publishers.values()))
            if isinstance(step, int):
                self.call(ChangeState, "policy/change_state", ChangeState.Request(transition=Transition(id=step)), UP_S)
        return False

    def _on_diagnostics(self, msg: DiagnosticArray) -> None:
        for pair in msg.status[0].values:
            if pair.key == "unreadable":
                self.unreadable = int(pair.value)

    def _on_chunk(self, _msg: ChunkMessage) -> None:
        self.chunks += 1

    def good_again(self) -> bool:
        """Whoever may call its services may have put it to sleep: a frame is answered once it is up again."""
        return self.up() and self.good()

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
