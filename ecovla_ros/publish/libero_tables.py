"""Tables of the LIBERO page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ecovla_ros.publish.markdown import MISSING, Document, markdown, number, percent, source

COMMAND = "python -m ecovla_ros.bench.libero"
SIGNIFICANT = 0.05
"""Largest p at which a deciding cell says yes or no, unless its plan has another."""
STARTS = {"weights": "chosen by the weights alone", "own": "calibrated on what the policy was trained on",
          "none": "that starts from nothing"}  # fmt: skip
"""Where a pattern starts that no suite was looked at for."""
SITES = {"lm.mlp": "the language model's MLPs", "expert.mlp": "the action expert's MLPs"}


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
    command = f"{COMMAND}.gate --checkpoint libero --suites {settings['suites']} --states {settings['states']}"
    return markdown(("sites", "ratio", *columns), rows, source(document, command))


def dense(document: Document) -> str:
    """The unpruned policy: suites pooled, then task by task."""
    mine = [row for row in document["rows"] if row["method"] == "dense"]
    rows = []
    for row in sorted(mine, key=lambda row: (row["environment"], row["task"] != "all", row["task"])):
        task = row["task"].rpartition("/")[2]
        rows.append([row["environment"], task, *_solved(row), number(row["steps_p50"])])
    settings = document["settings"]
    command = (
        f"ecovla eval --benchmark {settings['benchmark']} --method dense --episodes {settings['episodes']} "
        f"--seed {settings['seed'] or 0} --set policy.checkpoint=libero"
    )
    return markdown(("suite", "task", "solved", "95 % Wilson", "control steps p50"), rows, source(document, command))


def primary(document: Document) -> str:
    """The cell that decides, and both of its methods against dense."""
    rows = [
        [
            f"{row['this']} against {row['other']}",
            f"{row['this_solved']}/{row['pairs']} and {row['other_solved']}/{row['pairs']}",
            f"{row['only_this']} and {row['only_other']}",
            f"{100 * row['difference']:+.1f} ({100 * row['low']:+.1f} to {100 * row['high']:+.1f})",
            number(row["mcnemar_p"]),
        ]
        for row in document["rows"]
    ]
    part, wanted = document["settings"]["part"], document["settings"]["wanted"]
    head = ("pairs", "solved", "solved by one alone", "difference, points (95 %)", "McNemar p")
    told = (
        f"{part['benchmark']}, patterns {_start(part)}, {100 * float(part['ratio']):g} % of the "
        f"channels of {_sites(part)} left out"
    )
    if document["rows"][0]["pairs"] < wanted:
        told += f"; **{document['rows'][0]['pairs']} of {wanted} pairs: not whole, nothing is claimed**"
    command = f"{COMMAND}.primary --plan {document['settings']['plan']}"
    return f"{told}\n\n{markdown(head, rows, source(document, command))}"


def _start(part: Mapping[str, Any]) -> str:
    """What a part's patterns start from."""
    return STARTS.get(part["calibration"], f"calibrated on {part['calibration']}")


def _sites(part: Mapping[str, Any]) -> str:
    """Which channels a part of a plan prunes."""
    named = next((text.split("=")[1] for text in part.get("set", ()) if text.startswith("prune.sites=")), "[lm.mlp]")
    return " and ".join(SITES.get(name.strip(), name.strip()) for name in named.strip("[]").split(","))


def answers(expert: Document, policy: Document, moved: Document, *decided: Document) -> str:
    """What was asked of LIBERO, and what came out, one row a question; `decided`: the deciding cells."""
    driven = [row for row in expert["rows"] if "left_out" not in row]
    able = sum(2 * row["successes"] >= row["episodes"] for row in driven)
    pooled = [row for row in policy["rows"] if row["method"] == "dense" and row["task"] == "all"]
    solved = (f"{r['environment']}: {r['successes']} of {r['episodes']} ({_interval(r)})" for r in pooled)
    rows = [
        ["Does a scripted expert solve the tasks?", f"{able} of {len(expert['rows'])}, at least half the time"],
        ["How good is a policy trained from it, unpruned?", "; ".join(solved)],
        ["Do the best channels move with task, scene and phase?", _moved(moved)],
    ]
    asked = "Does a pattern that follows keep what a fixed one, {}, loses, with channels of {} left out?"
    for cell in decided:
        part = cell["settings"]["part"]
        start = STARTS.get(part["calibration"], "calibrated elsewhere")
        rows.append([asked.format(start, _sites(part)), _decided(cell)])
    return markdown(("question", "answer"), rows)


def _moved(document: Document) -> str:
    told = []
    for ratio in (0.5, 0.85):
        mine = [row for row in document["rows"] if (row["group"], row["ratio"]) == ("lm.mlp", ratio)]
        names = ("overlap tasks", "overlap halves", "kept other tasks", "kept probe", "kept random")
        mean = {name: f"{sum(row[name] for row in mine) / len(mine):.2f}" for name in names}
        told.append(
            f"with {100 * ratio:g} % of the language model's MLP channels left out, two tasks share "
            f"{mean['overlap tasks']} of those kept (two halves of the same looks {mean['overlap halves']}); of the "
            f"importance that the best pattern keeps, one of other tasks keeps {mean['kept other tasks']}, one that "
            f"follows by a probe {mean['kept probe']}, a random one {mean['kept random']}"
        )
    return ". ".join(text[0].upper() + text[1:] for text in told)


def _decided(document: Document) -> str:
    row, part = document["rows"][0], document["settings"]["part"]
    if row["pairs"] < document["settings"]["wanted"]:
        return MISSING
    told = "not shown"
    if row["mcnemar_p"] < document["settings"].get("significant", SIGNIFICANT):
        told = "yes" if row["difference"] > 0.0 else "no, it loses more"
    dense_solved = document["rows"][1]["other_solved"]
    points = f"{100 * row['difference']:+.1f} points, {100 * row['low']:+.1f} to {100 * row['high']:+.1f}"
    solved = f"the fixed pattern {row['other_solved']}, the one that follows {row['this_solved']}"
    return (
        f"{told}: with {100 * float(part['ratio']):g} % of them left out (the ratio by the plan) "
        f"dense solves {dense_solved} of {row['pairs']} episodes, {solved} ({points}; McNemar p "
        f"{number(row['mcnemar_p'])})"
    )


def parts(*documents: Document, plan: str = "libero-plan") -> str:
    """Every part of the plan that was run, tasks pooled; `plan`: its file's name."""
    rows, notes = [], []
    for document in documents:
        settings = document["settings"]
        sites = ", ".join(settings["config"]["prune"]["sites"])
        for row in document["rows"]:
            if row["task"] != "all":
                continue
            name = row["method"] if row["refresh"] == "none" else f"{row['method']} ({row['refresh']})"
            alone = MISSING if row["only_dense"] is None else f"{row['only_dense']} and {row['only_this']}"
            looks = settings.get("switched", 0)
            suite = row["environment"] + (f", after {looks} looks of another task" if looks else "")
            rows.append([
                suite, settings["calibration"], sites, name, f"{100 * row['ratio']:.4g} %", *_solved(row),
                "-" if row["method"] == "dense" else alone, number(row["mcnemar_p"]), percent(row["trigger_rate"]),
            ])  # fmt: skip
        notes.append(source(document, f"ecovla eval --plan results/{plan}.json"))
    head = ("suite", "calibrated on", "sites", "method", "ratio", "solved", "95 % Wilson",
            "solved by dense alone, by this alone", "McNemar p", "triggers")  # fmt: skip
    return markdown(head, rows, "\n".join(dict.fromkeys(notes)))


def pairs(*documents: Document) -> str:
    """Two parts of plans on the same tasks and initial states, each method against itself in the other part."""
    rows, notes = [], []
    for document in documents:
        settings = document["settings"]
        for row in document["rows"]:
            if row["method"] == "dense":
                continue
            rows.append([
                f"{_part(settings['this'])} and {_part(settings['other'])}", row["environment"],
                f"{row['method']} ({row['refresh']})", f"{100 * row['ratio']:.4g} %",
                f"{row['this_solved']} and {row['other_solved']} of {row['pairs']}",
                f"{row['only_this']} and {row['only_other']}",
                f"{100 * row['difference']:+.1f} ({100 * row['low']:+.1f} to {100 * row['high']:+.1f})",
                number(row["mcnemar_p"]),
            ])  # fmt: skip
        command = f"python -m ecovla_ros.bench.success.paired {settings['this']} {settings['other']}"
        notes.append(source(document, command))
    head = (
        "parts",
        "suite",
        "method",
        "ratio",
        "solved",
        "solved by one alone",
        "difference, points (95 %)",
        "McNemar p",
    )
    return markdown(head, rows, "\n".join(dict.fromkeys(notes)))


def _part(file: str) -> str:
    """The part of a plan whose result is in `file`."""
    return Path(file).stem.removeprefix("libero-conditions-").removeprefix("libero-calibrations-")


def _solved(row: Document) -> tuple[str, str]:
    return f"{row['successes']}/{row['episodes']}", _interval(row)


def _interval(row: Document) -> str:
    return f"{100 * row['low']:.0f}-{100 * row['high']:.0f} %"
