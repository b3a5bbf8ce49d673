"""Writes tables as Markdown, with a line that says where their figures come from."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

Document = Mapping[str, Any]
MISSING = "*not measured*"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]], note: str = "") -> str:
    """A Markdown table, and below it the line that says where it was measured."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *("| " + " | ".join(r) + " |" for r in rows)]
    return "\n".join([*lines, "", note] if note else lines)


def source(document: Document, command: str) -> str:
    """Machine, versions and commit of a document, and the command that writes it."""
    machine, versions = document["machine"], document["versions"]
    packages = ", ".join(f"{k} {v}" for k, v in versions.items())
    commit = ", ".join(_short(str(name)) for name in document.get("commits") or [document["commit"]])
    return f"<sub>{machine['cpu']}, {machine['cores']} cores; {packages}; commit {commit}. `{command}`</sub>"


def command_line(command: str, defaults: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """`command` with the options of a document that are not the defaults; `settings` holds them under their names."""
    words = [command]
    for name, default in defaults.items():
        value = settings.get(name, default)
        if value != default:
            words.append(f"--{name.replace('_', '-')}" + ("" if value is True else f" {value}"))
    return " ".join([*words, *(f"--set {text}" for text in map(shlex.quote, settings["set"]))])


def _short(commit: str) -> str:
    """Ten digits, and the "+" of a tree with local changes."""
    return commit[:10] + ("+" if commit.endswith("+") else "")


def number(value: float | None) -> str:
    """Three digits; a dash for None."""
    return "-" if value is None else f"{value:.3g}"


def percent(value: float | None, digits: int = 0) -> str:
    """A share in per cent; a dash for None."""
    return "-" if value is None else f"{100 * value:.{digits}f} %"


def share(value: float | None) -> str:
    """A share with two decimals; a dash for None."""
    return "-" if value is None else f"{value:.2f}"


def memory(value: float | None) -> str:
    """A ratio of memory with four decimals; a dash for None."""
    return "-" if value is None else f"{value:.4f}x"


def times(value: float | None) -> str:
    """A factor; a dash for None."""
    return "-" if value is None else f"{value:.2f}x"
