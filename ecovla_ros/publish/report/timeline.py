"""Draws one frame as two lanes, main and side stream, to show where the time of a refresh goes. Made with plotly."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from ecovla_ros.publish.report.charts import COLOURS, empty
from ecovla_ros.publish.report.story import STAGES, Story


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
            f" Its refresh took {side:.2f} ms on the side stream; the next frame waited {waited:.2f} ms for it "
            "(join). "
            "Drawn from the end of the prefill that recorded it, the earliest it can begin: its own start is not "
            "reported."
        )
    return figure, caption


def _telling(story: Story) -> int | None:
    """The frame that shows most: the refresh of median length that has a frame after it, or a median frame."""
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
        orientation="h",
        y=[lane],
        x=[length],
        base=[begin],
        name=name,
        legendgroup=name,
        showlegend=name not in shown,
        marker={"color": COLOURS[name], "line": {"color": "white", "width": 1}},
        width=0.7,
        text=[name if lane == "side" or name in ("encode", "prefill", "act") else ""],
        textposition="inside",
        insidetextanchor="middle",
        textangle=0,
        constraintext="inside",
        hovertemplate=f"{name}: {length:.2f} ms<extra></extra>",
    )
    shown.add(name)
