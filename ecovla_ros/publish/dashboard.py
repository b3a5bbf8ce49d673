"""The Grafana dashboard of `config/grafana_ecovla.json`: `python -m ecovla_ros.publish.dashboard`. Built from code, so
that a test can require each metric in it to exist."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FILE = Path("config/grafana_ecovla.json")
SOURCE = {"type": "prometheus", "uid": "${source}"}
"""Whoever imports the dashboard names the Prometheus that it asks."""
VARIABLE = {"name": "source", "type": "datasource", "query": "prometheus", "label": "Prometheus"}
WIDTH, HEIGHT = 8, 8
"""Of a panel; a row of Grafana is 24 wide."""
RATE = "$__rate_interval"


def p99(metric: str, by: str) -> str:
    """The 99th percentile of a histogram, by a label."""
    return f"histogram_quantile(0.99, sum by ({by}, le) (rate({metric}_bucket[{RATE}])))"


def rate(metric: str, by: str = "") -> str:
    """How often a second."""
    whole = f"rate({metric}[{RATE}])"
    return f"sum by ({by}) ({whole})" if by else f"sum({whole})"


PANELS: tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...] = (
    ("Frames a second, by kind", "ops", ((rate("ecovla_frames_total", "kind"), "{{kind}}"),)),
    ("Time of a stage, p99", "s", ((p99("ecovla_stage_seconds", "stage"), "{{stage}}"),)),
    ("Misses and faults a second", "ops", (
        (rate("ecovla_deadline_misses_total"), "deadline missed"), (rate("ecovla_faults_total"), "fault"),
        (rate("ecovla_request_errors_total", "kind"), "{{kind}}"))),
    ("Triggers and refreshes a second", "ops", (
        (rate("ecovla_triggers_total"), "trigger"), (rate("ecovla_refreshes_total"), "refresh"))),
    ("Waiting for a refresh, p99", "s", ((p99("ecovla_exposed_seconds", "replica"), "replica {{replica}}"),)),
    ("Share left out, and similarity", "percentunit", (
        ("ecovla_ratio", "left out, {{replica}}"), ("ecovla_similarity", "similarity, {{replica}}"))),
    ("Patterns", "short", (("ecovla_pattern_id", "replica {{replica}}"),)),
    ("State of the guard", "short", (("ecovla_guard_state", "{{ecovla_guard_state}}"),)),
    ("Picture to command", "ms", (
        ("ecovla_guard_camera_to_command_ms", "picture to command"),
        ("ecovla_guard_chunk_age_ms", "age of the chunk"))),
    ("Ticks of the guard, p99 late or early", "ms", (("ecovla_guard_tick_jitter_p99_ms", "jitter"),)),
    ("Chunks and commands a second", "ops", (
        (f"deriv(ecovla_guard_chunks_answered[{RATE}])", "chunks"),
        (f"deriv(ecovla_guard_commands[{RATE}])", "commands"),
        (f"deriv(ecovla_guard_refusals[{RATE}])", "refused"))),
    ("What was not taken", "short", (
        ("ecovla_guard_unreadable", "unreadable"), ("ecovla_guard_chunks_of_others", "chunks of others"),
        ("ecovla_frames_dropped", "pictures overwritten"), ("ecovla_reports_unmatched_total", "reports unmatched"))),
    ("Clients of the server", "short", (
        ("ecovla_sessions", "served"), ("ecovla_sessions_opened_total", "let in"),
        ("ecovla_sessions_turned_away_total", "turned away"), ("ecovla_sessions_moved_total", "begun anew"))),
    ("Answers a second, by replica", "ops", ((rate("ecovla_requests_total", "replica"), "replica {{replica}}"),)),
    ("Message to answer, p99", "s", ((p99("ecovla_answer_seconds", "replica"), "replica {{replica}}"),)),
    ("Replicas", "short", (("ecovla_replicas_warm", "warm"), ("ecovla_replicas_wanted", "asked for"))),
    ("Slower than asked", "short", (("ecovla_guard_stretch", "stretch of a chunk"),)),
)  # fmt: skip
"""Title, unit, and queries with their legends."""


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana imports it."""
    return {
        "uid": "ecovla",
        "title": "ecovla_ros",
        "description": "Policy, guard and server. Made by python -m ecovla_ros.publish.dashboard.",
        "schemaVersion": 39,
        "editable": True,
        "refresh": "5s",
        "time": {"from": "now-15m", "to": "now"},
        "templating": {
            "list": [{"name": "source", "type": "datasource", "query": "prometheus", "label": "Prometheus"}]
        },
        "panels": [_panel(index, *panel) for index, panel in enumerate(PANELS)],
    }


def _panel(index: int, title: str, unit: str, queries: Sequence[tuple[str, str]]) -> dict[str, Any]:
    across = 24 // WIDTH
    return {
        "id": index + 1,
        "type": "timeseries",
        "title": title,
        "datasource": SOURCE,
        "gridPos": {"x": WIDTH * (index % across), "y": HEIGHT * (index // across), "w": WIDTH, "h": HEIGHT},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + n), "expr": query, "legendFormat": legend, "datasource": SOURCE}
            for n, (query, legend) in enumerate(queries)
        ],
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Write the file; `--check` only tells whether it is up to date (exit 1)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args(argv)
    text = json.dumps(dashboard(), indent=1) + "\n"
    if options.check:
        return int(FILE.read_text(encoding="utf-8") != text)
    FILE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
