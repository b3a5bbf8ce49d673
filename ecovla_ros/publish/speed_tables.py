"""Tables of speed, fidelity and parity."""

from __future__ import annotations

from ecovla_ros.bench.speed.families import PAPER_MS
from ecovla_ros.publish.markdown import (
    MISSING,
    Document,
    command_line,
    markdown,
    memory,
    number,
    percent,
    share,
    source,
    times,
)

BENCH_DEFAULTS = {
    "model": "mini",
    "method": "dense,ecovla,static",
    "refresh": "probe,dense",
    "ratios": "0,0.25,0.4",
    "frames": 300,
    "warm_up": 20,
    "pace": "paced",
    "seed": 0,
    "reference": 0,
    "fidelity": False,
    "nodes": 0,
    "episodes": 0,
    "environment": "calm",
}
"""What `ecovla bench` does without being told; test_bench holds it against cli/bench."""


def latency(document: Document) -> str:
    """Policy call by variant, all frames; frames with a refresh beside sparse ones; what it could be at best."""
    rows = []
    for r in (r for r in document["rows"] if r["scope"] == "policy" and r["frames"] == "all"):
        same = [s for s in document["rows"] if all(s.get(k) == r.get(k) for k in ("method", "refresh", "ratio"))]
        prefill: Document = next((s for s in same if s["scope"] == "prefill" and s["frames"] == "all"), {})
        refresh: Document = next((s for s in same if s["scope"] == "policy" and s["frames"] == "refresh"), {})
        rows.append(
            [
                r["method"],
                r["refresh"],
                f"{100 * r['ratio']:.4g} %",
                str(r["n"]),
                f"{r['mean_ms']:.4g}",
                " / ".join(f"{r[k]:.4g}" for k in ("p50_ms", "p95_ms", "p99_ms")),
                f"{r['speedup']:.2f}",
                number(r.get("mac_ratio")),
                share(r.get("of_ideal")),
                times(prefill.get("speedup")),
                share(prefill.get("of_ideal")),
                times(refresh.get("over_sparse_p50")),
                percent(r.get("trigger_rate")),
                percent(r.get("exposed_share"), 2),
                memory(r.get("memory_ratio")),
            ]
        )
    head = (
        "method",
        "refresh",
        "ratio",
        "n",
        "mean ms",
        "p50 / p95 / p99",
        "speed-up",
        "MACs left",
        "of ideal",
        "prefill: speed-up",
        "of ideal",
        "refresh frame / sparse",
        "triggers",
        "exposed",
        "memory",
    )
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


def fidelity_episodes(document: Document) -> str:
    """Error of joints (mrad) and gripper on simulated episodes, by what the gripper is told; 95 % over episodes."""
    rows: dict[tuple[float, str, str], list[str]] = {}
    counts = {}
    for r in document["rows"]:
        counts[r["phase"]] = r["n"]
        if r["method"] != "dense":
            rows.setdefault((r["ratio"], r["method"], r["refresh"]), []).append(_error(r))
    head = ("method", "refresh", "ratio", *(f"{GRIPPER[phase]}, {n} frames" for phase, n in counts.items()))
    cells = [[method, refresh, f"{100 * ratio:.4g} %", *own] for (ratio, method, refresh), own in sorted(rows.items())]
    return markdown(head, cells, source(document, bench_command(document)))


GRIPPER = {"all": "all", "open": "gripper stays open", "switch": "closes or opens", "closed": "stays closed"}
"""Phases of a recorded frame, in the words of a table."""


def _error(row: Document) -> str:
    joints = "{:.2f} ({:.2f}-{:.2f})".format(*(1e3 * row[k] for k in ("rms_rad", "rms_low_rad", "rms_high_rad")))
    return joints + "; {:.3f} ({:.3f}-{:.3f})".format(*(row[k] for k in ("gripper_rms", "gripper_low", "gripper_high")))


def probe(document: Document) -> str:
    """What a probe may be given: error of joints (mrad) and gripper, one column for each environment."""
    found: dict[str, dict[str, str]] = {}
    for r in document["rows"]:
        if r["phase"] == "all":
            found.setdefault(r["setting"], {})[r["environment"]] = _error(r)
    settings = document["settings"]
    environments = settings["environments"].split(",")
    rows = [[setting, *(own.get(name, MISSING) for name in environments)] for setting, own in found.items()]
    command = (
        f"python -m ecovla_ros.bench.fidelity.probe --environments {settings['environments']} --episodes "
        f"{settings['episodes']} --seed {settings['seed']} --ratio {settings['ratio']}"
    )
    return markdown(("pattern by", *environments), rows, source(document, command))


def command(document: Document) -> str:
    """Camera stamp to command published, through the nodes."""
    rows = [
        [
            r["method"],
            r["refresh"],
            f"{100 * r['ratio']:.4g} %",
            r["scope"],
            str(r["n"]),
            f"{r['mean_ms']:.4g}",
            " / ".join(f"{r[k]:.4g}" for k in ("p50_ms", "p95_ms", "p99_ms")),
            f"{r['speedup']:.2f}",
            percent(r["trigger_rate"]),
        ]
        for r in document["rows"]
    ]
    head = ("method", "refresh", "ratio", "scope", "n", "mean ms", "p50 / p95 / p99", "speed-up", "triggers")
    return markdown(head, rows, source(document, bench_command(document)))


def parity(document: Document) -> str:
    """Largest difference from transformers' PI0."""
    rows = [[r["case"], str(r["shape"]), f"{r['max_abs_difference']:.1e}"] for r in document["rows"]]
    note = source(document, "python -m ecovla_ros.bench.fidelity.parity")
    return markdown(("case", "shape", "largest difference"), rows, note)


def analytic(document: Document) -> str:
    """Costs of the full shapes, computed from their products."""
    gpus, reached = list(document["settings"]["peaks"]), list(document["settings"].get("reached", {}))
    rows = [
        [r["model"], r["way"], f"{100 * r['ratio']:.4g} %", str(r["tokens"]),
         *(f"{r[f'{stage}_gmac']:.0f}" for stage in ("vision", "prefill", "act")), f"{r['weights_gb']:.1f}",
         *(f"{r['bound_ms'][gpu]:.1f}" for gpu in gpus), *(f"{r['reached_ms'][gpu]:.1f}" for gpu in reached)]
        for r in document["rows"]
    ]  # fmt: skip
    head = ("model", "vision tokens", "ratio", "sequence", "vision GMAC", "prefill GMAC", "act GMAC",
            "weights read, GB", *gpus, *(f"{gpu}, measured ceiling" for gpu in reached))  # fmt: skip
    command = "python -m ecovla_ros.bench.speed.analytic --json results/analytic.json"
    note = f"<sub>Computed from shapes, not measured; bfloat16; GPUs: lower bound, ms. `{command}`</sub>"
    return markdown(head, rows, note)


def families(document: Document) -> str:
    """Latency of every family at reduced width, and the paper's speed-ups."""
    rows = [
        [r["model"], r["method"], f"{100 * r['ratio']:.4g} %", r["scope"], r["frames"], str(r["n"]),
         *(f"{r[k]:.1f}" for k in ("mean_ms", "p50_ms", "p95_ms")), f"{r['speedup']:.2f}", number(r["mac_ratio"]),
         number(r["of_ideal"]), number(r["paper_speedup"])]
        for r in document["rows"]
        if r["method"] == "dense" or r["scope"] == "policy" or r["frames"] == "sparse"
    ]  # fmt: skip
    head = ("model", "method", "ratio", "scope", "frames", "n", "mean ms", "p50", "p95", "speed-up", "MACs left",
            "speed-up / ideal", "paper's speed-up")  # fmt: skip
    settings = document["settings"]
    began = "ecovla bench --reduced" if "reduced" in settings else "python -m ecovla_ros.bench.speed.families"
    command = f"{began} --frames {settings['frames']} --warm-up {settings['warm_up']}"
    return markdown(head, rows, source(document, command))


def paper() -> str:
    """What the paper measured, of the whole call on an RTX 3090; from the paper and not from here."""
    rows = [
        [model, f"{100 * ratio:.4g} %", f"{ms:.1f}", times(by_ratio[0.0] / ms)]
        for model, by_ratio in PAPER_MS.items()
        for ratio, ms in by_ratio.items()
    ]
    return markdown(("model", "ratio", "ms", "speed-up"), rows, "<sub>arXiv 2602.00780, tables 1 to 3</sub>")


def tokens(document: Document) -> str:
    """FastV and VLA-Cache, alone and beside channel pruning."""
    rows = [
        [r["model"], r["tokens"], f"{100 * r['ratio']:.4g} %", str(r["n"]), f"{r['mean_ms']:.1f}", f"{r['p50_ms']:.1f}",
         f"{r['speedup']:.2f}", number(r["mac_ratio"]), number(r["of_ideal"]), percent(r["reused_rate"]),
         number(r["paper_speedup"])]
        for r in document["rows"]
        if r["scope"] == "policy" and r["frames"] == "all"
    ]  # fmt: skip
    head = ("model", "vision tokens", "ratio", "n", "mean ms", "p50", "speed-up", "MACs left", "speed-up / ideal",
            "frames that reuse", "paper's speed-up")  # fmt: skip
    settings = document["settings"]
    command = f"ecovla bench --reduced --tokens {settings['tokens']} --ratios {settings['ratios']} --frames "
    command += f"{settings['frames']} --warm-up {settings['warm_up']}"
    return markdown(head, rows, source(document, command))


def bench_command(document: Document) -> str:
    """The command line of `ecovla bench` that writes the document again."""
    return command_line("ecovla bench", BENCH_DEFAULTS, document["settings"])
