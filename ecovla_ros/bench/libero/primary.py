"""The cell that decides: `python -m ecovla_ros.bench.libero.primary --plan results/libero-plan.json`.

First, when the plan's scan has been run: the ratio by the plan's own rule, added to the plan as a part, and with it the
parts that the plan wants beside it at that ratio. Then, when these have been run: pairs, method against method on the
same initial states.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ecovla_ros import documents
from ecovla_ros.bench import document
from ecovla_ros.bench.libero.program import exit_code
from ecovla_ros.bench.success import journal
from ecovla_ros.bench.success.paired import counted
from ecovla_ros.errors import ConfigError

Row = Mapping[str, Any]
ONE_IN = 10
"""A fixed pattern must lose one in so many episodes, ten points, for a ratio to be worth a test; a plan may name
another number (`loses_one_in`)."""


def ratio_of(scan: Sequence[Row], one_in: int = ONE_IN) -> float:
    """The lowest ratio at which static solves fewer of the scan's episodes than dense, by one in `one_in` at least;
    none: the highest. `scan`: rows of `ecovla eval`. Raises ConfigError where the methods were not run on the same
    number.
    """
    pooled = [row for row in scan if row["task"] == "all"]
    dense = next((row for row in pooled if row["method"] == "dense"), None)
    fixed = sorted((row for row in pooled if row["method"] == "static"), key=lambda row: row["ratio"])
    if dense is None or not fixed or any(row["episodes"] != dense["episodes"] for row in fixed):
        raise ConfigError("the scan is not whole: dense and static must have been run on the same initial states")
    for row in fixed:  # in whole numbers: a share is not exact at the limit (0.1 * 70 > 7)
        if one_in * (dense["successes"] - row["successes"]) >= dense["episodes"]:
            return float(row["ratio"])
    return float(fixed[-1]["ratio"])


def part_of(plan: Mapping[str, Any], ratio: float) -> dict[str, Any]:
    """The part of the plan that tests at `ratio`, on initial states behind those of the scan."""
    primary = plan["primary"]
    scan = next(part for part in plan["parts"] if part["name"] == primary["scan"])
    return {
        "name": primary["part"],
        "benchmark": primary["benchmark"],
        "calibration": primary["calibration"],
        "method": f"dense,{primary['against']},{primary['method']}",
        "refresh": primary["refresh"],
        "ratio": f"{ratio:g}",
        "episodes": primary["pairs"] // 10,
        "seed": scan["seed"] + scan["episodes"],
        **({"set": scan["set"]} if "set" in scan else {}),
    }


def beside_of(plan: Mapping[str, Any], part: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the plan wants beside `part`, on the same initial states at the same ratio: each has a name, and says what
    is different (`calibration`, `method`, or `set`, which is added)."""
    alone = {**part, "method": f"dense,{plan['primary']['method']}"}
    return [
        {
            **alone,
            **{k: v for k, v in other.items() if k != "what"},
            "set": [*part.get("set", ()), *other.get("set", ())],
        }
        for other in plan["primary"].get("beside", ())
    ]


def compared(episodes: Sequence[Row], this: str, other: str) -> dict[str, Any]:
    """Pairs of two methods on the same task and initial state, see `paired.counted`. Raises ConfigError without."""
    solved: dict[str, dict[Hashable, bool]] = {}
    for episode in episodes:
        solved.setdefault(episode["method"], {})[episode["task"], episode["seed"]] = bool(episode["success"])
    mine, theirs = solved.get(this, {}), solved.get(other, {})
    if not mine.keys() & theirs.keys():
        raise ConfigError(f"no initial state was met by both {this} and {other}")
    return {"this": this, "other": other, **counted(mine, theirs)}


def main(arguments: list[str] | None = None) -> int:
    """Print what was chosen, or the pairs; with --json also write these."""
    parser = argparse.ArgumentParser(prog="python -m ecovla_ros.bench.libero.primary", description=__doc__)
    parser.add_argument("--plan", type=Path, default=Path("results/libero-plan.json"))
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args(arguments)
    return exit_code(lambda: _run(chosen))


def _run(chosen: argparse.Namespace) -> int:
    plan = _read(chosen.plan)
    primary = plan["primary"]
    part = next((part for part in plan["parts"] if part["name"] == primary["part"]), None)
    if part is None:
        scan = _read(_result(chosen.plan, primary["scan"]))["rows"]
        ratio = ratio_of(scan, int(primary.get("loses_one_in", ONE_IN)))
        part = part_of(plan, ratio)
        plan["parts"][1:1] = [part, *beside_of(plan, part)]
        chosen.plan.write_text(json.dumps(plan, indent=1) + "\n", encoding="utf-8")
        sys.stdout.write(f"ratio {ratio:g}: added to {chosen.plan} as part '{primary['part']}'; commit it and run it\n")
        return 0
    episodes, commits = journal.read(journal.beside(_result(chosen.plan, primary["part"])))
    method, against = primary["method"], primary["against"]
    pairs = [(method, against), (method, "dense"), (against, "dense")]
    for name in (other["name"] for other in primary.get("beside", ())):
        there = journal.beside(_result(chosen.plan, name))
        if there.is_file():
            more, by = journal.read(there)
            episodes += [{**episode, "method": name} for episode in more if episode["method"] == method]
            commits = list(dict.fromkeys((*commits, *by)))
            pairs += [(name, against), (name, "dense"), (method, name)]
    rows = [compared(episodes, this, other) for this, other in pairs]
    for row in rows:
        sys.stdout.write(
            "  ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()) + "\n"
        )
    if chosen.json:
        settings = {"plan": str(chosen.plan), "part": part, "wanted": primary["pairs"]}
        if "significant" in primary:
            settings["significant"] = primary["significant"]
        document.write(chosen.json, rows, settings, commits=commits)
    return 0


def _result(plan: Path, part: str) -> Path:
    return plan.with_name(f"{plan.stem}-{part}.json")


def _read(path: Path) -> Any:
    try:
        return documents.read_json(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read '{path}': {error}") from error


if __name__ == "__main__":
    sys.exit(main())
