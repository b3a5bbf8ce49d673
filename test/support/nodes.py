"""Nodes of this package inside a test's graph, with everything they listen to and say."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Bool, String
from std_srvs.srv import SetBool
from trajectory_msgs.msg import JointTrajectory

from ecovla_ros import wire
from ecovla_ros.errors import ObservationError
from ecovla_ros.nodes.guard import GuardNode
from ecovla_ros.nodes.policy import PolicyNode
from ecovla_ros.nodes.ros import qos
from ecovla_ros.nodes.ros.interfaces import ActionChunk as ChunkMessage
from ecovla_ros.nodes.ros.interfaces import LatencyReport, PruningState
from ecovla_ros.types import CAMERAS, ActionChunk
from support.graph import FakeEngine, Graph, joints, picture

START = 0.1
ANYWHERE = ("control.box_lower=[-2, -2, -2]", "control.box_upper=[2, 2, 2]")
"""An arm that stands straight up is outside the box of a table."""


ONE_CLOCK = ("control.stamp_commands=always", "control.start_window_s=0.2")
"""No controller says what its clock is; and a processor that other tests need too may take long to plan."""


class Arm:
    """A guard with an arm that stands still, and a policy that wants to move it a little."""

    def __init__(self, ros: Graph, age_s: float = 1.0, overrides: Sequence[str] = (), **more: Any) -> None:
        """`age_s`: joint states older than this are stale; long, since tests share their processors."""
        self.ros = ros
        told = [
            f"control.joint_state_age_s={age_s}",
            "control.stamp_commands=always",
            "control.start_window_s=0.2",
            *ANYWHERE,
            *overrides,
        ]
        self._seated = False
        self.node = ros.start(GuardNode, overrides=told, **more)
        create = ros.tester.create_publisher
        self.states = ros.matched(create(JointState, "joint_states", qos.COMMAND))
        self.chunks = ros.matched(create(ChunkMessage, "action_chunk", qos.COMMAND))
        self.estop = ros.matched(create(Bool, "estop", qos.COMMAND))
        self.sent = ros.listen(JointTrajectory, "joint_trajectory")
        self.grips = ros.listen(JointTrajectory, "gripper_trajectory")
        self.status: list[DiagnosticStatus] = ros.listen(DiagnosticStatus, "status", qos.LATCHED)
        self.ros.until(lambda: self.status, "status")
        self.talking = True
        ros.tester.create_timer(0.02, self._talk)
        ros.spin(0.2)

    def _talk(self) -> None:
        if self.talking:
            self.states.publish(joints(self.now(), START))

    def now(self) -> int:
        return int(self.ros.tester.get_clock().now().nanoseconds)

    def send(self, target: float = START, **changes: Any) -> None:
        rows = np.tile(np.linspace(START, target, 8)[:, None], (1, 7))
        chunk = ActionChunk(self.now() - 50_000_000, 0.1, rows, np.full(8, 1.0))
        msg = wire.fill_chunk(ChunkMessage(), chunk)
        for name, value in changes.items():
            setattr(msg, name, value)
        self.chunks.publish(msg)

    def enable(self, on: bool = True, seat: bool = True) -> Any:
        answer = self.ros.call(SetBool, "guard/enable", SetBool.Request(data=on))
        if on and seat and answer.success and not self._seated:
            self._seat()
        return answer

    def _seat(self) -> None:
        """Nobody tells what the controller holds: the first time it is brought to where the arm stands."""
        self._seated = True
        self.ros.until(lambda: self.sent, "the way to the seat")
        self.ros.spin(self.sent[0].points[0].time_from_start.nanosec / 1e9 + 0.3)
        self.sent.clear()

    def values(self) -> dict[str, str]:
        return {pair.key: pair.value for pair in self.status[-1].values}

    def is_in(self, state: str, says: str = "") -> None:
        def there() -> bool:
            return self.values()["state"] == state and says in self.status[-1].message

        self.ros.until(there, lambda: f"{state} with '{says}'; said: {self.status[-1].message}")


class Bench:
    """A policy node with everything it listens to and says."""

    def __init__(self, ros: Graph, engine: FakeEngine, **parameters: Any) -> None:
        self.ros, self.engine = ros, engine
        self.node = ros.start(lambda **options: PolicyNode(lambda config: engine, **options), **parameters)
        create = ros.tester.create_publisher
        self.images = {name: create(Image, f"{name}/image", qos.SENSOR) for name in CAMERAS}
        self.joints = create(JointState, "joint_states", qos.COMMAND)
        self.instruction = create(String, "instruction", qos.LATCHED)
        self.chunks = ros.listen(ChunkMessage, "action_chunk")
        self.latency = ros.listen(LatencyReport, "latency")
        self.pruning = ros.listen(PruningState, "pruning")
        self.diagnostics = ros.listen(DiagnosticArray, "/diagnostics")

    def change(self, transition: int) -> bool:
        return bool(self.ros.call(ChangeState, "policy/change_state", request(transition)).success)

    def activate(self) -> None:
        assert self.change(Transition.TRANSITION_CONFIGURE) and self.change(Transition.TRANSITION_ACTIVATE)
        for publisher in (*self.images.values(), self.joints, self.instruction):
            self.ros.matched(publisher)
        self.ros.until(lambda: self.ros.tester.count_publishers("action_chunk"), "action_chunk")
        self.instruction.publish(String(data="place the apple in the basket"))
        self.ros.until(lambda: self.node._instruction, "instruction")

    def now(self) -> int:
        return int(self.ros.tester.get_clock().now().nanoseconds)

    def show(self, stamp_ns: int = 0, cameras: tuple[str, ...] = CAMERAS, state: Any = None, **changes: Any) -> int:
        """Joint state, then a picture of each camera, all of one stamp; returns it."""
        stamp_ns = stamp_ns or self.now()
        sent = joints(stamp_ns) if state is None else state
        self.joints.publish(sent)
        self.ros.until(lambda: self._heard(wire.stamp_ns(sent.header.stamp)), "joint state")
        for name in cameras:
            self.images[name].publish(picture(stamp_ns, **changes))
        return stamp_ns

    def _heard(self, stamp_ns: int) -> bool:
        """Whether the joint state of this stamp is there, or what came is refused."""
        with contextlib.suppress(ObservationError):
            self.node._joints.nearest(stamp_ns)
        return self.node._joints._states._newest_ns == stamp_ns

    def answered(self, count: int = 1) -> Any:
        self.ros.until(
            lambda: len(self.chunks) >= count, lambda: f"chunk {count}; said: {self.node._diagnostics.message}"
        )
        return self.chunks[-1]

    def says(self, text: str) -> None:
        """The node's own diagnostic comes to hold this text, on the topic as well."""
        self.ros.until(
            lambda: any(text in s.message for array in self.diagnostics for s in array.status),
            lambda: f"diagnostic '{text}'; said: {self.node._diagnostics.message}",
        )


def request(transition: int) -> ChangeState.Request:
    return ChangeState.Request(transition=Transition(id=transition))
