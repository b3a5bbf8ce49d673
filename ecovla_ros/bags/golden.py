"""Golden actions are what a policy once answered to a bag. This says where it answers differently now."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ecovla_ros.errors import BagError, unknown

TOLERANCES = {"float32": 1e-4, "float16": 1e-3, "bfloat16": 1e-2}
"""What the policy computes in -> largest difference of joint (rad) and gripper targets that counts as none. Processors
round in another order: 1.1e-5 was seen in float32 between an AMD EPYC and an Intel Xeon.
"""
KEPT = ("stamp_ns", "kind", "triggered", "pattern", "dtype", "held")
"""Beside the chunks, what a golden file keeps of a row."""
SHOWN = 12
"""Frames that a table shows at most."""
Row = Mapping[str, Any]


def write(path: str | Path, rows: Sequence[Row]) -> None:
    """Keep the chunks of a replay, to 1e-7 rad; makes the folder."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({k: row[k] for k in KEPT if k in row} | _chunk(row)) for row in rows]
    path.write_text('{"rows": [\n' + ",\n".join(lines) + "\n]}\n", encoding="utf-8")


def read(path: str | Path) -> list[dict[str, Any]]:
    """Rows of a golden file, or of a document of `ecovla replay --json`. Raises BagError."""
    try:
        rows = json.loads(Path(path).read_text(encoding="utf-8"))["rows"]
        found = [dict(row) for row in rows]
        if not all("stamp_ns" in row and row.keys() & {"joints", "held"} for row in found):
            raise ValueError("its rows are no answers to frames")
        return found
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BagError(
            f"'{path}' is neither golden actions nor a document of ecovla replay --json: {error!r}"
        ) from error


def tolerance(expected: Sequence[Row]) -> float:
    """The tolerance of what the golden actions were computed in. Raises BagError for an unknown one."""
    names = {str(row["dtype"]) for row in expected if "dtype" in row} or {"float32"}
    for name in names:
        if name not in TOLERANCES:
            raise BagError(unknown("dtype", name, TOLERANCES))
    return max(TOLERANCES[name] for name in names)


def differences(rows: Sequence[Row], expected: Sequence[Row], allowed: float | None = None) -> list[dict[str, Any]]:
    """One row for each frame that differs; empty: none does. Without `allowed`, the tolerance of the dtype holds."""
    allowed = tolerance(expected) if allowed is None else allowed
    found: list[dict[str, Any]] = []
    for i in range(max(len(rows), len(expected))):
        if i >= len(rows) or i >= len(expected):
            found.append(
                {"frame": i, "what": "only in the golden file" if i >= len(rows) else "not in the golden file"}
            )
            continue
        found += _frame(i, rows[i], expected[i], allowed)
    return found


def _frame(i: int, row: Row, golden: Row, allowed: float) -> list[dict[str, Any]]:
    head = {"frame": i, "stamp_ns": row.get("stamp_ns")}
    if ("joints" in row) != ("joints" in golden):
        return [
            head
            | {
                "what": "held" if "joints" in golden else "answered",
                "golden": golden.get("held", "a chunk"),
                "now": row.get("held", "a chunk"),
            }
        ]
    for key in ("stamp_ns", "kind", "pattern"):
        if key in golden and golden[key] != row.get(key):
            return [
                head | {"what": key, "golden": golden[key], "now": row.get(key), "difference": _largest(row, golden)}
            ]
    difference = _largest(row, golden)
    if difference <= allowed:
        return []
    at, name = _where(row, golden)
    return [head | {"what": f"{name}, row {at}", "difference": difference, "allowed": allowed}]


def table(found: Sequence[Row]) -> str:
    """The differences as text, the first `SHOWN` of them."""
    columns = [
        c for c in ("frame", "stamp_ns", "what", "golden", "now", "difference", "allowed") if any(c in f for f in found)
    ]
    cells = [columns] + [[_cell(f.get(c)) for c in columns] for f in found[:SHOWN]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    lines = ["  ".join(text.rjust(width) for text, width in zip(row, widths)) for row in cells]
    more = [f"... and {len(found) - SHOWN} more frames"] if len(found) > SHOWN else []
    return "\n".join(lines + more)


def largest(rows: Sequence[Row], expected: Sequence[Row]) -> float:
    """Largest difference over all frames; infinity where one answers and the other does not."""
    if len(rows) != len(expected):
        return math.inf
    return max((_largest(a, b) for a, b in zip(rows, expected)), default=0.0)


def _chunk(row: Row) -> dict[str, Any]:
    if "joints" not in row:
        return {}
    return {
        "joints": [[round(v, 7) for v in r] for r in row["joints"]],
        "grippers": [round(v, 7) for v in row["grippers"]],
    }


def _flat(row: Row) -> list[float]:
    return [v for r, g in zip(row["joints"], row["grippers"]) for v in (*r, g)]


def _largest(row: Row, golden: Row) -> float:
    if ("joints" in row) != ("joints" in golden):
        return math.inf
    if "joints" not in row:
        return 0.0
    a, b = _flat(row), _flat(golden)
    return max((_apart(x, y) for x, y in zip(a, b)), default=0.0) if len(a) == len(b) else math.inf


def _apart(x: float, y: float) -> float:
    return abs(x - y) if math.isfinite(x) and math.isfinite(y) else math.inf


def _where(row: Row, golden: Row) -> tuple[int, str]:
    """Row of the chunk and name of the joint that differ most."""
    a, b = _flat(row), _flat(golden)
    if len(a) != len(b):
        return 0, f"{len(row['grippers'])} rows, golden {len(golden['grippers'])}"
    i = max(range(len(a)), key=lambda k: _apart(a[k], b[k]))
    at, joint = divmod(i, 8)
    return at, "gripper" if joint == 7 else f"joint_{joint + 1}"


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)[:60]
