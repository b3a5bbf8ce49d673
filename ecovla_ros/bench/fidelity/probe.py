"""What brings a probe nearer to a dense look: `python -m ecovla_ros.bench.fidelity.probe --json results/probe.json`.

The same recordings for each setting, see `comparison`. A probe sees less than a dense frame in two ways: it looks at a
few tokens, and it looks through the sparse pass. With every token sampled only the second is left, so that no choice of
tokens can be better than that row; audits are dense looks now and then.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ecovla_ros import build, config
from ecovla_ros.bench import document
from ecovla_ros.bench.fidelity import comparison, recorded
from ecovla_ros.bench.variants import Bench, Variant

DENSE = Variant("dense", "none", 0.0)
FEW = (8, 32)
"""Tokens of a probe."""
AUDITS = (2, 8)
"""Every so many refreshes one is dense."""
AGES = (4,)
"""Refreshes come after so many frames without a trigger."""


def settings_of(tokens: int) -> dict[str, tuple[str, Mapping[str, Any]]]:
    """Name -> refresh, and what is set; `tokens`: of a whole prefix."""
    found: dict[str, tuple[str, Mapping[str, Any]]] = {"static": ("none", {}), "dense look": ("dense", {})}
    found |= {f"probe, {n} tokens": ("probe", {"prune.probe_tokens": n}) for n in FEW if n < tokens}
    found[f"probe, all {tokens} tokens"] = "probe", {"prune.probe_tokens": tokens}
    found |= {f"probe, one refresh in {n} dense": ("probe", {"prune.audit": n}) for n in AUDITS}
    found |= {f"probe, also after {n} frames": ("probe", {"prune.max_age": n}) for n in AGES}
    return found


def measure(settings: config.Config, environment: str, episodes: int, seed: int, ratio: float) -> list[dict[str, Any]]:
    """A row for each setting and phase. Raises ConfigError for an environment that is none."""
    recordings = list(recorded.recordings(settings, environment, episodes, seed))
    policy = build.policy(settings.policy)
    tokens = len(policy.encode(recordings[0].frames[0].observation).prefix)
    rows = []
    for name, (refresh, changes) in settings_of(tokens).items():
        variant = Variant("static" if refresh == "none" else "ecovla", refresh, ratio)
        bench = Bench(config.override(settings, **changes), [DENSE, variant], seed)
        found = [row for row in comparison.measure(bench, recordings) if row["method"] != "dense"]
        rows += [{"setting": name, "environment": environment, **row} for row in found]
        sys.stderr.write(f"{environment} {name}: {1e3 * found[0]['rms_rad']:.2f} mrad\n")
    return rows


def main(arguments: list[str] | None = None) -> int:
    """Print the rows of all phases together; with --json write the document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environments", default="looks,calm", help="separated by commas")
    parser.add_argument("--episodes", type=int, default=2, help="seeds of each task")
    parser.add_argument("--seed", type=int, default=20000, help="of the first episode")
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="as of every command")
    parser.add_argument("--json", type=Path, help="file to write")
    chosen = parser.parse_args(arguments)
    shipped = config.override(config.load(config.shipped("mini_sim.yaml")), **{"policy.threads": 1})
    settings = config.override_texts(shipped, chosen.set)
    rows = []
    for environment in chosen.environments.split(","):
        rows += measure(settings, environment, chosen.episodes, chosen.seed, chosen.ratio)
        if chosen.json:
            document.write(chosen.json, rows, {**vars(chosen), "json": str(chosen.json), "config": asdict(settings)})
    for row in rows:
        if row["phase"] == comparison.ALL:
            low, high = (1e3 * (row[key] or 0.0) for key in ("rms_low_rad", "rms_high_rad"))
            name = f"{row['environment']:<6} {row['setting']:<30}"
            sys.stdout.write(f"{name} {1e3 * row['rms_rad']:6.2f} mrad ({low:.2f}-{high:.2f})\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
