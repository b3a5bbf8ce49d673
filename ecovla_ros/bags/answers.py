"""The bag a replay writes: its inputs as they were, and the answers on the topics of the live nodes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ecovla_ros import wire
from ecovla_ros.bags.guarded import News
from ecovla_ros.bags.read import Bag
from ecovla_ros.bags.storage import Raw
from ecovla_ros.bags.write import BagWriter

if TYPE_CHECKING:
    from ecovla_ros.bags.replay import Answer

TOPICS = {
    "/action_chunk": "ecovla_ros/msg/ActionChunk",
    "/latency": "ecovla_ros/msg/LatencyReport",
    "/pruning": "ecovla_ros/msg/PruningState",
    "/joint_trajectory": "trajectory_msgs/msg/JointTrajectory",
    "/status": "diagnostic_msgs/msg/DiagnosticStatus",
}
LEVELS = {"HOLD": 1, "HELD": 1, "LATCHED": 2}
"""Guard state -> level of diagnostic_msgs/DiagnosticStatus; the others are 0, OK."""


class AnswerBag:
    """One new bag."""

    def __init__(self, path: str | Path, source: Bag, topics: Mapping[str, str], deadline_ms: float) -> None:
        """Raises BagError when the folder exists or cannot be made."""
        self._deadline_ms, self._frame = deadline_ms, 0
        self._writer = BagWriter(path)
        for topic in dict.fromkeys(topics.values()):
            latched = topic in source.latched or topic == topics.get("instruction")
            self._writer.add(topic, source.topics[topic], latched)
        for topic, kind in TOPICS.items():
            self._writer.add(topic, kind, latched=topic == "/status")

    def copy(self, raw: Raw) -> None:
        """An input, as it is."""
        self._writer.write(raw.topic, raw.time_ns, raw.data)

    def answer(self, answer: Answer) -> None:
        """Chunk, latency and pruning, at the time of the frame: a bag does not depend on how fast it was made."""
        report, chunk = answer.report, answer.chunk
        if report is None or chunk is None:
            return
        self._frame += 1
        blank, put, at = self._writer.kinds.blank, self._writer.put, answer.time_ns
        late_ms = (answer.time_ns - answer.stamp_ns) / 1e6
        age_ms = (late_ms if abs(late_ms) < 1e3 else 0.0) + report.stages_ms.get("decode", 0.0) + report.total_ms
        put("/action_chunk", at, wire.fill_chunk(blank(TOPICS["/action_chunk"]), chunk))
        latency = blank(TOPICS["/latency"])
        put("/latency", at, wire.fill_latency(latency, report, self._frame, answer.dropped, age_ms, self._deadline_ms))
        put("/pruning", at, wire.fill_pruning(blank(TOPICS["/pruning"]), report))

    def guard(self, news: Iterable[News]) -> None:
        """What the guard sent and said."""
        blank, put = self._writer.kinds.blank, self._writer.put
        for time_ns, status, trajectory, begin_ns in news:
            if trajectory is not None:
                message = blank(TOPICS["/joint_trajectory"])
                point = "trajectory_msgs/msg/JointTrajectoryPoint"
                put(
                    "/joint_trajectory",
                    time_ns,
                    wire.fill_trajectory(message, trajectory, partial(blank, point), ns=begin_ns),
                )
            said = blank(TOPICS["/status"])
            said.level, said.name, said.message = LEVELS.get(status.state, 0), "/guard", status.reason
            said.hardware_id = "kinova_gen3"
            values = {"state": status.state, "refusal": status.refusal, "stretch": f"{status.stretch:.4g}"}
            for key, value in values.items():
                pair = blank("diagnostic_msgs/msg/KeyValue")
                pair.key, pair.value = key, value
                said.values.append(pair)
            put("/status", time_ns, said)

    def close(self) -> None:
        """Finish the bag."""
        self._writer.close()
