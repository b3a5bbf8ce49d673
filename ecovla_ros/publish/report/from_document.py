"""A story from a JSON document of this package: `ecovla replay --json` frame by frame, others as tables."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ecovla_ros.errors import BagError
from ecovla_ros.publish.report.story import GuardChange, Story, columns

SCALARS = (str, int, float, bool, type(None))


def read(path: str | Path) -> Story:
    """Read a document. Raises BagError for what is none."""
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
        rows = [dict(row) for row in document["rows"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BagError(
            f"'{path}' is not a document of this package: {error!r}; valid: JSON with the key rows, from --json"
        ) from error
    if not rows:
        raise BagError(f"'{path}' holds no row")
    story = Story(Path(path).name, facts=_facts(document))
    if any("stamp_ns" in row and "policy_ms" in row for row in rows):
        _frames(story, rows)
    else:
        story.tables["rows"] = [{k: v for k, v in row.items() if isinstance(v, SCALARS)} for row in rows]
    return story


def _frames(story: Story, rows: list[dict[str, Any]]) -> None:
    begin_ns = min(int(row.get("time_ns", row["stamp_ns"])) for row in rows)
    for row in rows:
        row["t"] = (int(row.get("time_ns", row["stamp_ns"])) - begin_ns) / 1e9
    story.columns = columns(row for row in rows if "policy_ms" in row)
    story.held = [(row["t"], str(row["held"])) for row in rows if "held" in row]
    for row in rows:
        if row.get("guard") and (not story.changes or story.changes[-1].state != row["guard"]):
            story.changes.append(GuardChange(row["t"], row["guard"], "as seen with each frame"))
    story.notes.append(
        "from a replay's document: pictures, joint states and commands are in the bag (ecovla replay --out)"
    )


def _facts(document: Mapping[str, Any]) -> dict[str, str]:
    machine, versions = document.get("machine", {}), document.get("versions", {})
    facts = {"machine": f"{machine.get('cpu', 'unknown')}, {machine.get('cores', '?')} cores"} if machine else {}
    if versions:
        facts["versions"] = ", ".join(f"{k} {v}" for k, v in versions.items())
    if document.get("commit"):
        facts["commit"] = str(document["commit"])[:11]
    if document.get("settings"):
        facts["settings"] = ", ".join(
            f"{k}={v}" for k, v in document["settings"].items() if v not in (None, "", [], False)
        )
    return facts
