"""Tables of closed-loop success."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ecovla_ros.bench.success.environments import ENVIRONMENTS
from ecovla_ros.publish.markdown import MISSING, Document, markdown, number, percent, source

WHOLE_STUDY = (
    ("dense", "none", 0.0),
    *((method, refresh, ratio) for method, refresh in (
        ("random", "none"), ("wanda", "none"), ("static", "none"), ("ecovla", "dense"), ("ecovla", "probe")
    ) for ratio in (0.125, 0.25, 0.375, 0.5)),
)  # fmt: skip
"""Method, refresh and ratio of every row of `make study`."""


def _rate(row: Document) -> str:
    share = 100 * row["successes"] / row["episodes"] if row["episodes"] else 0.0
    return f"{share:.0f} % ({100 * row['low']:.0f}-{100 * row['high']:.0f})"


def dense(document: Document) -> str:
    """Success of the unpruned policy, task by task."""
    return success({**document, "rows": [r for r in document["rows"] if r["method"] == "dense"]})


def success(document: Document) -> str:
    """Success by task, environment and method."""
    rows = [
        [
            r["environment"],
            _method(r),
            f"{100 * r['ratio']:.4g} %",
            r["task"],
            f"{r['successes']}/{r['episodes']}",
            _rate(r),
            number(r["steps_p50"]),
            percent(r["trigger_rate"]),
            number(r["mcnemar_p"]),
        ]
        for r in document["rows"]
    ]
    head = ("environment", "method", "ratio", "task", "solved", "rate (95 % Wilson)", "steps p50", "triggers",
            "McNemar p")  # fmt: skip
    return markdown(head, rows, source(document, "make study"))


def study(document: Document) -> str:
    """Tasks pooled: one row per method and ratio, success in every environment but latency, and what it costs."""
    return _study(document, WHOLE_STUDY)


def measured(document: Document) -> str:
    """As `study`, without the rows that the document does not have."""
    return _study(document, ())


def _study(document: Document, wanted: Sequence[tuple[str, str, float]]) -> str:
    environments = [name for name in ENVIRONMENTS if name != "latency"]
    rows = []
    for head, mine in _pooled(document, wanted):
        cells = [_study_cell(mine.get(e)) for e in environments]
        triggers = " / ".join(percent(mine[e]["trigger_rate"]) if e in mine else "-" for e in environments)
        cost = next((r["latency_ms"] for r in mine.values() if r.get("latency_ms")), None)
        rows.append([*head, *cells, number(cost), triggers])
    columns = ("method", "ratio", *environments, "policy call, ms, all frames", "triggers, in this order")
    return markdown(columns, rows, source(document, "make study"))


def pairs(document: Document) -> str:
    """Each method against itself in another run on the same scenes, tasks pooled."""
    rows = [
        [
            r["environment"],
            _method(r),
            f"{100 * r['ratio']:.4g} %",
            f"{r['this_solved']} and {r['other_solved']} of {r['pairs']}",
            f"{r['only_this']} and {r['only_other']}",
            f"{100 * r['difference']:+.1f} ({100 * r['low']:+.1f} to {100 * r['high']:+.1f})",
            number(r["mcnemar_p"]),
            f"{number(r['this_seconds_p50'])} and {number(r['other_seconds_p50'])}",
            f"{number(r['this_jerk_p50'])} and {number(r['other_jerk_p50'])}",
        ]
        for r in document["rows"]
    ]
    head = ("environment", "method", "ratio", "solved with it and without", "by one alone",
            "difference, points (95 %)", "McNemar p", "s until solved, p50", "jerk, rad/s^3, p50")  # fmt: skip
    settings = document["settings"]
    command = f"python -m ecovla_ros.bench.success.paired {settings['this']} {settings['other']}"
    return markdown(head, rows, source(document, command))


def study_latency(document: Document) -> str:
    """Tasks pooled, with the measured times injected: success, how long a solved episode took, and what it costs."""
    rows = []
    for head, mine in _pooled(document, WHOLE_STUDY):
        row = mine.get("latency", {})
        figures = (number(row.get("seconds_p50")), number(row.get("latency_ms")), percent(row.get("trigger_rate")))
        rows.append([*head, _study_cell(mine.get("latency")), *figures])
    columns = ("method", "ratio", "latency", "s until solved, p50", "policy call, ms, all frames", "triggers")
    return markdown(columns, rows, source(document, "make study"))


def _pooled(
    document: Document, wanted: Sequence[tuple[str, str, float]]
) -> Iterator[tuple[list[str], dict[str, Document]]]:
    """Method and ratio as text, and the rows of all tasks by environment: those `wanted`, then what else there is."""
    found: dict[tuple[str, str, float], dict[str, Document]] = {variant: {} for variant in wanted}
    rows = [row for row in document["rows"] if row["task"] == "all"]
    for variant in sorted({(r["method"], r["refresh"], r["ratio"]) for r in rows}):
        found[variant] = {r["environment"]: r for r in rows if (r["method"], r["refresh"], r["ratio"]) == variant}
    for (method, refresh, ratio), mine in found.items():
        yield [_method({"method": method, "refresh": refresh}), f"{100 * ratio:.4g} %"], mine


def _study_cell(row: Document | None) -> str:
    if row is None:
        return MISSING
    verdict = f"; {row['verdict']}" if row.get("verdict") else ""
    pairs = f"; {row['only_dense']} lost, {row['only_this']} won" if row.get("only_dense") is not None else ""
    return f"{row['successes']}/{row['episodes']}, {_rate(row)}{pairs}{verdict}"


def _method(row: Document) -> str:
    return row["method"] if row.get("refresh", "none") == "none" else f"{row['method']} ({row['refresh']})"


def expert(document: Document) -> str:
    """The scripted expert."""
    rows = [
        [r["task"], f"{r['successes']}/{r['episodes']}", _rate(r), number(r["steps_p50"])] for r in document["rows"]
    ]
    command = "python -m ecovla_ros.bench.success.expert"
    return markdown(("task", "solved", "rate (95 % Wilson)", "steps p50"), rows, source(document, command))


def demo(document: Document) -> str:
    """What `make demo` printed."""
    rows = [
        [
            r["task"],
            "yes" if r["success"] else "no",
            number(r["seconds"]),
            _pair(r, "policy"),
            _pair(r, "camera_to_command"),
            percent(r["trigger_rate"]),
            number(r["pattern_age"]),
            number(r["frames_dropped"]),
        ]
        for r in document["rows"]
    ]
    head = (
        "task",
        "solved",
        "seconds",
        "policy ms p50 / p95",
        "camera to command ms p50 / p95",
        "triggers",
        "pattern age, frames",
        "frames dropped",
    )
    return markdown(head, rows, source(document, "make demo"))


def _pair(row: Document, name: str) -> str:
    return f"{number(row[f'{name}_p50_ms'])} / {number(row[f'{name}_p95_ms'])}"
