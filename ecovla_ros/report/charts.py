"""Charts of a story, made with plotly. Each function gives a figure, or None where there is nothing to show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from ecovla_ros.control.limits import Limits
from ecovla_ros.report.story import STAGES, Command, Story
from ecovla_ros.types import JOINTS

COLOURS = {
    "decode": "#8c8c8c", "encode": "#4c78a8", "trigger": "#f2b701", "join": "#e45756", "prefill": "#54a24b",
    "act": "#7b5ea7", "post": "#b279a2", "refresh": "#ff8c1a", "policy": "#1f3b5c",
}  # fmt: skip
STATES = {
    "DISARMED": "#b0b7bf", "ARMED": "#f2b701", "RUNNING": "#54a24b", "DEGRADED": "#d98e04", "HOLD": "#4c78a8",
    "LATCHED": "#d62728",
}  # fmt: skip
INK, GRID, SOFT = "#1b2733", "#e3e8ee", "#6b7885"
POINTS = 4000
"""A line has at most about so many points: each of its pieces keeps its lowest and its highest."""


def empty(height: int, x: str = "", y: str = "") -> go.Figure:
    """A figure in the report's style."""
    figure = go.Figure()
    figure.update_layout(
        height=height, autosize=True, margin={"l": 46, "r": 10, "t": 6, "b": 36}, paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)", font={"family": "system-ui, sans-serif", "size": 12, "color": INK},
        legend={"orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom"}, hovermode="closest", bargap=0.05,
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
    counts, edges = np.histogram(np.minimum(values, top), bins=32, range=(float(values.min()), max(top, float(values.min()) + 1e-3)))
    figure = empty(150, "ms", "frames")
    figure.add_bar(x=(edges[:-1] + edges[1:]) / 2, y=counts, width=np.diff(edges) * 0.94, marker_color=COLOURS[name],
                   hovertemplate="%{x:.2f} ms: %{y} frames<extra></extra>")
    figure.update_layout(showlegend=False)
    return figure


def timeline(story: Story) -> tuple[go.Figure, str] | None:
    """One frame as two lanes: main stream above, side stream below; and the frame after it. With a caption."""
    i = _telling(story)
    if i is None:
        return None
    columns = story.columns
    figure = empty(220, "ms after the frame began")
    shown: set[str] = set()
    ends = [0.0]
    for frame in (i, i + 1):
        if frame >= story.frames:
            break
        begin = 0.0 if frame == i else max(1e3 * float(columns["t"][i + 1] - columns["t"][i]), ends[-1])
        ends.append(_lane(figure, columns, frame, begin, shown))
    side = float(columns["refresh_ms"][i + 1]) if i + 1 < story.frames else float("nan")
    refreshed = columns["kind"][i] == "refresh" and np.isfinite(side) and side > 0
    if refreshed:
        _bar(figure, "side", "refresh", _recorded(columns, i), side, shown)
    figure.update_yaxes(categoryorder="array", categoryarray=["side", "main"], automargin=True)
    figure.update_layout(barmode="overlay", margin={"l": 46, "r": 10, "t": 40, "b": 36})
    waited = float(columns["join_ms"][i + 1]) if i + 1 < story.frames else float("nan")
    caption = f"Frame {i} of {story.frames} ({columns['kind'][i]}), at {columns['t'][i]:.2f} s, and the frame after it."
    if refreshed:
        caption += (
            f" Its refresh took {side:.2f} ms on the side stream; the next frame waited {waited:.2f} ms for it (join). Drawn "
            "from the end of the prefill that recorded it, the earliest it can begin: its own start is not reported."
        )
    return figure, caption


def _telling(story: Story) -> int | None:
    """The frame that shows most: the triggered refresh of median length that has a frame after it, or a median frame."""
    total, kind = story.columns["policy_ms"], story.columns["kind"]
    usable = np.isfinite(total)
    if not usable.any():
        return None
    refresh = usable & (kind == "refresh") & (np.arange(len(kind)) + 1 < len(kind))
    chosen = np.flatnonzero(refresh if refresh.any() else usable)
    return int(chosen[np.argsort(total[chosen])[len(chosen) // 2]])


def _lane(figure: go.Figure, columns: dict[str, np.ndarray], i: int, begin: float, shown: set[str]) -> float:
    for stage in STAGES:
        length = float(columns[f"{stage}_ms"][i])
        if np.isfinite(length) and length > 0:
            _bar(figure, "main", stage, begin, length, shown)
            begin += length
    return begin


def _recorded(columns: dict[str, np.ndarray], i: int) -> float:
    return float(np.nansum([columns[f"{s}_ms"][i] for s in STAGES[: STAGES.index("prefill") + 1]]))


def _bar(figure: go.Figure, lane: str, name: str, begin: float, length: float, shown: set[str]) -> None:
    figure.add_bar(
        orientation="h", y=[lane], x=[length], base=[begin], name=name, legendgroup=name, showlegend=name not in shown,
        marker={"color": COLOURS[name], "line": {"color": "white", "width": 1}}, width=0.7,
        text=[name if lane == "side" or name in ("encode", "prefill", "act") else ""], textposition="inside", insidetextanchor="middle",
        textangle=0, constraintext="inside", hovertemplate=f"{name}: {length:.2f} ms<extra></extra>",
    )
    shown.add(name)


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
    figure.add_scatter(x=columns["t"][fired], y=columns["similarity"][fired], name="trigger", mode="markers",
                       marker={"color": "#ff8c1a", "size": 7, "line": {"color": "white", "width": 1}})
    return _legend(figure)


def pattern_age(story: Story) -> go.Figure | None:
    """Frames since the pattern last changed."""
    age = story.columns["pattern_age"]
    if not np.isfinite(age).any() or set(story.columns["method"]) <= {"dense", ""}:
        return None
    figure = empty(170, "s", "frames")
    t, y = thin(story.columns["t"], age)
    figure.add_scatter(x=t, y=y, mode="lines", line={"color": "#54a24b", "width": 1.2, "shape": "hv"}, fill="tozeroy", name="age")
    figure.update_layout(showlegend=False)
    return figure


def latency(story: Story) -> go.Figure | None:
    """Policy time of every frame, what it was allowed, and the misses."""
    columns = story.columns
    if not np.isfinite(columns["policy_ms"]).any():
        return None
    figure = empty(240, "s", "ms")
    for name, label, colour in (("policy_ms", "policy", "#1f3b5c"), ("camera_to_chunk_ms", "camera to chunk", "#9ecae9")):
        if np.isfinite(columns[name]).any():
            t, y = thin(columns["t"], columns[name])
            figure.add_scatter(x=t, y=y, name=label, mode="lines", line={"color": colour, "width": 1.2})
    if np.isfinite(columns["deadline_ms"]).any():
        t, y = thin(columns["t"], columns["deadline_ms"], 200)
        figure.add_scatter(x=t, y=y, name="deadline", mode="lines", line={"color": "#e45756", "dash": "dash", "width": 1.2})
    missed = columns["deadline_missed"]
    figure.add_scatter(x=columns["t"][missed], y=columns["policy_ms"][missed], name="missed", mode="markers",
                       marker={"color": "#d62728", "symbol": "x", "size": 7})
    return _legend(figure)


def states(story: Story) -> go.Figure | None:
    """The guard's states over time."""
    if not story.changes:
        return None
    figure = empty(130, "s")
    ends = [c.t for c in story.changes[1:]] + [max(story.seconds, story.changes[-1].t)]
    shown: set[str] = set()
    for change, end in zip(story.changes, ends):
        figure.add_bar(
            orientation="h", y=["state"], x=[max(end - change.t, 1e-3)], base=[change.t], name=change.state, width=0.8,
            marker_color=STATES.get(change.state, SOFT), showlegend=change.state not in shown, legendgroup=change.state,
            hovertemplate=f"{change.t:.2f} s: {change.state}<br>{change.reason}<extra></extra>",
        )
        shown.add(change.state)
    figure.update_layout(barmode="overlay", margin={"l": 10, "r": 10, "t": 34, "b": 36})
    figure.update_yaxes(showticklabels=False)
    return figure


def joint(story: Story, i: int, limits: Limits) -> go.Figure | None:
    """Commanded and measured position of a joint against its limits, rad."""
    if not story.commands and not len(story.measured):
        return None
    figure = empty(170, "s", "rad")
    if len(story.measured):
        t, y = thin(story.measured_t, story.measured[:, i], 1200)
        figure.add_scatter(x=t, y=y, name="measured", mode="lines", line={"color": SOFT, "width": 2.4})
    if story.commands:
        t, y = thin(*_played(story.commands, i), 2400)
        figure.add_scatter(x=t, y=y, name="command", mode="lines", line={"color": "#4c78a8", "width": 1.2})
    for bound in (limits.lower[i], limits.upper[i]):
        if np.isfinite(bound):
            figure.add_hline(y=float(bound), line={"color": "#d62728", "dash": "dash", "width": 1})
    figure.update_layout(showlegend=False)
    return figure


def speeds(story: Story, limits: Limits) -> go.Figure | None:
    """Largest commanded speed of every command as a share of its limit, and the joint it belongs to."""
    if not story.commands:
        return None
    share = np.array([_share(command, limits) for command in story.commands])
    worst = share.argmax(axis=1)
    t = np.array([c.t for c in story.commands])
    figure = empty(210, "s", "% of the velocity limit")
    figure.add_scatter(x=t, y=100 * share.max(axis=1), mode="markers", name="command", marker={"color": "#4c78a8", "size": 4},
                       text=[JOINTS[k] for k in worst], hovertemplate="%{x:.2f} s: %{y:.0f} % (%{text})<extra></extra>")
    figure.add_hline(y=100.0, line={"color": "#d62728", "dash": "dash", "width": 1})
    figure.update_layout(showlegend=False)
    figure.update_yaxes(rangemode="tozero")
    return figure


def _share(command: Command, limits: Limits) -> np.ndarray:
    """Largest speed of each joint over its limit, (7,): as named, or from the differences of the points."""
    speeds = np.abs(command.velocities)
    if not np.isfinite(speeds).all():
        steps = np.diff(command.times)[:, None]
        speeds = np.abs(np.diff(command.positions, axis=0)) / steps if len(command.times) > 1 else np.zeros((1, len(JOINTS)))
    return np.asarray(speeds.max(axis=0) / limits.velocity)


def _played(commands: Sequence[Command], i: int) -> tuple[np.ndarray, np.ndarray]:
    """Position of a joint as commanded: each trajectory until the next one replaces it."""
    t, y = [], []
    for k, command in enumerate(commands):
        end = commands[k + 1].t if k + 1 < len(commands) else np.inf
        at = command.t + command.times
        t.append(np.append(at[at < end], np.nan if at[-1] < end - 0.5 else []))
        y.append(np.append(command.positions[at < end, i], np.nan if at[-1] < end - 0.5 else []))
    return np.concatenate(t), np.concatenate(y)


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


def _legend(figure: go.Figure) -> go.Figure:
    figure.update_layout(margin={"l": 46, "r": 10, "t": 34, "b": 36})
    return figure
