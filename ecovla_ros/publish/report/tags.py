"""Pieces of the report's HTML. Whatever is handed in is escaped, but for `parts`, which are HTML already."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

CONFIG = {"responsive": True, "displaylogo": False, "displayModeBar": False}


def section(heading: str, what: str, *parts: str) -> str:
    """A heading, what it is about, and its parts; nothing when no part shows anything."""
    if not any(parts):
        return ""
    return (
        f"<section><h2>{text(heading)}</h2>" + (f"<p>{text(what)}</p>" if what else "") + "".join(parts) + "</section>"
    )


def chart(figure: go.Figure | None) -> str:
    """A figure that fills the width of its place."""
    if figure is None:
        return ""
    return str(figure.to_html(full_html=False, include_plotlyjs=False, config=CONFIG, default_width="100%"))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table that scrolls to the side by itself where it is too wide."""
    top = "".join(f"<th>{text(name)}</th>" for name in head)
    lines = "".join("<tr>" + "".join(f"<td>{text(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{lines}</tbody></table></div>'


def share(flags: np.ndarray) -> str:
    """How many, and what part of all."""
    return f"{int(flags.sum())} ({100 * flags.mean():.1f} %)" if len(flags) else "-"


def number(value: Any) -> str:
    """To four digits; a dash for what is not there."""
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def text(value: object) -> str:
    """Escaped."""
    return html.escape(str(value))
