"""What a demo measured: one row for each task, a table, and the verdict whether everything worked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

TOPICS = (
    "/action_chunk",
    "/clock",
    "/diagnostics",
    "/instruction",
    "/joint_states",
    "/joint_trajectory_controller/joint_trajectory",
    "/latency",
    "/pruning",
    "/status",
    "/success",
    "/third_person/camera_info",
    "/third_person/image",
    "/wrist/camera_info",
    "/wrist/image",
)
"""What must have flowed. The gripper's topic is not among them: it is commanded only when its target changes."""

COLUMNS = (
    ("task", "task"),
    ("success", "success"),
    ("steps", "steps"),
    ("seconds", "s"),
    ("policy_p50_ms", "policy p50"),
    ("policy_p95_ms", "p95 ms"),
    ("camera_to_command_p50_ms", "camera to command p50"),
    ("camera_to_command_p95_ms", "p95 ms"),
    ("trigger_rate", "triggers"),
    ("pattern_age", "pattern age"),
    ("frames_dropped", "dropped"),
)


@dataclass
class Episode:
    """What was heard while one task was driven."""

    task: str
    instruction: str
    seed: int
    success: bool = False
    seconds: float = 0.0
    policy_ms: list[float] = field(default_factory=list)
    command_ms: list[float] = field(default_factory=list)
    """Camera stamp to trajectory published, of every trajectory that answers a chunk."""
    triggered: list[bool] = field(default_factory=list)
    pattern_age: list[int] = field(default_factory=list)
    dropped: list[int] = field(default_factory=list)
    """Counter of dropped frames, as reported with each frame."""
    reason: str = ""
    """What the guard said last."""

    def row(self) -> dict[str, Any]:
        """The episode as one flat object."""
        return {
            "task": self.task,
            "instruction": self.instruction,
            "seed": self.seed,
            "success": self.success,
            "steps": len(self.policy_ms),
            "seconds": round(self.seconds, 2),
            **_percentiles("policy", self.policy_ms),
            **_percentiles("camera_to_command", self.command_ms),
            "trigger_rate": round(float(np.mean(self.triggered)), 3) if self.triggered else None,
            "pattern_age": round(float(np.mean(self.pattern_age)), 1) if self.pattern_age else None,
            "frames_dropped": self.dropped[-1] - self.dropped[0] if self.dropped else None,
            "guard": self.reason,
        }


def _percentiles(name: str, values: Sequence[float]) -> dict[str, float | None]:
    if not values:
        return {f"{name}_p50_ms": None, f"{name}_p95_ms": None}
    p50, p95 = np.percentile(values, [50, 95])
    return {f"{name}_p50_ms": round(float(p50), 1), f"{name}_p95_ms": round(float(p95), 1)}


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as aligned text; what was not measured is a dash."""
    cells = [[heading for _, heading in COLUMNS]]
    cells += [[_cell(row.get(key)) for key, _ in COLUMNS] for row in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(COLUMNS))]
    return "\n".join("  ".join(text.rjust(width) for text, width in zip(row, widths)) for row in cells)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)


def faults(codes: Mapping[str, int], counts: Mapping[str, int]) -> list[str]:
    """What did not work: processes that did not end cleanly, topics on which nothing came. Task success is no part."""
    found = [f"{name} ended with exit code {code}" for name, code in codes.items() if code != 0]
    return found + [f"nothing was published on {topic}" for topic in TOPICS if not counts.get(topic)]
