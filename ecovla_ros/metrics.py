"""What Prometheus is told: one name for each thing that is counted, whoever counts it.

A histogram of stages and not of quantiles: quantiles of several replicas cannot be added, buckets can. Names follow
Prometheus' rules: base units (seconds), `_total` for what only grows.
"""

from __future__ import annotations

import math
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Enum, Gauge, Histogram, generate_latest

from ecovla_ros.types import FrameReport

BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 10.0)
"""Upper ends of the buckets of durations, s: from a stage of a small policy to a frame that is lost."""
SECONDS = "in seconds"


class PolicyMetrics:
    """Of the frames of a policy, wherever it runs. Labels: `replica`, the name of the process that computed them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        who = ("replica",)
        self.frames = Counter("ecovla_frames", "Frames answered, by kind: dense, sparse, refresh", (*who, "kind"),
                              registry=registry)  # fmt: skip
        self.stages = Histogram(
            "ecovla_stage_seconds", f"Time of a stage of a frame, {SECONDS}; `policy` is the whole call",
            (*who, "stage"), buckets=BUCKETS_S, registry=registry,
        )  # fmt: skip
        self.exposed = Histogram("ecovla_exposed_seconds", f"Time a frame waited for the refresh before it, {SECONDS}",
                                 who, buckets=BUCKETS_S, registry=registry)  # fmt: skip
        self.triggers = Counter("ecovla_triggers", "Frames that asked for a new pattern (u_t = 1)", who,
                                registry=registry)  # fmt: skip
        self.refreshes = Counter("ecovla_refreshes", "Frames that recorded for a new pattern", who, registry=registry)
        self.misses = Counter("ecovla_deadline_misses", "Policy calls that took longer than node.deadline_ms", who,
                              registry=registry)  # fmt: skip
        self.faults = Counter("ecovla_faults", "Frames that were answered though something went wrong", who,
                              registry=registry)  # fmt: skip
        self.ratio = Gauge("ecovla_ratio", "Share of prunable channels left out in the last frame", who,
                           registry=registry)  # fmt: skip
        self.similarity = Gauge("ecovla_similarity", "s_t of the last frame that had one before it", who,
                                registry=registry)  # fmt: skip
        self.pattern = Gauge("ecovla_pattern_id", "Patterns there have been", who, registry=registry)

    def frame(self, report: FrameReport, deadline_ms: float, replica: str = "0") -> None:
        """Count one frame."""
        self.frames.labels(replica, report.kind).inc()
        for stage, ms in report.stages_ms.items():
            self.stages.labels(replica, stage).observe(1e-3 * ms)
        self.stages.labels(replica, "policy").observe(1e-3 * report.total_ms)
        self.exposed.labels(replica).observe(1e-3 * report.exposed_ms)
        self.triggers.labels(replica).inc(report.triggered)
        self.refreshes.labels(replica).inc(report.kind == "refresh")
        self.misses.labels(replica).inc(report.total_ms > deadline_ms)
        self.faults.labels(replica).inc(bool(report.fault))
        self.ratio.labels(replica).set(report.ratio)
        self.pattern.labels(replica).set(report.pattern_id)
        if math.isfinite(report.similarity):
            self.similarity.labels(replica).set(report.similarity)


class ServeMetrics:
    """Of `ecovla serve`: its policies, its clients and its replicas."""

    def __init__(self, deadline_ms: float) -> None:
        """`deadline_ms`: a policy call that takes longer counts as a miss."""
        self.registry, self._deadline_ms = CollectorRegistry(), deadline_ms
        self.policy = PolicyMetrics(self.registry)
        self.requests = Counter("ecovla_requests", "Messages of clients that were answered", ("replica",),
                                registry=self.registry)  # fmt: skip
        self.errors = Counter("ecovla_request_errors", "Messages answered with an error, by its kind", ("kind",),
                              registry=self.registry)  # fmt: skip
        self.answer = Histogram(
            "ecovla_answer_seconds", f"From a message to its answer, with the wait for its turn, {SECONDS}",
            ("replica",), buckets=BUCKETS_S, registry=self.registry,
        )  # fmt: skip
        self.sessions = Gauge("ecovla_sessions", "Clients that are being served", registry=self.registry)
        self.opened = Counter("ecovla_sessions_opened", "Clients that were let in", registry=self.registry)
        self.turned_away = Counter("ecovla_sessions_turned_away", "Clients for whom no place was free",
                                   registry=self.registry)  # fmt: skip
        self.moved = Counter("ecovla_sessions_moved", "Sessions that began anew as their replica had ended",
                             registry=self.registry)  # fmt: skip
        self.warm = Gauge("ecovla_replicas_warm", "Replicas that can answer", registry=self.registry)
        self.wanted = Gauge("ecovla_replicas_wanted", "Replicas that were asked for", registry=self.registry)

    def answered(self, replica: str, report: FrameReport | None, error: str, taken_s: float) -> None:
        """Count one message and the frame that it had computed, if it had."""
        self.requests.labels(replica).inc()
        self.answer.labels(replica).observe(taken_s)
        if error:
            self.errors.labels(error).inc()
        if report is not None:
            self.policy.frame(report, self._deadline_ms, replica)

    def page(self) -> bytes:
        """Everything, as text in Prometheus' form."""
        return generate_latest(self.registry)


class GuardMetrics:
    """Of the guard, as its `status` tells."""

    def __init__(self, registry: CollectorRegistry, states: tuple[str, ...]) -> None:
        self.state = Enum("ecovla_guard_state", "State of the guard", states=list(states), registry=registry)
        self.values = {
            name: Gauge(f"ecovla_guard_{name}", what, registry=registry) for name, what in GUARD_VALUES.items()
        }

    def told(self, state: str, values: dict[str, str]) -> None:
        """Take what the guard said: its state, and its values as text."""
        self.state.state(state)
        for name, text in values.items():
            gauge = self.values.get(name)
            number = _number(text)
            if gauge is not None and number is not None:
                gauge.set(number)


GUARD_VALUES = {
    "chunk_age_ms": "Age of the chunk that is played, ms",
    "camera_to_command_ms": "From the stamp of the picture to the command, ms",
    "tick_jitter_p99_ms": "How late or early ticks are, p99, ms",
    "commands": "Trajectories sent since the start",
    "refusals": "Chunks refused since the start",
    "chunks_answered": "Chunks taken since the start",
    "chunks_of_others": "Chunks of others than the policy, refused since the start",
    "unreadable": "Messages that could not be read since the start",
    "stretch": "How much slower than asked the chunk is played",
}
"""Value of the guard's status -> what it is. Counts of one process are gauges here: it may start anew."""


def _number(text: Any) -> float | None:
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None
