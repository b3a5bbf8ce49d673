"""README tables from results/*.json: `python -m ecovla_ros.bench.report README.md`. No figure is typed by hand.

A table stands between `<!-- table: NAME -->` and `<!-- end -->`; each NAME below says from which file and how.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ecovla_ros.errors import ConfigError, unknown

Document = Mapping[str, Any]
MISSING = "*not measured*"


def main(argv: Sequence[str] | None = None) -> int:
    """Rewrite the tables of a Markdown file in place; `--check` only tells whether they are up to date (exit 1)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args(argv)
    before = options.file.read_text(encoding="utf-8")
    after = fill(before, options.results)
    if not options.check:
        options.file.write_text(after, encoding="utf-8")
    return int(options.check and before != after)


def fill(text: str, results: Path) -> str:
    """`text` with every table made anew. Raises ConfigError for a table of unknown name."""

    def replace(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in TABLES:
            raise ConfigError(unknown("table", name, TABLES))
        file, make = TABLES[name]
        path = results / file
        body = make(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else MISSING
        return f"<!-- table: {name} -->\n{body}\n<!-- end -->"

    return re.sub(r"<!-- table: ([\w-]+) -->\n.*?<!-- end -->", replace, text, flags=re.DOTALL)


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]], note: str) -> str:
    """A Markdown table and the line that says where it was measured."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *("| " + " | ".join(r) + " |" for r in rows)]
    return "\n".join([*lines, "", note])


def source(document: Document, command: str) -> str:
    """Machine, versions and commit of a document, and the command that writes it."""
    machine, versions = document["machine"], document["versions"]
    packages = ", ".join(f"{k} {v}" for k, v in versions.items())
    commit = str(document["commit"])[:10]
    return f"<sub>{machine['cpu']}, {machine['cores']} cores; {packages}; commit {commit}. `{command}`</sub>"


def _rate(row: Document) -> str:
    share = 100 * row["successes"] / row["episodes"] if row["episodes"] else 0.0
    return f"{share:.0f} % ({100 * row['low']:.0f}-{100 * row['high']:.0f})"


def success(document: Document) -> str:
    """Success by task, environment and method."""
    rows = [
        [r["environment"], r["method"], f"{100 * r['ratio']:.4g} %", r["task"], f"{r['successes']}/{r['episodes']}", _rate(r),
         _number(r["steps_p50"]), _percent(r["trigger_rate"]), _number(r["mcnemar_p"])]
        for r in document["rows"]
    ]
    head = ("environment", "method", "ratio", "task", "solved", "rate (95 % Wilson)", "steps p50", "triggers", "McNemar p")
    settings = document["settings"]
    command = (
        f"ecovla eval --method {settings['method']} --ratio {settings['ratio']} --episodes {settings['episodes']} "
        f"--seed {settings['seed']}"
    )
    return markdown(head, rows, source(document, command))


def expert(document: Document) -> str:
    """The scripted expert."""
    rows = [[r["task"], f"{r['successes']}/{r['episodes']}", _rate(r), _number(r["steps_p50"])] for r in document["rows"]]
    command = "python -m ecovla_ros.bench.expert"
    return markdown(("task", "solved", "rate (95 % Wilson)", "steps p50"), rows, source(document, command))


def latency(document: Document) -> str:
    """Policy call by method and ratio, all frames and by kind."""
    rows = [
        [r["method"], f"{100 * r['ratio']:.4g} %", r["scope"], r["frames"], str(r["n"]),
         *(f"{r[k]:.2f}" for k in ("mean_ms", "p50_ms", "p95_ms", "p99_ms")), f"{r['speedup']:.2f}", _number(r["mac_ratio"])]
        for r in document["rows"]
        if r["scope"] != "act" and (r["frames"] == "all" or r["scope"] == "policy")
    ]
    head = ("method", "ratio", "scope", "frames", "n", "mean ms", "p50", "p95", "p99", "speed-up", "site MACs left")
    return markdown(head, rows, source(document, "ecovla bench"))


def parity(document: Document) -> str:
    """Largest difference from transformers' PI0."""
    rows = [[r["case"], str(r["shape"]), f"{r['max_abs_difference']:.1e}"] for r in document["rows"]]
    return markdown(("case", "shape", "largest difference"), rows, source(document, "python -m ecovla_ros.bench.parity"))


def demo(document: Document) -> str:
    """What `make demo` printed."""
    rows = [
        [r["task"], "yes" if r["success"] else "no", _number(r["seconds"]), _pair(r, "policy"), _pair(r, "camera_to_command"),
         _percent(r["trigger_rate"]), _number(r["pattern_age"]), _number(r["frames_dropped"])]
        for r in document["rows"]
    ]
    head = ("task", "solved", "seconds", "policy ms p50 / p95", "camera to command ms p50 / p95", "triggers",
            "pattern age, frames", "frames dropped")
    return markdown(head, rows, source(document, "make demo"))


def faults(document: Document) -> str:
    """The fault campaign, the sum first."""
    keys = ("count", "violations", "crashes", "latched", "unexplained", "moving", "commands", "refusals")
    rows = [[r["case"], *(f"{r[key]}" for key in keys)] for r in document["rows"]]
    head = ("fault", "cases", "outside limits", "crashes", "latched", "latched without a reason", "not at rest", "commands",
            "refused")  # fmt: skip
    settings = document["settings"]
    return markdown(head, rows, source(document, f"ecovla faults --cases {settings['cases']} --seed {settings['seed']}"))


def playback(document: Document) -> str:
    """Ways to play one motion."""
    rows = [
        [r["way"], f"{r['rms_acceleration']:.2f}", f"{r['ratio']:.2f}", f"{r['peak_jerk']:.3g}", _percent(r["rest_share"]),
         f"{r['rms_error_mrad']:.1f}"]
        for r in document["playback"]
    ]  # fmt: skip
    head = ("way", "rms acceleration, rad/s^2", "of the ideal's", "peak jerk, rad/s^3", "at rest", "rms error, mrad")
    return markdown(head, rows, source(document, "ecovla faults"))


def trial(document: Document) -> str:
    """Processes killed in mid-motion, and what the guard costs."""
    rows = []
    for row in document["rows"]:
        if "rest_s" in row:
            what = f"at rest after {row['rest_s']:.2f} s from {row['speed_rad_s']:.2f} rad/s"
            what += f"; outside limits: {', '.join(row['violations']) or 'nothing'}"
        elif "share" in row:
            what = f"{100 * row['share']:.1f} %"
        else:
            what = f"p99 {_number(row['p99_ms'])} ms" + (f", {row['n']} pictures" if "n" in row else "")
        rows.append([row["trial"], what, "yes" if row["reached"] else "no"])
    return markdown(("trial", "measured", "reached"), rows, source(document, "ecovla trial"))


def _pair(row: Document, name: str) -> str:
    return f"{_number(row[f'{name}_p50_ms'])} / {_number(row[f'{name}_p95_ms'])}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f} %"


TABLES: dict[str, tuple[str, Callable[[Document], str]]] = {
    "success": ("success.json", success),
    "paired": ("paired.json", success),
    "expert": ("expert.json", expert),
    "latency": ("latency.json", latency),
    "parity": ("parity.json", parity),
    "demo": ("demo.json", demo),
    "faults": ("faults.json", faults),
    "playback": ("faults.json", playback),
    "trial": ("trial.json", trial),
}

if __name__ == "__main__":
    sys.exit(main())
