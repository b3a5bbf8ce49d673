"""Charts of a story, made with plotly. Each function gives a figure, or None where there is nothing to show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from ecovla_ros.publish.report.story import Story

COLOURS = {
    "decode": "#8c8c8c", "encode": "#4c78a8", "trigger": "#f2b701", "join": "#e45756", "prefill": "#54a24b",
    "act": "#7b5ea7", "post": "#b279a2", "refresh": "#ff8c1a", "policy": "#1f3b5c",
}  # fmt: skip
INK, GRID, SOFT = "#1b2733", "#e3e8ee", "#6b7885"
POINTS = 4000
"""A line has at most about so many points: each of its pieces keeps its lowest and its highest."""


def empty(height: int, x: str = "", y: str = "") -> go.Figure:
    """A figure in the report's style."""
    figure = go.Figure()
    figure.update_layout(
        height=height,
        autosize=True,
        margin={"l": 46, "r": 10, "t": 6, "b": 36},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 12, "color": INK},
        legend={"orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom"},
        hovermode="closest",
        bargap=0.05,
    )
    axis = {"gridcolor": GRID, "zerolinecolor": GRID, "automargin": True}
    figure.update_xaxes(title={"text": x, "standoff": 6}, **axis)
    figure.update_yaxes(title={"text": y, "standoff": 4}, **axis)
    return figure


def thin(t: np.ndarray, y: np.ndarray, points: int = POINTS) -> tuple[np.ndarray, np.ndarray]:
    """A line with fewer points and the same extremes."""
    if len(t) <= points:
        return t, y.astype(np.float32)
    pieces = np.array_split(np.arange(len(t)), points // 2)
    filled = np.where(np.isfinite(y), y, np.nanmean(y) if np.isfinite(y).any() else 0.0)
    keep = sorted({i for p in pieces for i in (p[filled[p].argmin()], p[filled[p].argmax()])})
    return t[keep], y[keep].astype(np.float32)


def histogram(values: np.ndarray, name: str) -> go.Figure | None:
    """How often a stage took how long, ms. What lies above the 99.5th percentile is counted in the last bar."""
    values = values[np.isfinite(values)]
    if not len(values) or not values.any():
        return None
    top = float(np.percentile(values, 99.5)) or float(values.max())
    counts, edges = np.histogram(
        np.minimum(values, top), bins=32, range=(float(values.min()), max(top, float(values.min()) + 1e-3))
    )
    figure = empty(150, "ms", "frames")
    figure.add_bar(
        x=(edges[:-1] + edges[1:]) / 2,
        y=counts,
        width=np.diff(edges) * 0.94,
        marker_color=COLOURS[name],
        hovertemplate="%{x:.2f} ms: %{y} frames<extra></extra>",
    )
    figure.update_layout(showlegend=False)
    return figure


def similarity(story: Story) -> go.Figure | None:
    """Similarity, threshold, and the frames that triggered."""
    columns = story.columns
    if not np.isfinite(columns["similarity"]).any():
        return None
    figure = empty(240, "s", "cosine similarity")
    for name, colour, dash in (("similarity", "#4c78a8", "solid"), ("threshold", "#e45756", "dot")):
        t, y = thin(columns["t"], columns[name])
        figure.add_scatter(x=t, y=y, name=name, mode="lines", line={"color": colour, "width": 1.4, "dash": dash})
    fired = columns["triggered"]
    figure.add_scatter(
        x=columns["t"][fired],
        y=columns["similarity"][fired],
        name="trigger",
        mode="markers",
        marker={"color": "#ff8c1a", "size": 7, "line": {"color": "white", "width": 1}},
    )
    return legend(figure)


def pattern_age(story: Story) -> go.Figure | None:
    """Frames since the pattern last changed."""
    age = story.columns["pattern_age"]
    if not np.isfinite(age).any() or set(story.columns["method"]) <= {"dense", ""}:
        return None
    figure = empty(170, "s", "frames")
    t, y = thin(story.columns["t"], age)
    figure.add_scatter(
        x=t, y=y, mode="lines", line={"color": "#54a24b", "width": 1.2, "shape": "hv"}, fill="tozeroy", name="age"
    )
    figure.update_layout(showlegend=False)
    return figure


def latency(story: Story) -> go.Figure | None:
    """Policy time of every frame, what it was allowed, and the misses."""
    columns = story.columns
    if not np.isfinite(columns["policy_ms"]).any():
        return None
    figure = empty(240, "s", "ms")
    for name, label, colour in (
        ("policy_ms", "policy", "#1f3b5c"),
        ("camera_to_chunk_ms", "camera to chunk", "#9ecae9"),
    ):
        if np.isfinite(columns[name]).any():
            t, y = thin(columns["t"], columns[name])
            figure.add_scatter(x=t, y=y, name=label, mode="lines", line={"color": colour, "width": 1.2})
    if np.isfinite(columns["deadline_ms"]).any():
        t, y = thin(columns["t"], columns["deadline_ms"], 200)
        figure.add_scatter(
            x=t, y=y, name="deadline", mode="lines", line={"color": "#e45756", "dash": "dash", "width": 1.2}
        )
    missed = columns["deadline_missed"]
    figure.add_scatter(
        x=columns["t"][missed],
        y=columns["policy_ms"][missed],
        name="missed",
        mode="markers",
        marker={"color": "#d62728", "symbol": "x", "size": 7},
    )
    return legend(figure)


def percentiles(rows: Sequence[dict[str, Any]]) -> go.Figure | None:
    """p50, p95 and p99 of a latency document, a bar for each row."""
    rows = [r for r in rows if r.get("p50_ms") is not None]
    if not rows:
        return None
    names = [" ".join(str(r[k]) for k in ("method", "ratio", "scope", "frames") if k in r) for r in rows]
    figure = empty(60 + 34 * len(rows), "ms")
    for key, colour in (("p50_ms", "#4c78a8"), ("p95_ms", "#f2b701"), ("p99_ms", "#e45756")):
        figure.add_bar(orientation="h", y=names, x=[r.get(key) for r in rows], name=key[:3], marker_color=colour)
    figure.update_yaxes(autorange="reversed")
    figure.update_layout(barmode="group", margin={"l": 10, "r": 10, "t": 34, "b": 36})
    return figure


def legend(figure: go.Figure) -> go.Figure:
    figure.update_layout(margin={"l": 46, "r": 10, "t": 34, "b": 36})
    return figure
