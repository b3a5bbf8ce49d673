"""Tables of the README and of docs/ from results/*.json: `make tables`. No figure is typed by hand.

A table stands between `<!-- table: NAME -->` and `<!-- end -->`; each NAME below says from which files and how. The
tables of docs/settings.md come from `ecovla_ros/config.py`.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from ecovla_ros.errors import ConfigError, unknown
from ecovla_ros.publish import (
    gazebo_tables,
    gpu_tables,
    headline,
    libero_tables,
    serving_tables,
    settings_tables,
    speed_tables,
    success_tables,
    trace_tables,
)
from ecovla_ros.publish.markdown import MISSING, Document, markdown, number, percent, source


def main(argv: Sequence[str] | None = None) -> int:
    """Rewrite the tables of Markdown files in place; `--check` only tells which are not up to date (exit 1)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, nargs="*", help="Markdown files; none: README.md and all of docs/")
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args(argv)
    stale = []
    for file in options.file or [Path("README.md"), *sorted(Path("docs").rglob("*.md"))]:
        before = file.read_text(encoding="utf-8")
        after = fill(before, options.results)
        if before != after:
            stale.append(file)
            if not options.check:
                file.write_text(after, encoding="utf-8")
    if options.check and stale:
        print(f"not as the result files say: {', '.join(map(str, stale))}; `make tables` writes them")
    return int(options.check and bool(stale))


def fill(text: str, results: Path) -> str:
    """`text` with every table made anew. Raises ConfigError for a table of unknown name."""

    def replace(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in TABLES:
            raise ConfigError(unknown("table", name, TABLES))
        files, make = TABLES[name]
        paths = [_files(results, word) for word in files.split()]
        documents = [json.loads(path.read_text(encoding="utf-8")) for some in paths for path in some]
        body = make(*documents) if all(paths) else MISSING
        return f"<!-- table: {name} -->\n{body}\n<!-- end -->"

    return re.sub(r"<!-- table: ([\w.-]+) -->\n.*?<!-- end -->", replace, text, flags=re.DOTALL)


def _files(results: Path, word: str) -> list[Path]:
    """The files that a word of `TABLES` names: all that fit a pattern, or the first that exists of "a.json|b.json"."""
    if "*" in word:
        return sorted(results.glob(word))
    return [path for name in word.split("|") if (path := results / name).is_file()][:1]


def faults(document: Document) -> str:
    """The fault campaign, the sum first."""
    keys = ("count", "violations", "crashes", "latched", "unexplained", "moving", "commands", "refusals")
    rows = [[r["case"], *(f"{r[key]}" for key in keys)] for r in document["rows"]]
    head = ("fault", "cases", "outside limits", "crashes", "latched", "latched without a reason", "not at rest",
            "commands", "refused")  # fmt: skip
    settings = document["settings"]
    command = f"ecovla faults --cases {settings['cases']} --seed {settings['seed']}"
    return markdown(head, rows, source(document, command))


def releases(document: Document) -> str:
    """The campaign by release of the controller, by our model of its rules and, where one was built, by itself."""
    rows = []
    for row in document["releases"]:
        real = row.get("by_the_real", 0)
        off = row.get("largest_difference_rad")
        rows.append([
            row["release"], f"{row['judged']}", f"{row['outside']}", f"{real}",
            f"{row['outside_by_the_real']}" if real else "not measured",
            f"{off:.1e}" if real and off is not None else "not measured",
        ])  # fmt: skip
    head = ("release", "cases by the model", "outside limits", "cases by the real controller", "outside limits",
            "largest difference, rad")  # fmt: skip
    settings = document["settings"]
    command = f"ecovla faults --cases {settings['cases']} --seed {settings['seed']}"
    return markdown(head, rows, source(document, command))


def stops(document: Document) -> str:
    """Stops of the guard and of ruckig."""
    rows = [
        [r["who"], r["profile"], f"{r['rest_s_mean']:.3f}", f"{r['rest_s_most']:.3f}", f"{r['cpu_ms_median']:.2f}",
         f"{r['knots_mean']:.0f}", f"{r['outside']} of {r['stops']}", f"{r['lines']}"]
        for r in document["rows"]
    ]  # fmt: skip
    head = ("stop of", "profile", "time to rest, s", "longest, s", "processor, ms", "knots", "outside limits", "lines")
    return markdown(head, rows, source(document, "python -m ecovla_ros.bench.guard.stops"))


def playback(document: Document) -> str:
    """Ways to play one motion."""
    rows = [
        [r["way"], f"{r['rms_acceleration']:.2f}", f"{r['ratio']:.2f}", f"{r['peak_jerk']:.3g}",
         percent(r["rest_share"]), f"{r['rms_error_mrad']:.1f}"]
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
            if "controller" in row:
                what += f"; {'not ' if not row['drove_again'] else ''}driven again; {row['controller']}"
        elif "share" in row:
            what = f"{100 * row['share']:.1f} %"
        else:
            what = f"p99 {number(row['p99_ms'])} ms" + (f", {row['n']} pictures" if "n" in row else "")
            if "to_policy_p99_ms" in row:
                before, after = number(row["to_policy_p99_ms"]), number(row["to_command_p99_ms"])
                what += f", p50 {number(row['p50_ms'])}; p99 before the chunk {before}, after it {after}"
        rows.append([row["trial"], what, "yes" if row["reached"] else "no"])
    return markdown(("trial", "measured", "reached"), rows, source(document, "ecovla trial"))


def fuzz(document: Document) -> str:
    """Hostile messages over the wire."""
    rows = [
        [r["node"], r["topic"], f"{r['sent']}", f"{r.get('unreadable', '-')}", f"{r['ends']}",
         f"{r['answered']} of {r['good']}", f"{r['slowest_s']:.2f}", f"{r['memory_mb']:+.1f}",
         "yes" if r["reached"] else "no"]
        for r in document["rows"] if "sent" in r
    ]  # fmt: skip
    head = ("node", "topic", "hostile messages", "unreadable", "process ends", "good ones answered",
            "slowest answer, s", "memory, MB", "reached")  # fmt: skip
    return markdown(head, rows, source({**document, "commits": _commits(document)}, "ecovla fuzz"))


def owners(document: Document) -> str:
    """Attacks on who owns the arm."""
    rows = [
        [r["topic"], r["said"].replace("|", "/"), f"{r['moved_rad']:.3f}", "yes" if r["reached"] else "no"]
        for r in document["rows"] if "moved_rad" in r
    ]  # fmt: skip
    head = ("attack", "what the guard says", "largest motion it commanded, rad", "held")
    return markdown(head, rows, source({**document, "commits": _commits(document)}, "ecovla fuzz --part owners"))


def _commits(document: Document) -> list[str]:
    return sorted({row["commit"] for row in document["rows"]})


def bags(document: Document) -> str:
    """Speed, size, memory and damage of bags."""
    rows = [[r["case"], r["what"], f"{number(r['value'])} {r['unit']}", r["wanted"]] for r in document["rows"]]
    command = "python -m ecovla_ros.bench.speed.bags"
    return markdown(("case", "bag", "measured", "wanted"), rows, source(document, command))


def reads(document: Document) -> str:
    """What is read, and what is refused by name: of tests that ran."""
    groups: dict[str, dict[str, list[str]]] = {}
    for row in document["rows"]:
        before, colon, after = _plain(row["what"]).rpartition(": ")
        held = groups.setdefault(row["kind"], {}).setdefault(before, [])
        held += [] if row["failed"] else [after]
    rows = [
        [
            kind,
            "; ".join(f"{before}: {', '.join(held)}" if before else "; ".join(held) for before, held in parts.items()),
        ]
        for kind, parts in groups.items()
    ]
    return markdown(("kind", "what"), rows, source(document, "make reads"))


def _plain(pattern: str) -> str:
    """A pattern that a test looks for, as text."""
    return pattern.replace(".*", " ... ").replace("\\", "").replace("|", "\\|")


def spoilt(document: Document) -> str:
    """The campaign of spoilt inputs."""
    keys = ("kind", "inputs", "read", "refused", "wrong")
    rows = [[f"{row[key]}" for key in keys] for row in document["rows"]]
    settings = document["settings"]
    command = f"ecovla spoil --count {settings['count']} --seed {settings['seed']}"
    head = ("input", "spoilt", "read", "refused in one line, exit code 2", "anything else")
    return markdown(head, rows, source(document, command))


SECTIONS = settings_tables.sections()
TABLES: dict[str, tuple[str, Callable[..., str]]] = {
    "headline": (
        "table.json latency_mid_bf16.json gpu-pi05-behind.json|gpu-pi05.json faults.json trial.json",
        headline.headline,
    ),
    "success": ("table.json", success_tables.dense),
    "study": ("table.json", success_tables.study),
    "study-latency": ("table-latency.json", success_tables.study_latency),
    "study-rtc": ("table-rtc.json", success_tables.measured),
    "study-rtc-release": ("table-rtc-release.json", success_tables.measured),
    "rtc-pairs": ("rtc-pairs.json", success_tables.pairs),
    "reaction": ("reaction.json", trace_tables.reaction),
    "waiting": ("trace-waiting.json trace-waiting-rtc.json", trace_tables.waiting),
    "expert": ("expert.json", success_tables.expert),
    "libero-expert": ("libero-expert.json", libero_tables.expert),
    "libero-gate": ("libero-gate.json", libero_tables.gate),
    "libero-answers": (
        "libero-expert.json libero-dense.json libero-gate.json libero-primary.json libero-primary-all-mlps.json "
        "libero-primary-no-demonstrations.json libero-primary-own-calibration.json",
        libero_tables.answers,
    ),
    "libero-dense": ("libero-dense.json", libero_tables.dense),
    "libero-primary": ("libero-primary.json", libero_tables.primary),
    "libero-primary-first": ("libero-primary-first.json", libero_tables.primary),
    "libero-primary-all-mlps": ("libero-primary-all-mlps.json", libero_tables.primary),
    "libero-primary-no-demonstrations": ("libero-primary-no-demonstrations.json", libero_tables.primary),
    "libero-primary-own-calibration": ("libero-primary-own-calibration.json", libero_tables.primary),
    "libero-parts": ("libero-plan-*.json", libero_tables.parts),
    "libero-parts-all-mlps": ("libero-all-mlps-*.json", partial(libero_tables.parts, plan="libero-all-mlps")),
    "libero-parts-no-demonstrations": (
        "libero-no-demonstrations-*.json",
        partial(libero_tables.parts, plan="libero-no-demonstrations"),
    ),
    "libero-parts-conditions": (
        "libero-conditions-*.json",
        partial(libero_tables.parts, plan="libero-conditions"),
    ),
    "libero-latency": ("latency-libero.json", speed_tables.latency),
    "libero-pairs": ("libero-pairs-*.json", libero_tables.pairs),
    "libero-parts-calibrations": (
        "libero-calibrations-*.json",
        partial(libero_tables.parts, plan="libero-calibrations"),
    ),
    "latency": ("latency.json", speed_tables.latency),
    "latency-mid-fp32": ("latency_mid_fp32.json", speed_tables.latency),
    "latency-mid-bf16": ("latency_mid_bf16.json", speed_tables.latency),
    "latency-back-to-back": ("latency_back_to_back.json", speed_tables.latency),
    **{
        f"latency-xeon-{name}": (f"latency-xeon-{name}.json", speed_tables.latency)
        for name in ("mid-fp32", "mid-bf16", "back-to-back", "mini")
    },
    "gpu": ("gpu-*.json", gpu_tables.policy),
    "gpu-device": ("gpu-*.json", gpu_tables.device),
    "h100": ("h100-*.json", gpu_tables.policy),
    "h100-device": ("h100-*.json", gpu_tables.device),
    "fidelity": ("fidelity.json", speed_tables.fidelity),
    "fidelity-looks": ("fidelity-looks.json", speed_tables.fidelity_episodes),
    "probe": ("probe.json", speed_tables.probe),
    "command": ("command.json", speed_tables.command),
    "parity": ("parity.json", speed_tables.parity),
    "demo": ("demo.json", success_tables.demo),
    "fuzz": ("fuzz.json", fuzz),
    "owners": ("fuzz.json", owners),
    "faults": ("faults.json", faults),
    "playback": ("faults.json", playback),
    "releases": ("faults.json", releases),
    "stops": ("stops.json", stops),
    "trial": ("trial.json", trial),
    "sessions": ("sessions.json", serving_tables.sessions),
    "serve": ("serve*.json", serving_tables.serve),
    "gazebo": ("gazebo.json", gazebo_tables.driven),
    "gazebo-rtc": ("gazebo-rtc.json", gazebo_tables.driven),
    "gazebo-trained": ("gazebo-trained.json", gazebo_tables.driven),
    "gazebo-taught": ("gazebo-trained.json gazebo-shipped.json gazebo.json", gazebo_tables.taught),
    "gazebo-demonstrations": ("gazebo-demonstrations.json", gazebo_tables.demonstrated),
    "link": ("link.json", serving_tables.link),
    "shards": ("shards.json", serving_tables.shards),
    "analytic": ("analytic.json", speed_tables.analytic),
    "families": ("families.json", speed_tables.families),
    "paper": ("", speed_tables.paper),
    "bags": ("bags.json", bags),
    "reads": ("reads.json", reads),
    "spoilt": ("inputs.json", spoilt),
    "tokens": ("tokens.json", speed_tables.tokens),
    **{f"settings-{name}": ("", partial(settings_tables.section, name)) for name in SECTIONS},
}
"""Name -> result files, by spaces (a pattern, or "first|second"), and what makes the table of their documents."""

if __name__ == "__main__":
    sys.exit(main())
