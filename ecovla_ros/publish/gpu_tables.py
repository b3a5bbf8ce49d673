"""Tables of `ecovla bench` on a GPU: one document a model, pooled into one table."""

from __future__ import annotations

from ecovla_ros.publish.markdown import MISSING, Document, markdown, number, percent, share
from ecovla_ros.publish.speed_tables import bench_command


def policy(*documents: Document) -> str:
    """The whole policy call of every variant over all frames, and the device time of its two phases."""
    if not documents:
        return MISSING
    rows = []
    for document in documents:
        for row in document["rows"]:
            if row.get("scope") == "policy" and row["frames"] == "all":
                rows.append(_policy_row(row, document))
    head = ("model", "method", "refresh", "ratio", "frames", "policy call, mean ms", "p50 / p95 / p99 ms", "speed-up",
            "MACs left", "of ideal", "prefill, ms", "action head, ms", "kernels", "frames that trigger",
            "commit")  # fmt: skip
    return markdown(head, rows, sources(documents))


def _policy_row(row: Document, document: Document) -> list[str]:
    phases = {s["scope"]: s for s in document["rows"] if s.get("frames") == "all" and _variant(s) == _variant(row)}
    return [
        _model(row, document),
        row["method"],
        row["refresh"],
        f"{100 * row['ratio']:.4g} %",
        str(row["n"]),
        f"{row['mean_ms']:.1f}",
        " / ".join(f"{row[k]:.1f}" for k in ("p50_ms", "p95_ms", "p99_ms")),
        f"{row['speedup']:.2f}x",
        number(row.get("mac_ratio")),
        share(row.get("of_ideal")),
        *(f"{phases[p]['mean_ms']:.1f}" if p in phases else "-" for p in ("prefill", "act")),
        _kernels(row, document),
        percent(row.get("trigger_rate")),
        document["commit"][:7],
    ]


def _kernels(row: Document, document: Document) -> str:
    """Of a frame, and of one with a refresh, whose kernels are counted with it."""
    by = {
        s["frames"]: s.get("kernels")
        for s in document["rows"]
        if s.get("scope") == "policy" and _variant(s) == _variant(row)
    }
    found = [str(by[kind]) for kind in ("dense", "sparse", "refresh") if by.get(kind)]
    return " / ".join(found) or "-"


def device(*documents: Document) -> str:
    """Device time of the two phases by kind of frame: what a refresh adds, and the share of the roofline bound."""
    if not documents:
        return MISSING
    rows = [
        [
            _model(row, document),
            row["method"],
            row["refresh"],
            f"{100 * row['ratio']:.4g} %",
            {"act": "action head"}.get(row["scope"], row["scope"]),
            row["frames"],
            str(row["n"]),
            " / ".join(f"{row[k]:.2f}" for k in ("p50_ms", "p95_ms", "p99_ms")),
            share(row.get("of_roofline")),
            share(row.get("of_reached")),
            number(row.get("refresh_cost_ms")),
            percent(row.get("exposed_share"), 2),
        ]
        for document in documents
        for row in document["rows"]
        if row.get("scope") in ("prefill", "act") and row["frames"] != "all"
    ]
    head = ("model", "method", "refresh", "ratio", "phase", "kind of frame", "n", "p50 / p95 / p99 ms",
            "of the roofline bound", "of the measured ceiling", "a refresh costs, ms",
            "waits for the refresh")  # fmt: skip
    return markdown(head, rows, sources(documents))


def sources(documents: tuple[Document, ...]) -> str:
    """Device, versions and commits of the documents, and the command that writes each."""
    documents = tuple(d for d in documents if "ratios" in d["settings"] and any("scope" in r for r in d["rows"]))
    devices = sorted({row.get("device", "?") for d in documents for row in d["rows"]})
    versions = sorted({", ".join(f"{k} {v}" for k, v in d["versions"].items()) for d in documents})
    commits = sorted({d["commit"][:10] + "+" * d["commit"].endswith("+") for d in documents})
    commands = "; ".join(f"`{bench_command(d)}`" for d in documents)
    return f"<sub>{', '.join(devices)}; {'; '.join(versions)}; commit {', '.join(commits)}. {commands}</sub>"


def _model(row: Document, document: Document) -> str:
    """Name of the model, and what is special about the run: the part of a GPU that it was held to, and settings."""
    settings = document["settings"]
    chosen = settings.get("config", {})
    prune, runs = chosen.get("prune", {}), chosen.get("policy", {})
    steps = prune.get("record_steps", 0)
    said = {
        f"{settings.get('sms')} SMs": settings.get("sms"),
        "counts by time": prune.get("fit") == "time",
        f"{steps} steps record": steps,
        "refreshes behind the frame": runs.get("refresh_behind") == "frame",
        f"trigger asked {runs.get('ask')}": runs.get("ask", "late") != "late",
        "no early launch": runs.get("early_launch") is False,
        "without a pause": row.get("pace") == "back-to-back",
    }
    return ", ".join([str(row["model"]), *(words for words, holds in said.items() if holds)])


def _variant(row: Document) -> tuple[object, ...]:
    return tuple(row.get(key) for key in ("model", "method", "refresh", "ratio", "tokens"))
