"""Tables of every setting, from the fields of `ecovla_ros/config.py`: the only list of them."""

from __future__ import annotations

import dataclasses
from typing import Any

from ecovla_ros.config import Config
from ecovla_ros.publish.markdown import markdown


def sections(part: Any = None, name: str = "") -> tuple[str, ...]:
    """Names of the sections of `Config`, a section inside another behind it: "policy", "policy.embodiment", ..."""
    part = Config() if part is None else part
    found = [name] if name else []
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        if dataclasses.is_dataclass(value):
            found += sections(value, f"{name}.{field.name}".lstrip("."))
    return tuple(found)


def section(name: str) -> str:
    """The settings of one section, "prune" or "policy.embodiment": key, default, what is valid, unit, meaning."""
    part: Any = Config()
    for word in name.split("."):
        part = getattr(part, word)
    rows = [
        [f"`{field.name}`", _value(getattr(part, field.name)), _valid(field.metadata, getattr(part, field.name)),
         field.metadata.get("unit", ""), _cell(field.metadata["doc"])]
        for field in dataclasses.fields(part)
        if not dataclasses.is_dataclass(getattr(part, field.name))
    ]  # fmt: skip
    return markdown(("key", "default", "valid", "unit", "means"), rows)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "`true`" if value else "`false`"
    if isinstance(value, tuple):
        return f"`[{', '.join(str(v) for v in value)}]`"
    return f"`{value}`" if value != "" else "empty"


def _valid(metadata: Any, value: Any) -> str:
    many = "list of " if isinstance(value, tuple) else ""
    if "choices" in metadata:
        return many + ", ".join(f"`{c}`" for c in metadata["choices"])
    if "range" in metadata:
        low, high = metadata["range"]
        return f"{many}{low:,} to {high:,}".replace(",", "\u202f")
    return "`true`, `false`" if isinstance(value, bool) else f"{many}text" if many == "" else "list"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
