"""The first screen of the README: what somebody with an arm asks first, each in one line from the result files."""

from __future__ import annotations

from ecovla_ros.publish.markdown import Document

RATIO, MORE = 0.25, 0.4
ENVIRONMENTS = ("calm", "shift")


def headline(success: Document, latency: Document, faults: Document, trial: Document) -> str:
    """Success of ecovla (probe) beside dense, speed of the policy call, and what the guard let through.

    From `ecovla eval`, `ecovla bench`, `ecovla faults` and `ecovla trial`.
    """
    solved = "; ".join(_solved(success, environment) for environment in ENVIRONMENTS)
    fast = ", ".join(_speed(latency, ratio) for ratio in (RATIO, MORE))
    every = next(row for row in faults["rows"] if row["case"] == "all")
    rest = max(row["rest_s"] for row in trial["rows"] if "rest_s" in row)
    model = latency["settings"]["model"]
    return "\n".join((
        f"- **Equal success?** mini in the built-in simulator, {_percent(RATIO)} pruned, against dense on the same "
        f"scenes: {solved}.",
        f"- **Faster?** The whole policy call of {model} (random weights), all frames counted, on a CPU "
        f"({latency['machine']['cpu']}): {fast}. On a GPU: not measured.",
        f"- **Would I let it move my arm?** {every['violations']} of {every['count']} fault cases went outside "
        f"the limits; {rest:.2f} s at most from a killed process or a stopped camera to rest. All simulated: "
        "nothing has run on an arm yet.",
    ))  # fmt: skip


def _solved(document: Document, environment: str) -> str:
    row = _one(document, method="ecovla", refresh="probe", ratio=RATIO, task="all", environment=environment)
    dense = row["successes"] + row["only_dense"] - row["only_this"]
    by = f" by {100 * row['margin']:g} points" if row["verdict"] == "not inferior" else ""
    verdict = f"{row['verdict']}{by}"
    return f"{environment} {row['successes']} of {row['episodes']} solved (dense {dense}; {verdict}, 95 % confidence)"


def _speed(document: Document, ratio: float) -> str:
    row = _one(document, method="ecovla", refresh="probe", ratio=ratio, scope="policy", frames="all")
    return f"{row['speedup']:.2f}x at {_percent(ratio)} ({row['mean_ms']:.0f} ms)"


def _percent(ratio: float) -> str:
    return f"{100 * ratio:.4g} %"


def _one(document: Document, **keys: object) -> Document:
    return next(row for row in document["rows"] if all(row.get(key) == value for key, value in keys.items()))
