"""Node `metrics`: what policy and guard tell on their topics, as metrics for Prometheus at http://HOST:PORT/metrics.

A node of its own, so that no HTTP request costs the guard a tick or the policy a frame, and whatever comes over HTTP
cannot reach them.
"""

from __future__ import annotations

from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.node import Node

from ecovla_ros import wire
from ecovla_ros.control.states import State
from ecovla_ros.errors import ConfigError
from ecovla_ros.metrics import GuardMetrics, PolicyMetrics
from ecovla_ros.nodes.ros import process, qos
from ecovla_ros.nodes.ros.intake import subscribe
from ecovla_ros.nodes.ros.interfaces import LatencyReport, PruningState
from ecovla_ros.types import FrameReport

PORT = 9464
"""Where Prometheus looks for exporters of this kind by custom."""
REPORT_BYTES, STATUS_BYTES = 2**12, 2**16
"""Longest messages that are read, bytes."""
STAGES = ("decode", "encode", "trigger", "join", "prefill", "act", "post")
WAITING = 16
"""Latencies that wait for the pruning of the same frame, at most."""


class MetricsNode(Node):
    """Listens, counts, and answers Prometheus from a thread of its own."""

    def __init__(self, **options: Any) -> None:
        """Parameters: `port`, and `host`, 127.0.0.1 or an address that other machines reach. Raises ConfigError."""
        super().__init__("metrics", **options)
        for name, value, what in (
            ("port", PORT, "port of /metrics"),
            ("host", "127.0.0.1", "address to listen at; what is told there is told to everybody who reaches it"),
        ):
            self.declare_parameter(name, value, ParameterDescriptor(description=what, read_only=True))
        self.registry = CollectorRegistry()
        self._policy = PolicyMetrics(self.registry)
        self._guard = GuardMetrics(self.registry, tuple(state.value for state in State))
        self._dropped = Gauge("ecovla_frames_dropped", "Pictures overwritten unread since activation",
                              registry=self.registry)  # fmt: skip
        self._unmatched = Counter("ecovla_reports_unmatched", "Latencies without the pruning of the same frame",
                                  registry=self.registry)  # fmt: skip
        self._latencies: dict[int, Any] = {}
        subscribe(self, LatencyReport, "latency", self._on_latency, qos.REPORT, REPORT_BYTES)
        subscribe(self, PruningState, "pruning", self._on_pruning, qos.REPORT, REPORT_BYTES)
        subscribe(self, DiagnosticStatus, "status", self._on_status, qos.LATCHED, STATUS_BYTES)
        host, port = str(self.get_parameter("host").value), int(self.get_parameter("port").value)
        try:
            self._server, self._thread = start_http_server(port, host, self.registry)
        except (OSError, OverflowError) as error:
            raise ConfigError(f"metrics cannot be told at {host}:{port}: {error}; valid: a free port") from error
        self.port = int(self._server.server_port)
        self.get_logger().info(f"metrics at http://{host}:{self.port}/metrics")

    def close(self) -> None:
        """Answer no more. May be called twice."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()

    def _on_latency(self, msg: Any) -> None:
        self._latencies[wire.stamp_ns(msg.header.stamp)] = msg
        self._dropped.set(msg.frames_dropped)
        while len(self._latencies) > WAITING:
            self._latencies.pop(next(iter(self._latencies)))
            self._unmatched.inc()

    def _on_pruning(self, msg: Any) -> None:
        """The policy publishes latency first, so that both of a frame are here now."""
        stamp = wire.stamp_ns(msg.header.stamp)
        latency = self._latencies.pop(stamp, None)
        if latency is None:
            return
        stages = {stage: float(getattr(latency, f"{stage}_ms")) for stage in STAGES}
        report = FrameReport(
            stamp, stages, latency.policy_ms, latency.exposed_ms, latency.refresh_ms, msg.method, msg.kind,
            msg.similarity, msg.threshold, msg.triggered, msg.ratio, msg.pattern_age, msg.pattern_id, msg.swaps,
            msg.fault,
        )  # fmt: skip
        self._policy.frame(report, latency.deadline_ms)

    def _on_status(self, msg: Any) -> None:
        values = {pair.key: pair.value for pair in msg.values}
        if values.get("state") in State.__members__:
            self._guard.told(values["state"], values)


def main(arguments: list[str] | None = None) -> int:
    """Entry point of `ros2 run ecovla_ros metrics`."""
    return process.run("metrics", MetricsNode, arguments)
