"""What the doctor works with: the topics that must be there, what came on them, and its findings."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from rclpy.qos import QoSCompatibility, QoSProfile, qos_check_compatible

from ecovla_ros import wire

OK, WARNING, FAULT = "ok", "warning", "FAULT"


@dataclass(frozen=True)
class Finding:
    """One line."""

    level: str
    check: str
    text: str

    def __str__(self) -> str:
        return f"{self.level:<7} {self.check:<21} {self.text}"


@dataclass(frozen=True)
class ExpectedTopic:
    """One topic: its type, and the quality of service that our side of it has."""

    name: str
    kind: Any
    profile: QoSProfile
    written: bool
    """Whether we need somebody to write it; else somebody to read it."""

    @property
    def type_name(self) -> str:
        """As the graph tells it: package/msg/Name."""
        module = str(self.kind.__module__).split(".")
        return f"{module[0]}/msg/{self.kind.__name__}"

    def deaf(self, theirs: QoSProfile) -> str:
        """Why messages do not pass between our side and theirs; empty when they do. Our nodes ask for no deadlines."""
        ours = QoSProfile(
            history=self.profile.history, depth=self.profile.depth, reliability=self.profile.reliability,
            durability=self.profile.durability, deadline=theirs.deadline, liveliness=theirs.liveliness,
            liveliness_lease_duration=theirs.liveliness_lease_duration,
        )  # fmt: skip
        level, reason = qos_check_compatible(*((theirs, ours) if self.written else (ours, theirs)))
        return str(reason) if level == QoSCompatibility.ERROR else ""


class TopicTraffic:
    """What came on one topic while we listened."""

    def __init__(self) -> None:
        self.last: Any = None
        self.times_s: list[float] = []
        self.ages_s: list[float] = []

    def hear(self, msg: Any, now_ns: int, at_s: float) -> None:
        """One message, at `now_ns` of the clock of stamps; silences are told by `at_s`."""
        self.last = msg
        self.times_s.append(at_s)
        header = getattr(msg, "header", None)
        if header is not None:
            self.ages_s.append((now_ns - wire.stamp_ns(header.stamp)) / 1e9)

    @property
    def rate_hz(self) -> float:
        """Messages a second; 0 for fewer than two."""
        span = self.times_s[-1] - self.times_s[0] if len(self.times_s) > 1 else 0.0
        return (len(self.times_s) - 1) / span if span else 0.0

    @property
    def longest_s(self) -> float:
        """Longest silence between two messages, s."""
        return float(np.diff(self.times_s).max()) if len(self.times_s) > 1 else math.inf
