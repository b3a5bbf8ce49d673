"""Charts of the guard and the arm: states, positions and speeds against their limits. Made with plotly."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from ecovla_ros.control.limits import Limits
from ecovla_ros.publish.report.charts import SOFT, empty, thin
from ecovla_ros.publish.report.story import SentTrajectory, Story
from ecovla_ros.types import JOINTS

STATES = {
    "DISARMED": "#b0b7bf", "ARMED": "#f2b701", "RUNNING": "#54a24b", "DEGRADED": "#d98e04", "HOLD": "#4c78a8",
    "HELD": "#2f5d8a",    "LATCHED": "#d62728",
}  # fmt: skip


def states(story: Story) -> go.Figure | None:
    """The guard's states over time."""
    if not story.changes:
        return None
    figure = empty(130, "s")
    ends = [c.t for c in story.changes[1:]] + [max(story.seconds, story.changes[-1].t)]
    shown: set[str] = set()
    for change, end in zip(story.changes, ends):
        figure.add_bar(
            orientation="h",
            y=["state"],
            x=[max(end - change.t, 1e-3)],
            base=[change.t],
            name=change.state,
            width=0.8,
            marker_color=STATES.get(change.state, SOFT),
            showlegend=change.state not in shown,
            legendgroup=change.state,
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
    figure.add_scatter(
        x=t,
        y=100 * share.max(axis=1),
        mode="markers",
        name="command",
        marker={"color": "#4c78a8", "size": 4},
        text=[JOINTS[k] for k in worst],
        hovertemplate="%{x:.2f} s: %{y:.0f} % (%{text})<extra></extra>",
    )
    figure.add_hline(y=100.0, line={"color": "#d62728", "dash": "dash", "width": 1})
    figure.update_layout(showlegend=False)
    figure.update_yaxes(rangemode="tozero")
    return figure


def _share(command: SentTrajectory, limits: Limits) -> np.ndarray:
    """Largest speed of each joint over its limit, (7,): as named, or from the differences of the points."""
    speeds = np.abs(command.velocities)
    if not np.isfinite(speeds).all():
        steps = np.diff(command.times)[:, None]
        speeds = (
            np.abs(np.diff(command.positions, axis=0)) / steps if len(command.times) > 1 else np.zeros((1, len(JOINTS)))
        )
    return np.asarray(speeds.max(axis=0) / limits.velocity)


def _played(commands: Sequence[SentTrajectory], i: int) -> tuple[np.ndarray, np.ndarray]:
    """Position of a joint as commanded: each trajectory until the next one replaces it."""
    t, y = [], []
    for k, command in enumerate(commands):
        end = commands[k + 1].t if k + 1 < len(commands) else np.inf
        at = command.t + command.times
        t.append(np.append(at[at < end], np.nan if at[-1] < end - 0.5 else []))
        y.append(np.append(command.positions[at < end, i], np.nan if at[-1] < end - 0.5 else []))
    return np.concatenate(t), np.concatenate(y)
