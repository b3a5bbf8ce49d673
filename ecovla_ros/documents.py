"""YAML and JSON of others: bounded in size and depth before anything is built of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

MOST_BYTES = 4 * 2**20
"""Longest YAML, bytes; the metadata of a bag with a thousand topics has half a megabyte."""
MOST_DEPTH = 32
"""Deepest nesting of YAML."""


def from_yaml(text: str | bytes) -> Any:
    """The value of a YAML document of plain types. Raises ValueError: malformed, too long, or too deep."""
    check_yaml(text)
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, TypeError) as error:
        raise ValueError(f"not YAML: {error}") from error


def check_yaml(text: str | bytes) -> None:
    """Raises ValueError for what a reader of YAML must not be handed. Reads no further than where it is too deep."""
    if len(text) > MOST_BYTES:
        raise ValueError(f"{len(text)} bytes of YAML; valid: up to {MOST_BYTES}")
    depth = 0
    try:
        for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MOST_DEPTH:
                raise ValueError(f"YAML nested deeper than {MOST_DEPTH}")
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"not YAML: {error}") from error


def read_json(path: Path) -> Any:
    """The value of a JSON file. Raises OSError, or ValueError for what is malformed or too deep."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError("JSON nested too deep") from error
