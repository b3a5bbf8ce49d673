"""YAML and JSON of others: bounded in size and depth before anything is built of them; and what files are instead."""

from __future__ import annotations

import json
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

MOST_BYTES = 4 * 2**20
"""Longest YAML, bytes; the metadata of a bag with a thousand topics has half a megabyte."""
MOST_DEPTH = 32
"""Deepest nesting of YAML."""
MOST_KEYS = 1000
"""Mappings of more keys are not searched for one that stands twice."""


LFS, PAGE = b"version https://git-lfs", (b"<!doctype", b"<html", b"<?xml", b"<error")


def instead(path: Path) -> str:
    """What a file is instead of what it is called: "is ...", by its link and its first bytes; empty where these do not
    tell. Raises OSError for one that cannot be opened."""
    if path.is_symlink() and not path.exists():
        return f"is a link to '{path.readlink()}', which is not there: the download or the copy is not whole"
    with path.open("rb") as file:
        head = file.read(64)
    if not head:
        return "is an empty file (0 bytes): the download or the copy failed"
    if head.startswith(LFS):
        return "is a git-lfs pointer, not the file; fetch it: git lfs pull"
    if head.lstrip().lower().startswith(PAGE):
        return "is a web page: the download went wrong"
    return "holds zeros alone: the download or the copy failed" if not any(head) else ""


def from_yaml(text: str | bytes) -> Any:
    """The value of a YAML document of plain types. Raises ValueError: malformed, too long, or too deep."""
    check_yaml(text)
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506  a SafeLoader
    except (yaml.YAMLError, RecursionError, TypeError) as error:
        raise ValueError(f"not YAML: {error}") from error


class _Loader(yaml.SafeLoader):
    """YAML's own rule: a key stands once. PyYAML would take the last one and forget the others."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        if isinstance(node, yaml.MappingNode):
            names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
            twice = next((name for name in names if names.count(name) > 1), None) if len(names) < MOST_KEYS else None
            if twice is not None:
                raise yaml.constructor.ConstructorError(None, None, f"'{twice}' stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


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
    """The value of a JSON file. Raises OSError, or ValueError for what is malformed, too deep, or something else."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except RecursionError as error:
        raise ValueError("JSON nested too deep") from error
    except ValueError as error:
        if why := instead(path):
            raise ValueError(f"it {why}") from error
        raise
