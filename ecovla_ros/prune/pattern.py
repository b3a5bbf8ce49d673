"""Patterns as files: which channels each site keeps, to start from, to compare, to reproduce a run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from ecovla_ros import documents
from ecovla_ros.errors import PruningError

FORM = "ecovla-pattern-1"


def save(path: str | Path, orders: Mapping[str, Sequence[int]], kept: Mapping[str, int]) -> None:
    """Write site key -> channels by slot, and how many of them are kept, as JSON."""
    sites = {key: {"kept": kept.get(key, len(order)), "channels": list(order)} for key, order in orders.items()}
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"form": FORM, "sites": sites}) + "\n", encoding="utf-8")


def load(path: str | Path) -> dict[str, list[int]]:
    """Site key -> channels by slot. Raises PruningError for a file that is missing or no pattern."""
    return {key: order for key, (_, order) in _sites(path).items()}


def kept(path: str | Path) -> dict[str, int]:
    """Site key -> how many of its channels are kept. Raises PruningError for a file that is missing or no pattern."""
    return {key: count for key, (count, _) in _sites(path).items()}


def _sites(path: str | Path) -> dict[str, tuple[int, list[int]]]:
    try:
        document = documents.read_json(Path(path))
    except OSError as error:
        raise PruningError(f"cannot read pattern '{path}': {error.strerror}") from error
    except ValueError as error:
        raise PruningError(f"'{path}' is not JSON: {error}") from error
    if not isinstance(document, dict) or document.get("form") != FORM:
        raise PruningError(f"'{path}' is not a pattern; valid: a file of `ecovla bench --save-pattern`, form {FORM}")
    try:
        sites = document["sites"].items()
        return {key: (int(site["kept"]), [int(c) for c in site["channels"]]) for key, site in sites}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise PruningError(f"'{path}' is a malformed pattern: {error!r}") from error
