"""The Grafana dashboard asks for metrics that exist, for all of them, and the file is what the code makes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

pytest.importorskip("prometheus_client")

from prometheus_client import CollectorRegistry  # noqa: E402

from ecovla_ros.metrics import GuardMetrics, ServeMetrics  # noqa: E402
from ecovla_ros.publish import dashboard  # noqa: E402

ROOT = Path(__file__).parents[2]
OF_THE_NODE = set(re.findall(r'"(ecovla_\w+)"', (ROOT / "ecovla_ros/nodes/metrics.py").read_text(encoding="utf-8")))
ENDS = re.compile(r"_(total|bucket|count|sum|created)$")


def told():
    """Names without the endings that Prometheus adds."""
    guard = CollectorRegistry()
    GuardMetrics(guard, ("HOLD",))
    families = [*ServeMetrics(100.0).registry.collect(), *guard.collect()]
    return {family.name for family in families} | OF_THE_NODE


def asked():
    queries = [target["expr"] for panel in dashboard.dashboard()["panels"] for target in panel["targets"]]
    return {name for query in queries for name in re.findall(r"ecovla_\w+", query)}


def test_every_metric_asked_for_exists_and_every_metric_is_asked_for():
    assert {ENDS.sub("", name) for name in asked()} == told()


def test_counters_are_asked_for_by_the_name_that_prometheus_gives_them():
    kinds = {family.name: family.type for family in ServeMetrics(100.0).registry.collect()}
    for name in asked():
        kind = kinds.get(ENDS.sub("", name))
        assert name.endswith("_total") == (kind == "counter") or name.removesuffix("_total") in OF_THE_NODE
        assert name.endswith("_bucket") == (kind == "histogram")


def test_the_file_is_up_to_date():
    assert json.loads((ROOT / dashboard.FILE).read_text(encoding="utf-8")) == dashboard.dashboard()
