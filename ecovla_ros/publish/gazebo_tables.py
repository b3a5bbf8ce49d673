"""The table of what was driven in Gazebo."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ecovla_ros.publish.markdown import Document, markdown, number, percent, source

Row = dict[str, Any]


def driven(document: Document) -> str:
    """A line for each way to prune and task: counts of episodes, medians of what each episode told."""
    rows: Sequence[Row] = document["rows"]
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        way = f"{row['method']}, {percent(row['ratio'])}" if row["ratio"] else str(row["method"])
        groups.setdefault((way, row["task"]), []).append(row)
    cells = [
        [way, task, _of("success", some), _of("lifted", some), _median("policy_p50_ms", some),
         _median("policy_p95_ms", some), _median("camera_to_command_p50_ms", some), _states(some),
         f"{np.median([row['real_time_factor'] for row in some]):.2f}"]
        for (way, task), some in sorted(groups.items())
    ]  # fmt: skip
    head = ("pruning", "task", "solved", "lifted the object", "policy call, p50, ms", "p95, ms",
            "camera to command, p50, ms simulated", "guard: time running, holding", "real-time factor")  # fmt: skip
    settings = document["settings"]
    told = {"seeds": settings["seeds"], "seconds": settings["episode_s"], **settings["launch"]}
    command = " ".join(["ecovla gazebo", *(f"--{name} {value}" for name, value in told.items())])
    return markdown(head, cells, source(document, command))


def _of(key: str, rows: Sequence[Row]) -> str:
    return f"{sum(bool(row[key]) for row in rows)} of {len(rows)}"


def _median(key: str, rows: Sequence[Row]) -> str:
    told = [row[key] for row in rows if row[key] is not None]
    return number(float(np.median(told)) if told else None)


def _states(rows: Sequence[Row]) -> str:
    running, holding = (np.mean([row["guard_states"].get(state, 0.0) for row in rows]) for state in ("RUNNING", "HOLD"))
    return f"{percent(float(running))}, {percent(float(holding))}"
