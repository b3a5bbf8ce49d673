"""The figures of the documentation, drawn from result files alone: `ecovla plot`. Needs matplotlib.

Success and speed-up against the pruning ratio, and one episode: similarity, threshold, triggers, pattern churn.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ecovla_ros.errors import ConfigError

Row = Mapping[str, Any]
Series = dict[str, list[tuple[float, ...]]]
"""Label -> points in order of x."""


def read(path: Path) -> dict[str, Any]:
    """A result document. Raises ConfigError."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        found["rows"], found["commit"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"'{path}' is no result file ({error!r})") from error
    return dict(found)


def label(row: Row) -> str:
    """Name of a method in a legend."""
    return str(row["method"]) if row.get("refresh", "none") == "none" else f"{row['method']} ({row['refresh']})"


def success_series(rows: Sequence[Row], environment: str) -> Series:
    """Method -> (ratio, rate, low, high), tasks pooled. Dense is the point at ratio 0 of every method, or alone."""
    pooled = [r for r in rows if r["task"] == "all" and r["environment"] == environment and r["episodes"]]
    dense = [_success_point(r) for r in pooled if r["method"] == "dense"]
    out: Series = {}
    for row in pooled:
        if row["method"] != "dense":
            out.setdefault(label(row), list(dense)).append(_success_point(row))
    return {name: sorted(points) for name, points in (out or {"dense": dense}).items()}


def speed_series(rows: Sequence[Row], scope: str) -> Series:
    """Method -> (ratio, speed-up), all frames of `scope` (prefill or policy)."""
    out: Series = {}
    for row in rows:
        if row["scope"] == scope and row["frames"] == "all" and row["method"] != "dense":
            out.setdefault(label(row), []).append((row["ratio"], row["speedup"]))
    return {name: sorted({*points}) for name, points in out.items()}


def _success_point(row: Row) -> tuple[float, ...]:
    return row["ratio"], row["successes"] / row["episodes"], row["low"], row["high"]


def ratio_plot(success: Sequence[Mapping[str, Any]], latency: Mapping[str, Any], path: Path) -> None:
    """Write the first picture; the format is that of the file's name. Raises ConfigError.

    One panel per environment of the documents `success`, all with the same axis, and one of the speed-up. Methods stand
    a little apart so that intervals do not cover one another.
    """
    panels = [
        (name, success_series(document["rows"], name))
        for document in success
        for name in dict.fromkeys(r["environment"] for r in document["rows"])
    ]
    found = [series for _, series in panels]
    names = list(dict.fromkeys([*(n for s in found for n in s), *speed_series(latency["rows"], "policy")]))
    colours = {name: f"C{i}" for i, name in enumerate(names)}
    lowest = min((point[2] for s in found for points in s.values() for point in points), default=0.0)
    figure, axes = _figure(2, -(-(len(panels) + 1) // 2), (3.6, 2.9))
    for axis, (environment, series) in zip(axes, panels):
        _success_panel(axis, series, colours)
        axis.set(title=f"success, {environment}", ylim=(100 * lowest - 1, 100.5))
    axes[0].legend(fontsize=7, loc="lower left")
    _speed_panel(axes[len(panels)], latency, colours)
    for axis in axes[len(panels) + 1 :]:
        axis.set_axis_off()
    commits = ", ".join(dict.fromkeys(document["commit"][:10] for document in success))
    _write(figure, path, f"simulated; commits: success {commits}, latency {latency['commit'][:10]}")


def _success_panel(axis: Any, series: Series, colours: Mapping[str, str]) -> None:
    for i, (name, points) in enumerate(series.items()):
        ratio, rate, low, high = ([100 * p[k] for p in points] for k in range(4))
        apart = [r + 0.6 * (i - (len(series) - 1) / 2) if r else r for r in ratio]
        errors = [[r - a for r, a in zip(rate, low)], [b - r for r, b in zip(rate, high)]]
        look = {"marker": "o", "markersize": 3, "capsize": 2, "linewidth": 1, "color": colours[name]}
        axis.errorbar(apart, rate, errors, label=name, **look)
    axis.set(xlabel="ratio, %", ylabel="solved, % (95 % Wilson)")


def _speed_panel(axis: Any, latency: Mapping[str, Any], colours: Mapping[str, str]) -> None:
    for scope, what, style in (("prefill", "prefill", "--"), ("policy", "policy call", "-")):
        for i, (name, points) in enumerate(speed_series(latency["rows"], scope).items()):
            look = {"marker": "o", "markersize": 3, "linewidth": 1, "color": colours[name]}
            label = None if i else what
            axis.plot([100 * p[0] for p in points], [p[1] for p in points], style, label=label, **look)
    axis.set(title="speed-up, all frames", xlabel="ratio, %", ylabel="dense mean / mean")
    axis.legend(fontsize=7)


def episode_plot(trace: Mapping[str, Any], path: Path) -> None:
    """Write the second picture. Raises ConfigError."""
    rows, outcome = trace["rows"], trace["outcome"]
    figure, (above, below) = _figure(2, 1, (7.2, 2.2))
    for name, style in (("similarity", "-"), ("threshold", "--")):
        points = [(r["seconds"], r[name]) for r in rows if r[name] is not None]
        above.plot(*zip(*points), style, linewidth=1, label=name) if points else None
    fired = [(r["seconds"], r["similarity"]) for r in rows if r["triggered"]]
    if fired:
        above.plot(*zip(*fired), "v", color="C3", label="trigger")
    below.bar([r["seconds"] for r in rows], [100 * r["churn"] for r in rows], width=0.25)
    for axis in (above, below):
        for seconds, kind in outcome["events"]:
            axis.axvline(seconds, color="grey", linewidth=0.8, linestyle=":")
            where = ("data", "axes fraction")
            axis.annotate(kind, (seconds, 0.02), xycoords=where, rotation=90, fontsize=6, color="grey")
    title = f"{outcome['task']}, {outcome['environment']}, {100 * outcome['ratio']:g} %"
    above.set(ylabel="cosine similarity", title=title)
    above.legend(fontsize=7)
    below.set(xlabel="s", ylabel="kept channels exchanged, %")
    _write(figure, path, f"simulated; commit {trace['commit'][:10]}")


def _figure(rows: int, columns: int, inches: tuple[float, float]) -> tuple[Any, Any]:
    """A figure and its axes, row by row, each of that size. Axes of one column share x."""
    try:
        matplotlib = importlib.import_module("matplotlib")
        matplotlib.use("agg")
        matplotlib.rcParams["svg.hashsalt"] = "ecovla"
        pyplot = importlib.import_module("matplotlib.pyplot")
    except ImportError as error:
        raise ConfigError(f"plots need matplotlib ({error}); run: pip install matplotlib") from error
    size = (inches[0] * columns, inches[1] * rows)
    look = {"figsize": size, "layout": "constrained", "squeeze": False, "sharex": columns == 1}
    figure, axes = pyplot.subplots(rows, columns, **look)
    return figure, axes.flatten()


def _write(figure: Any, path: Path, note: str) -> None:
    figure.text(0.995, 0.005, note, fontsize=5, color="grey", ha="right")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    except ValueError as error:
        raise ConfigError(f"cannot draw '{path}': {error}") from error
