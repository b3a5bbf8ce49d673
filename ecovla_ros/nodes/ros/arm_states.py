"""The arm's state in a node, from `joint_states`, whoever else publishes there."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from typing import Any

from rclpy.qos import QoSProfile
from sensor_msgs.msg import JointState

from ecovla_ros.errors import ObservationError, short
from ecovla_ros.nodes.ros.intake import Intake, deserialized
from ecovla_ros.nodes.ros.owners import Source
from ecovla_ros.nodes.ros.polling import PolledTopic
from ecovla_ros.types import ArmJoints, ArmState
from ecovla_ros.wire import JointStates

TOPIC = "joint_states"
STATE_BYTES = 2**16
"""Longest joint state that is read, bytes."""


class ArmStates:
    """For any thread."""

    def __init__(
        self, node: Any, joints: ArmJoints, part_age_s: float, profile: QoSProfile, length: int, silence_s: float = 0.0
    ) -> None:
        """`length`: messages of one kind that are kept, to find the state of a time. With `silence_s` each joint has
        one owner, the publisher that was heard first, until it says nothing for so long (see `owners.Source`)."""
        self._topic = PolledTopic(node, JointState, TOPIC, profile, STATE_BYTES)
        self._states = JointStates(message, joints, part_age_s, length)
        self._owners = [Source(node, TOPIC, "", silence_s) for _ in joints.wanted] if silence_s else []
        self._lock = threading.Lock()
        self.wrong = ""
        """What was wrong with a message of the last look, though there may have been a state; or empty."""

    def newest(self, finite: bool = True) -> ArmState | None:
        """The state of now; None when no joint of the arm came since the last call.

        Raises ObservationError: joints missing or malformed, and unless `finite` is False not finite.
        """
        return self._read(lambda: self._states.newest(finite))

    def nearest(self, stamp_ns: int) -> ArmState:
        """The state of a time. Raises ObservationError as `newest`, and where nothing came yet."""
        found: ArmState = self._read(lambda: self._states.nearest(stamp_ns))
        return found

    @property
    def others(self) -> list[str]:
        """Joints on the topic that are not this arm's."""
        return self._states.others if self._states.passed_over else []

    @property
    def intake(self) -> Intake:
        """What could not be read, or was not taken."""
        return self._topic.intake

    def close(self) -> None:
        """End the subscription."""
        self._topic.close()

    def _read(self, state: Callable[[], Any]) -> Any:
        """What is malformed is told unless there is a state all the same."""
        wrong: ObservationError | None = None
        self.wrong = ""
        with self._lock:
            for raw, gid in reversed(self._topic.newest()):
                try:
                    self._states.put(raw, lambda columns, gid=gid: self._admit(columns, gid))  # type: ignore[misc]
                except ObservationError as error:
                    self._topic.intake.drop(gid, short(error))
                    wrong, self.wrong = error, str(error)
            try:
                found = state()
            except ObservationError as error:
                raise wrong or error from error
        if found is None and wrong is not None:
            raise wrong
        return found

    def _admit(self, columns: Collection[int], gid: bytes) -> str:
        """Empty when every one of these joints is this publisher's; else what is wrong."""
        now_s = time.monotonic()
        return next((no for i in columns if self._owners and (no := self._owners[i].admit(gid, now_s))), "")


def message(raw: bytes) -> JointState:
    """The message in these bytes. Raises ObservationError."""
    try:
        return deserialized(raw, JointState)
    except ObservationError as error:
        raise ObservationError(f"{TOPIC}: {error}") from error
