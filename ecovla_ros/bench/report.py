"""README tables from results/*.json: `python -m ecovla_ros.bench.report README.md`. No figure is typed by hand.

A table stands between `<!-- table: NAME -->` and `<!-- end -->`; each NAME below says from which file and how.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ecovla_ros.bench.environments import ENVIRONMENTS
from ecovla_ros.errors import ConfigError, unknown

Document = Mapping[str, Any]
MISSING = "*not measured*"
WHOLE_STUDY = (
    ("dense", "none", 0.0),
    *((method, refresh, ratio) for method, refresh in (
        ("random", "none"), ("wanda", "none"), ("static", "none"), ("ecovla", "dense"), ("ecovla", "probe")
    ) for ratio in (0.125, 0.25, 0.375, 0.5)),
)  # fmt: skip
"""Method, refresh and ratio of every row of `make study`."""


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
    commit = ", ".join(str(name)[:10] for name in document.get("commits") or [document["commit"]])
    return f"<sub>{machine['cpu']}, {machine['cores']} cores; {packages}; commit {commit}. `{command}`</sub>"


def _rate(row: Document) -> str:
    share = 100 * row["successes"] / row["episodes"] if row["episodes"] else 0.0
    return f"{share:.0f} % ({100 * row['low']:.0f}-{100 * row['high']:.0f})"


def success(document: Document) -> str:
    """Success by task, environment and method."""
    rows = [
        [r["environment"], _method(r), f"{100 * r['ratio']:.4g} %", r["task"], f"{r['successes']}/{r['episodes']}", _rate(r),
         _number(r["steps_p50"]), _percent(r["trigger_rate"]), _number(r["mcnemar_p"])]
        for r in document["rows"]
    ]
    head = ("environment", "method", "ratio", "task", "solved", "rate (95 % Wilson)", "steps p50", "triggers", "McNemar p")
    settings = document["settings"]
    command = (
        f"ecovla eval --method {settings['method']} --ratio {settings['ratio']} --episodes {settings['episodes']} "
        f"--seed {settings['seed']} --environments {settings['environments']}"
    )
    return markdown(head, rows, source(document, command))


def study(document: Document) -> str:
    """Tasks pooled: one row per method and ratio, success in every environment but latency, and what it costs."""
    environments = [name for name in ENVIRONMENTS if name != "latency"]
    pooled = [r for r in document["rows"] if r["task"] == "all"]
    measured = {(r["method"], r["refresh"], r["ratio"]) for r in pooled}
    rows = []
    for variant in [*WHOLE_STUDY, *sorted(measured - set(WHOLE_STUDY))]:
        method, refresh, ratio = variant
        mine = {r["environment"]: r for r in pooled if (r["method"], r["refresh"], r["ratio"]) == variant}
        cells = [_study_cell(mine.get(e)) for e in environments]
        triggers = " / ".join(_percent(mine[e]["trigger_rate"]) if e in mine else "-" for e in environments)
        cost = next((r["latency_ms"] for r in mine.values() if r.get("latency_ms")), None)
        name = _method({"method": method, "refresh": refresh})
        rows.append([name, f"{100 * ratio:.4g} %", *cells, _number(cost), triggers])
    head = ("method", "ratio", *environments, "policy call, ms, all frames", "triggers, in this order")
    return markdown(head, rows, source(document, "make study"))


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
    rows = [[r["task"], f"{r['successes']}/{r['episodes']}", _rate(r), _number(r["steps_p50"])] for r in document["rows"]]
    command = "python -m ecovla_ros.bench.expert"
    return markdown(("task", "solved", "rate (95 % Wilson)", "steps p50"), rows, source(document, command))


def latency(document: Document) -> str:
    """Policy call by variant, all frames; the frames with a refresh beside the sparse ones; what it could be at best."""
    rows = []
    for r in (r for r in document["rows"] if r["scope"] == "policy" and r["frames"] == "all"):
        same = [s for s in document["rows"] if all(s.get(k) == r.get(k) for k in ("method", "refresh", "ratio"))]
        prefill = next((s for s in same if s["scope"] == "prefill" and s["frames"] == "all"), {})
        refresh = next((s for s in same if s["scope"] == "policy" and s["frames"] == "refresh"), {})
        rows.append([
            r["method"], r["refresh"], f"{100 * r['ratio']:.4g} %", str(r["n"]), f"{r['mean_ms']:.4g}",
            " / ".join(f"{r[k]:.4g}" for k in ("p50_ms", "p95_ms", "p99_ms")), f"{r['speedup']:.2f}",
            _number(r.get("mac_ratio")), _share(r.get("of_ideal")), _times(prefill.get("speedup")),
            _share(prefill.get("of_ideal")), _times(refresh.get("over_sparse_p50")), _percent(r.get("trigger_rate")),
            _percent(r.get("exposed_share"), 2), _memory(r.get("memory_ratio")),
        ])
    head = ("method", "refresh", "ratio", "n", "mean ms", "p50 / p95 / p99", "speed-up", "MACs left", "of ideal",
            "prefill: speed-up", "of ideal", "refresh frame / sparse", "triggers", "exposed", "memory")
    return markdown(head, rows, source(document, bench_command(document)))


def device(document: Document) -> str:
    """Device times on CUDA: share of the roofline bound, and the action phase with and without a refresh beside it."""
    rows = [
        [r["device"], r["method"], r["refresh"], f"{100 * r['ratio']:.4g} %", r["scope"], r["frames"], str(r["n"]),
         " / ".join(f"{r[k]:.4g}" for k in ("p50_ms", "p95_ms", "p99_ms")), _share(r["of_roofline"]),
         _percent(r["exposed_share"], 2)]
        for r in document["rows"] if r["scope"] in ("prefill", "act") and r["frames"] != "all"
    ]
    head = ("GPU", "method", "refresh", "ratio", "scope", "frames", "n", "p50 / p95 / p99 ms", "of roofline", "exposed")
    return markdown(head, rows, source(document, bench_command(document)))


def fidelity(document: Document) -> str:
    """Error of the actions by phase."""
    keys = sorted({(r["ratio"], r["method"], r["refresh"]) for r in document["rows"] if r["method"] != "dense"})
    by = {(r["ratio"], r["method"], r["refresh"], r["phase"]): r for r in document["rows"]}
    phases = ("calm", "changing")
    rows = [
        [method, refresh, f"{100 * ratio:.4g} %"]
        + [f"{1e3 * by[ratio, method, refresh, p][k]:.3g}" for p in phases for k in ("rms_rad", "p95_rad")]
        for ratio, method, refresh in keys
    ]
    head = ("method", "refresh", "ratio", *(f"{p}: {k} mrad" for p in phases for k in ("rms", "p95")))
    return markdown(head, rows, source(document, bench_command(document)))


def command(document: Document) -> str:
    """Camera stamp to command published, through the nodes."""
    rows = [
        [r["method"], r["refresh"], f"{100 * r['ratio']:.4g} %", r["scope"], str(r["n"]), f"{r['mean_ms']:.4g}",
         " / ".join(f"{r[k]:.4g}" for k in ("p50_ms", "p95_ms", "p99_ms")), f"{r['speedup']:.2f}", _percent(r["trigger_rate"])]
        for r in document["rows"]
    ]
    head = ("method", "refresh", "ratio", "scope", "n", "mean ms", "p50 / p95 / p99", "speed-up", "triggers")
    return markdown(head, rows, source(document, bench_command(document)))


def bench_command(document: Document) -> str:
    """The command line of `ecovla bench` that writes the document again."""
    settings, words = document["settings"], ["ecovla bench"]
    for name, default in BENCH_DEFAULTS.items():
        value = settings.get(name, default)
        if value != default:
            words.append(f"--{name.replace('_', '-')}" + ("" if value is True else f" {value}"))
    return " ".join([*words, *(f"--set {text}" for text in map(shlex.quote, settings["set"]))])


BENCH_DEFAULTS = {
    "model": "mini", "method": "dense,ecovla,static", "refresh": "probe,dense", "ratios": "0,0.25,0.4", "frames": 300,
    "warm_up": 20, "pace": "paced", "seed": 0, "reference": 0, "fidelity": False, "nodes": 0,
}
"""What `ecovla bench` does without being told; test_bench holds it against cli/bench."""


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
            if "step_rad_s2" in row:
                what += f"; largest step of acceleration {row['step_rad_s2']:.2f} rad/s^2"
        elif "share" in row:
            what = f"{100 * row['share']:.1f} %"
        else:
            what = f"p99 {_number(row['p99_ms'])} ms" + (f", {row['n']} pictures" if "n" in row else "")
        rows.append([row["trial"], what, "yes" if row["reached"] else "no"])
    return markdown(("trial", "measured", "reached"), rows, source(document, "ecovla trial"))


def analytic(document: Document) -> str:
    """Costs of the full shapes, computed from their products."""
    gpus = list(document["settings"]["peaks"])
    rows = [
        [r["model"], r["way"], f"{100 * r['ratio']:.4g} %", str(r["tokens"]),
         *(f"{r[f'{stage}_gmac']:.0f}" for stage in ("vision", "prefill", "act")), f"{r['weights_gb']:.1f}",
         *(f"{r['bound_ms'][gpu]:.1f}" for gpu in gpus)]
        for r in document["rows"]
    ]  # fmt: skip
    head = ("model", "vision tokens", "ratio", "sequence", "vision GMAC", "prefill GMAC", "act GMAC", "weights read, GB",
            *gpus)  # fmt: skip
    command = "python -m ecovla_ros.bench.analytic --json results/analytic.json"
    note = f"<sub>Computed from shapes, not measured; bfloat16; GPUs: lower bound, ms. `{command}`</sub>"
    return markdown(head, rows, note)


def bags(document: Document) -> str:
    """Speed, size, memory and damage of bags."""
    rows = [[r["case"], r["what"], f"{_number(r['value'])} {r['unit']}", r["wanted"]] for r in document["rows"]]
    command = "python -m ecovla_ros.report.measure"
    return markdown(("case", "bag", "measured", "wanted"), rows, source(document, command))


def families(document: Document) -> str:
    """Latency of every family at reduced width, and the paper's speed-ups."""
    rows = [
        [r["model"], r["method"], f"{100 * r['ratio']:.4g} %", r["scope"], r["frames"], str(r["n"]),
         *(f"{r[k]:.1f}" for k in ("mean_ms", "p50_ms", "p95_ms")), f"{r['speedup']:.2f}", _number(r["mac_ratio"]),
         _number(r["of_ideal"]), _number(r["paper_speedup"])]
        for r in document["rows"]
        if r["method"] == "dense" or r["scope"] == "policy" or r["frames"] == "sparse"
    ]  # fmt: skip
    head = ("model", "method", "ratio", "scope", "frames", "n", "mean ms", "p50", "p95", "speed-up", "MACs left",
            "speed-up / ideal", "paper's speed-up")  # fmt: skip
    settings = document["settings"]
    began = "ecovla bench --reduced" if "reduced" in settings else "python -m ecovla_ros.bench.families"
    command = f"{began} --frames {settings['frames']} --warm-up {settings['warm_up']}"
    return markdown(head, rows, source(document, command))


def tokens(document: Document) -> str:
    """FastV and VLA-Cache, alone and beside channel pruning."""
    rows = [
        [r["model"], r["tokens"], f"{100 * r['ratio']:.4g} %", str(r["n"]), f"{r['mean_ms']:.1f}", f"{r['p50_ms']:.1f}",
         f"{r['speedup']:.2f}", _number(r["mac_ratio"]), _number(r["of_ideal"]), _percent(r["reused_rate"]),
         _number(r["paper_speedup"])]
        for r in document["rows"]
        if r["scope"] == "policy" and r["frames"] == "all"
    ]  # fmt: skip
    head = ("model", "vision tokens", "ratio", "n", "mean ms", "p50", "speed-up", "MACs left", "speed-up / ideal",
            "frames that reuse", "paper's speed-up")  # fmt: skip
    settings = document["settings"]
    command = f"ecovla bench --reduced --tokens {settings['tokens']} --ratios {settings['ratios']} --frames "
    command += f"{settings['frames']} --warm-up {settings['warm_up']}"
    return markdown(head, rows, source(document, command))


def _pair(row: Document, name: str) -> str:
    return f"{_number(row[f'{name}_p50_ms'])} / {_number(row[f'{name}_p95_ms'])}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _percent(value: float | None, digits: int = 0) -> str:
    return "-" if value is None else f"{100 * value:.{digits}f} %"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _memory(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}x"


def _times(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}x"


TABLES: dict[str, tuple[str, Callable[[Document], str]]] = {
    "success": ("success.json", success),
    "study": ("table.json", study),
    "study-latency": ("table-latency.json", success),
    "expert": ("expert.json", expert),
    "latency": ("latency.json", latency),
    "latency-mid-fp32": ("latency_mid_fp32.json", latency),
    "latency-mid-bf16": ("latency_mid_bf16.json", latency),
    "latency-back-to-back": ("latency_back_to_back.json", latency),
    "latency-cuda": ("latency_cuda.json", device),
    "fidelity": ("fidelity.json", fidelity),
    "command": ("command.json", command),
    "parity": ("parity.json", parity),
    "demo": ("demo.json", demo),
    "faults": ("faults.json", faults),
    "playback": ("faults.json", playback),
    "trial": ("trial.json", trial),
    "analytic": ("analytic.json", analytic),
    "families": ("families.json", families),
    "bags": ("bags.json", bags),
    "tokens": ("tokens.json", tokens),
}

if __name__ == "__main__":
    sys.exit(main())
