"""The tables of what was driven in Gazebo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ecovla_ros.bench.success.statistics import mcnemar, wilson
from ecovla_ros.publish.markdown import Document, markdown, number, percent, source

Row = dict[str, Any]
ALL = "all"


def driven(document: Document) -> str:
    """A line for each way to prune, all tasks together and each task: counts of episodes with 95 % Wilson intervals,
    pairs with dense on the same task and seed (McNemar's exact p), medians of what each episode told."""
    rows: Sequence[Row] = document["rows"]
    dense = {(row["task"], row["seed"]): bool(row["success"]) for row in rows if row["method"] == "dense"}
    several = len({row["task"] for row in rows}) > 1
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        way = f"{row['method']}, {percent(row['ratio'])}" if row["ratio"] else str(row["method"])
        for task in (ALL, str(row["task"])) if several else (str(row["task"]),):
            groups.setdefault((way, task), []).append(row)
    cells = [
        [way, task, _solved(some), _of("lifted", some), _paired(some, dense), _median("policy_p50_ms", some),
         _median("policy_p95_ms", some), _median("camera_to_command_p50_ms", some), _states(some),
         f"{np.median([row['real_time_factor'] for row in some]):.2f}"]
        for (way, task), some in sorted(groups.items(), key=lambda group: (group[0][0], group[0][1] != ALL, group[0]))
    ]  # fmt: skip
    head = ("pruning", "task", "solved (95 % Wilson)", "lifted the object", "pairs with dense: lost, won; McNemar p",
            "policy call, p50, ms", "p95, ms", "camera to command, p50, ms simulated",
            "guard: time running, holding; episodes latched", "real-time factor")  # fmt: skip
    return markdown(head, cells, _notes(document))


def _notes(document: Document, *more: str) -> str:
    """Where the rows come from, and how often Gazebo hung."""
    settings = document["settings"]
    told = {"seeds": settings["seeds"], "seconds": settings["episode_s"], **settings["launch"]}
    words = [*more, *(f"--{name} {value}" for name, value in told.items())]
    command = " ".join(["ecovla gazebo", *words, *(f"--set {text}" for text in settings.get("set", ()))])
    notes = source(document, command)
    if hung := settings.get("hung"):
        often = "once" if hung == 1 else f"{hung} times"
        notes += f"\n<sub>Gazebo hung {often}; the episode it was in did not count and was driven again.</sub>"
    return notes


def demonstrated(document: Document) -> str:
    """A line for all tasks together and each task: how many scenes the expert solved, of which a bag is left."""
    rows: Sequence[Row] = document["rows"]
    cells = [
        [task, _solved(some), _of("lifted", some), _median("seconds", [row for row in some if row["success"]]),
         _states(some), f"{np.median([row['real_time_factor'] for row in some]):.2f}"]
        for task in (ALL, *sorted({str(row["task"]) for row in rows}))
        for some in [[row for row in rows if task in (ALL, row["task"])]]
    ]  # fmt: skip
    head = ("task", "solved (95 % Wilson)", "lifted the object", "s of simulated time where solved, p50",
            "guard: time running, holding; episodes latched", "real-time factor")  # fmt: skip
    return markdown(head, cells, _notes(document, "--demonstrations FOLDER"))


def taught(trained: Document, *others: Document) -> str:
    """What training changed: the trained policy beside each other run, on the scenes that both met."""
    mine: Sequence[Row] = trained["rows"]
    cells = []
    for other in others:
        theirs = {_place(row): bool(row["success"]) for row in other["rows"]}
        for method in sorted({str(row["method"]) for row in mine}):
            for task in (ALL, *sorted({str(row["task"]) for row in other["rows"]})):
                met = [row for row in mine if row["method"] == method and task in (ALL, row["task"])]
                pairs = [(bool(row["success"]), theirs[_place(row)]) for row in met if _place(row) in theirs]
                won, lost = sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs)
                solved = (sum(a for a, _ in pairs), sum(b for _, b in pairs))
                counts = [f"{count}" for count in (len(pairs), *solved, won, lost)]
                cells.append([_short(other), method, task, *counts, number(mcnemar(lost, won))])
    head = ("shipped policy, machine and commit", "pruning", "task", "scenes that both met",
            "solved by the trained one", "by the shipped one", "only by the trained one", "only by the shipped one",
            "McNemar p")  # fmt: skip
    return markdown(head, cells, "\n".join(_notes(document) for document in (trained, *others)))


def _place(row: Row) -> tuple[str, str, int]:
    return str(row["method"]), str(row["task"]), int(row["seed"])


def _short(document: Document) -> str:
    commit = (document.get("commits") or [document["commit"]])[-1]
    return f"{document['machine']['cpu']}, {str(commit)[:10]}"


def _solved(rows: Sequence[Row]) -> str:
    low, high = wilson(sum(bool(row["success"]) for row in rows), len(rows))
    return f"{_of('success', rows)} ({100 * low:.0f}-{100 * high:.0f} %)"


def _paired(rows: Sequence[Row], dense: Mapping[tuple[str, int], bool]) -> str:
    """What dense alone solved and what these alone, of the scenes that both met."""
    if rows[0]["method"] == "dense":
        return "-"
    pairs = [(bool(row["success"]), dense[scene]) for row in rows if (scene := (row["task"], row["seed"])) in dense]
    lost, won = sum(theirs and not mine for mine, theirs in pairs), sum(mine and not theirs for mine, theirs in pairs)
    return f"{len(pairs)}: {lost}, {won}; {number(mcnemar(lost, won))}"


def _of(key: str, rows: Sequence[Row]) -> str:
    return f"{sum(bool(row[key]) for row in rows)} of {len(rows)}"


def _median(key: str, rows: Sequence[Row]) -> str:
    told = [row[key] for row in rows if row[key] is not None]
    return number(float(np.median(told)) if told else None)


def _states(rows: Sequence[Row]) -> str:
    running, holding = (np.mean([row["guard_states"].get(state, 0.0) for row in rows]) for state in ("RUNNING", "HOLD"))
    latched = sum("LATCHED" in row["guard_states"] for row in rows)
    return f"{percent(float(running))}, {percent(float(holding))}; {latched}"
