"""Node `metrics`: what policy and guard say on their topics is what Prometheus is told."""

from __future__ import annotations

import time
from urllib.request import urlopen

import pytest

rclpy = pytest.importorskip("rclpy")
pytest.importorskip("prometheus_client")

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402

from ecovla_ros import wire  # noqa: E402
from ecovla_ros.errors import ConfigError  # noqa: E402
from ecovla_ros.nodes.metrics import WAITING, MetricsNode  # noqa: E402
from ecovla_ros.nodes.ros import qos  # noqa: E402
from ecovla_ros.nodes.ros.interfaces import LatencyReport, PruningState  # noqa: E402
from ecovla_ros.types import FrameReport  # noqa: E402


@pytest.fixture
def graph():
    rclpy.init()
    teller = rclpy.create_node("teller")
    node = MetricsNode(parameter_overrides=[Parameter("port", value=0)])
    executor = SingleThreadedExecutor()
    for each in (node, teller):
        executor.add_node(each)
    yield node, teller, executor
    node.close()
    executor.shutdown()
    rclpy.shutdown()


def told(node):
    with urlopen(f"http://127.0.0.1:{node.port}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}


def test_frames_and_the_guards_state_are_told(graph):
    node, teller, executor = graph
    latency = teller.create_publisher(LatencyReport, "latency", qos.REPORT)
    pruning = teller.create_publisher(PruningState, "pruning", qos.REPORT)
    status = teller.create_publisher(DiagnosticStatus, "status", qos.LATCHED)
    until = time.monotonic() + 10.0
    while min(p.get_subscription_count() for p in (latency, pruning, status)) < 1 and time.monotonic() < until:
        executor.spin_once(timeout_sec=0.05)
    for stamp, total in ((1_000_000_001, 40.0), (1_000_000_002, 140.0)):
        report = FrameReport(stamp, {"encode": 5.0}, total, kind="refresh", triggered=True, similarity=0.9)
        latency.publish(wire.fill_latency(LatencyReport(), report, 1, 3, 50.0, 100.0))
        pruning.publish(wire.fill_pruning(PruningState(), report))
    pairs = [KeyValue(key=k, value=v) for k, v in (("state", "HOLD"), ("refusals", "7"), ("stretch", "nan"))]
    status.publish(DiagnosticStatus(values=pairs))
    found: dict[str, float] = {}
    while time.monotonic() < until and not (
        found.get('ecovla_frames_total{kind="refresh",replica="0"}') == 2 and found.get("ecovla_guard_refusals") == 7
    ):
        executor.spin_once(timeout_sec=0.05)
        found = told(node)
    assert found['ecovla_deadline_misses_total{replica="0"}'] == 1 and found['ecovla_triggers_total{replica="0"}'] == 2
    assert found['ecovla_stage_seconds_sum{replica="0",stage="policy"}'] == pytest.approx(0.18)
    assert found['ecovla_guard_state{ecovla_guard_state="HOLD"}'] == 1 and found["ecovla_frames_dropped"] == 3


def test_latencies_alone_do_not_pile_up(graph):
    node, *_ = graph
    for stamp in range(3 * WAITING):
        node._on_latency(wire.fill_latency(LatencyReport(), FrameReport(stamp + 1), 1, 0, 0.0, 1.0))
    assert len(node._latencies) == WAITING and told(node)["ecovla_reports_unmatched_total"] == 2 * WAITING


def test_a_port_that_is_taken_is_said(graph):
    node, *_ = graph
    with pytest.raises(ConfigError, match="valid: a free port"):
        MetricsNode(parameter_overrides=[Parameter("port", value=node.port)])
