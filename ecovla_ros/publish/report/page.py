"""A story as one HTML file that needs nothing else: charts, pictures and scripts lie in it."""

from __future__ import annotations

import base64
from importlib import resources
from pathlib import Path

import numpy as np
from plotly.offline import get_plotlyjs

from ecovla_ros.control.limits import Limits
from ecovla_ros.publish.report import charts, motion, tags, timeline
from ecovla_ros.publish.report.story import STAGES, Story
from ecovla_ros.types import JOINTS

EVENTS = 200
"""Lines of a table of events, at most."""


def write(story: Story, path: str | Path, limits: Limits) -> int:
    """Write the report; returns its size in bytes. Makes the folder. Raises OSError when it cannot be written."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = page(story, limits)
    path.write_text(text, encoding="utf-8")
    return len(text.encode())


def page(story: Story, limits: Limits) -> str:
    """The whole file."""
    style = resources.files("ecovla_ros.publish.report").joinpath("page.css").read_text(encoding="utf-8")
    body = "\n".join(part for part in _sections(story, limits) if part)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{tags.text(story.title)} - ecovla report</title>\n<style>\n{style}</style>\n"
        f"<script>{get_plotlyjs()}</script>\n</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _sections(story: Story, limits: Limits) -> list[str]:
    return [
        _head(story),
        _tiles(story),
        *_tables(story),
        _timeline(story),
        _stages(story),
        tags.section(
            "Latency",
            "policy: encode to chunk. camera to chunk: stamp of the picture to the chunk published.",
            tags.chart(charts.latency(story)),
            _worst(story),
        ),
        _pictures(story),
        tags.section(
            "When the scene changes",
            "A frame whose vision tokens are less like those of the frame before than the threshold "
            "(arXiv 2602.00780, Eq. 5-7) triggers a new pattern.",
            tags.chart(charts.similarity(story)),
        ),
        tags.section("Pattern age", "Frames since the pattern last changed.", tags.chart(charts.pattern_age(story))),
        _states(story),
        _commands(story, limits),
        _held(story),
        _facts(story),
    ]


def _head(story: Story) -> str:
    said = "".join(f"<li>{t:.1f} s: {tags.text(text)}</li>" for t, text in story.instructions[:20])
    notes = "".join(f"<li>{tags.text(note)}</li>" for note in story.notes)
    return (
        f"<header><h1>{tags.text(story.title)}</h1>"
        + (f'<ul class="said">{said}</ul>' if said else "")
        + (f'<ul class="notes">{notes}</ul>' if notes else "")
        + "</header>"
    )


def _tiles(story: Story) -> str:
    if not story.frames:
        return ""
    total = story.columns["policy_ms"]
    total = total[np.isfinite(total)]
    tiles = [("frames", f"{story.frames}"), ("duration", f"{story.seconds:.1f} s")]
    if len(total):
        tiles += [(f"policy p{q}", f"{np.percentile(total, q):.1f} ms") for q in (50, 95, 99)]
        tiles.append(("deadline misses", tags.share(story.columns["deadline_missed"])))
    methods = sorted(set(story.columns["method"]) - {""})
    if methods:
        tiles.append(("method", ", ".join(methods)))
    if set(methods) - {"dense"}:
        tiles.append(("triggers", tags.share(story.columns["triggered"])))
    cells = "".join(f"<div><b>{tags.text(value)}</b><span>{tags.text(name)}</span></div>" for name, value in tiles)
    return f'<section class="tiles">{cells}</section>'


def _timeline(story: Story) -> str:
    made = timeline.timeline(story) if story.frames else None
    return tags.section("One frame, two streams", made[1], tags.chart(made[0])) if made else ""


def _stages(story: Story) -> str:
    if not story.frames:
        return ""
    rows, cells = [], []
    for stage in (*STAGES, "refresh", "policy"):
        values = story.columns[f"{stage}_ms"]
        if stage == "refresh":
            values = values[np.roll(story.columns["kind"] == "refresh", 1)]  # reported by the frame after it
        values = values[np.isfinite(values)]
        if not len(values) or not values.any():
            continue
        quantiles = [f"{np.percentile(values, q):.2f}" for q in (50, 95, 99)]
        rows.append([stage, str(len(values)), f"{values.mean():.2f}", *quantiles, f"{values.max():.2f}"])
        chart = tags.chart(charts.histogram(values, stage))
        cells.append(f"<figure><figcaption>{stage}</figcaption>{chart}</figure>")
    if not rows:
        return ""
    table = tags.table(("stage", "n", "mean", "p50", "p95", "p99", "max"), rows)
    return tags.section(
        "Stages", "Milliseconds. The refresh runs beside the frame.", table, f'<div class="grid">{"".join(cells)}</div>'
    )


def _worst(story: Story) -> str:
    """The slowest frames."""
    if not story.frames or not np.isfinite(story.columns["policy_ms"]).any():
        return ""
    total = np.nan_to_num(story.columns["policy_ms"])
    rows = []
    for i in np.argsort(-total)[:5]:
        parts = {s: float(np.nan_to_num(story.columns[f"{s}_ms"][i])) for s in STAGES}
        longest = max(parts, key=lambda s: parts[s])
        rows.append(
            [
                f"{story.columns['t'][i]:.2f}",
                story.columns["kind"][i],
                f"{total[i]:.1f}",
                f"{longest} {parts[longest]:.1f}",
                "missed" if story.columns["deadline_missed"][i] else "",
            ]
        )
    return "<h3>The slowest frames</h3>" + tags.table(("s", "kind", "policy ms", "longest stage, ms", "deadline"), rows)


def _pictures(story: Story) -> str:
    strips = []
    for topic, pictures in story.pictures.items():
        shots = "".join(
            f'<figure><img alt="{tags.text(topic)} at {t:.1f} s" src="data:image/jpeg;base64,'
            f'{base64.b64encode(jpeg).decode()}">'
            f"<figcaption>{t:.1f} s{_mark(story, t)}</figcaption></figure>"
            for t, jpeg in pictures
        )
        if shots:
            strips.append(f'<h3>{tags.text(topic)}</h3><div class="strip" tabindex="0">{shots}</div>')
    return (
        tags.section("What the cameras saw", "Evenly along the time axis; scroll to the side.", *strips)
        if strips
        else ""
    )


def _mark(story: Story, t: float) -> str:
    """State of the guard at a time."""
    states = [change.state for change in story.changes if change.t <= t]
    return f" {states[-1].lower()}" if states else ""


def _states(story: Story) -> str:
    rows = [[f"{c.t:.2f}", c.state, c.reason] for c in story.changes[:EVENTS]]
    more = f"<p>... and {len(story.changes) - EVENTS} more</p>" if len(story.changes) > EVENTS else ""
    table = (
        "<details><summary>Every change</summary>" + tags.table(("s", "state", "why"), rows) + more + "</details>"
        if rows
        else ""
    )
    return tags.section("The guard's states", "", tags.chart(motion.states(story)), table)


def _commands(story: Story, limits: Limits) -> str:
    cells = []
    for i, name in enumerate(JOINTS):
        chart = tags.chart(motion.joint(story, i, limits))
        if chart:
            cells.append(f"<figure><figcaption>{name}</figcaption>{chart}</figure>")
    if not cells:
        return ""
    what = f"Blue: commanded, grey: measured, red: limits of profile {limits.profile}."
    return tags.section(
        "Commands against limits",
        what,
        f'<div class="grid">{"".join(cells)}</div>',
        "<h3>Speed of every command</h3>" if story.commands else "",
        tags.chart(motion.speeds(story, limits)),
    )


def _held(story: Story) -> str:
    rows = [[f"{t:.2f}", why] for t, why in story.held[:EVENTS]]
    return (
        tags.section("No chunk", f"{len(story.held)} times the policy gave none.", tags.table(("s", "why"), rows))
        if rows
        else ""
    )


def _tables(story: Story) -> list[str]:
    made = []
    for heading, rows in story.tables.items():
        keys = list(dict.fromkeys(k for row in rows for k in row))
        cells = [[tags.number(row.get(k)) for k in keys] for row in rows[:EVENTS]]
        made.append(
            tags.section(heading.capitalize(), "", tags.chart(charts.percentiles(rows)), tags.table(keys, cells))
        )
    return made


def _facts(story: Story) -> str:
    rows = [[key, value] for key, value in story.facts.items()]
    return tags.section("Where this comes from", "", tags.table(("", ""), rows)) if rows else ""
