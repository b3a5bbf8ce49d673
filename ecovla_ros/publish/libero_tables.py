"""Tables of the LIBERO page."""

from __future__ import annotations

from ecovla_ros.publish.markdown import Document, markdown, number, source

COMMAND = "python -m ecovla_ros.bench.libero"


def expert(document: Document) -> str:
    """The scripted expert, task by task; what it cannot do is named."""
    rows = []
    for row in document["rows"]:
        if "left_out" in row:
            rows.append(
                [row["suite"], f"{row['task']}", row["instruction"], "left out", f"goal {row['left_out']}", "-"]
            )
            continue
        solved = f"{row['successes']}/{row['episodes']}"
        interval = f"{100 * row['low']:.0f}-{100 * row['high']:.0f} %"
        rows.append([row["suite"], f"{row['task']}", row["instruction"], solved, interval, number(row["steps_p50"])])
    head = ("suite", "task", "instruction", "solved", "95 % Wilson", "control steps p50")
    settings = document["settings"]
    command = f"{COMMAND}.expert --suites {settings['suites']} --states {settings['states']}"
    return markdown(head, rows, source(document, command))


def gate(document: Document) -> str:
    """How far patterns move: means over the sites of a group."""
    columns = [name for name in document["rows"][0] if name.startswith(("overlap", "kept"))]
    rows = []
    for group, ratio in dict.fromkeys((row["group"], row["ratio"]) for row in document["rows"]):
        some = [row for row in document["rows"] if (row["group"], row["ratio"]) == (group, ratio)]
        means = []
        for name in columns:
            known = [row[name] for row in some if row.get(name) is not None]
            means.append(f"{sum(known) / len(known):.2f}" if known else "-")
        rows.append([group, f"{100 * ratio:.0f} %", *means])
    settings = document["settings"]
    command = f"{COMMAND}.gate --suites {settings['suites']} --states {settings['states']}"
    return markdown(("sites", "ratio", *columns), rows, source(document, command))
