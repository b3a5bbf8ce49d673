"""The table of the README, from the result files: one line for each question that somebody with an arm asks first."""

from __future__ import annotations

from ecovla_ros.publish.markdown import MISSING, Document, markdown

RATIO, MORE = 0.25, 0.4
ENVIRONMENTS = {"calm": "nothing changes", "shift": "light changes, things are added and moved"}
"""Environment of the simulator -> what happens in it."""
Row = list[str]


def headline(success: Document, cpu: Document, gpu: Document, faults: Document, trial: Document) -> str:
    """Success of ecovla (probe) beside dense, speed of the policy call, and what the guard let through.

    From `ecovla eval`, `ecovla bench` on a CPU and on a GPU, `ecovla faults` and `ecovla trial`. At most eight rows.
    """
    rows = [
        *(_solved(success, environment) for environment in ENVIRONMENTS),
        *(_speed(document, ratio) for document, ratio in ((cpu, RATIO), (cpu, MORE), (gpu, MORE))),
        _faults(faults),
        _rest(trial),
        ["On a real arm?", "success, speed, safety", MISSING, "[safety](docs/safety.md)"],
    ]
    return markdown(("question", "measured on", "result", "details"), rows)


def _solved(document: Document, environment: str) -> Row:
    row = _one(document, method="ecovla", refresh="probe", ratio=RATIO, task="all", environment=environment)
    dense = row["successes"] + row["only_dense"] - row["only_this"]
    by = f" by more than {100 * row['margin']:g} points" if row["verdict"] == "not inferior" else ""
    return [
        "Equal success?",
        f"mini, simulated, {_percent(RATIO)} pruned, {ENVIRONMENTS[environment]}",
        f"{row['successes']} of {row['episodes']} solved, dense {dense}: {row['verdict']}{by} (95 % confidence)",
        "[success](docs/results/success.md)",
    ]


def _speed(document: Document, ratio: float) -> Row:
    row = _one(document, method="ecovla", refresh="probe", ratio=ratio, scope="policy", frames="all")
    dense = _one(document, method="dense", scope="policy", frames="all")
    on_gpu = "cpu" not in row.get("device", "cpu").lower()
    where = row["device"] if on_gpu else document["machine"]["cpu"]
    page = "gpu" if on_gpu else "cpu"
    return [
        "Faster?",
        f"{row.get('model', document['settings']['model'])}, random weights, {_percent(ratio)} pruned, {where}",
        f"{row['speedup']:.2f}x: {row['mean_ms']:.4g} ms a policy call, dense {dense['mean_ms']:.4g} ms",
        f"[speed](docs/results/speed-{page}.md), commit {document['commit'][:7]}",
    ]


def _faults(document: Document) -> Row:
    every = next(row for row in document["rows"] if row["case"] == "all")
    return [
        "Safe?",
        "the guard with every kind of fault, simulated",
        f"{every['violations']} of {every['count']} cases went outside the limits",
        "[safety](docs/results/safety.md)",
    ]


def _rest(document: Document) -> Row:
    rest = max(row["rest_s"] for row in document["rows"] if "rest_s" in row)
    return [
        "Safe?",
        "a process killed or frozen or a camera stopped in mid-motion, simulated arm",
        f"at rest after {rest:.2f} s at most",
        "[safety](docs/results/safety.md)",
    ]


def _percent(ratio: float) -> str:
    return f"{100 * ratio:.4g} %"


def _one(document: Document, **keys: object) -> Document:
    return next(row for row in document["rows"] if all(row.get(key) == value for key, value in keys.items()))
