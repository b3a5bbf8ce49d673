"""`ecovla bench` measures the latency of the policy, dense and pruned in turn, or what pruning does to the actions."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ecovla_ros import config
from ecovla_ros.cli.options import add_common, numbers, plain, settings_of
from ecovla_ros.cli.terminal import ProgressLine, print_table
from ecovla_ros.errors import ConfigError

LATENCY = (
    "scope",
    "method",
    "refresh",
    "ratio",
    "tokens",
    "frames",
    "n",
    "mean_ms",
    "p50_ms",
    "p95_ms",
    "p99_ms",
    "speedup",
    "mac_ratio",
    "of_ideal",
    "over_sparse_p50",
    "refresh_cost_ms",
    "exposed_share",
    "trigger_rate",
    "reused_rate",
    "swaps",
)
FIDELITY = (
    "method",
    "refresh",
    "ratio",
    "tokens",
    "phase",
    "n",
    "rms_rad",
    "p95_rad",
    "max_rad",
    "relative",
    "gripper_rms",
)
SESSIONS = (
    "way",
    "sessions",
    "n",
    "turn_p50_ms",
    "frame_p50_ms",
    "mean_ms",
    "p99_ms",
    "speedup",
    "rows_moved",
    "refresh_rate",
    "rms_rad",
)
FRAMES = 300
SIMULATED = "drives the built-in simulator, which has a policy for mini alone"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_common(parser)
    parser.add_argument(
        "--model", default="mini", help="a model, or a shape with random weights (default: %(default)s)"
    )
    parser.add_argument(
        "--method", default="dense,ecovla,static", help="methods, separated by commas (default: %(default)s)"
    )
    parser.add_argument(
        "--refresh",
        default="probe,dense",
        help="how adaptive methods measure: probe, dense, or both separated by a comma",
    )
    parser.add_argument(
        "--ratios", default="0,0.25,0.4", help="pruning ratios, separated by commas (default: %(default)s)"
    )
    parser.add_argument(
        "--reduced",
        action="store_true",
        help="measure every family at reduced width instead of --model, beside the speed-ups of the paper",
    )
    parser.add_argument(
        "--tokens",
        default="",
        help="none, fastv, vla-cache, separated by commas: combine each with every method (default: as configured)",
    )
    parser.add_argument(
        "--frames", type=int, default=FRAMES, help="frames to measure of each variant (default: %(default)s)"
    )
    parser.add_argument(
        "--warm-up", type=int, default=20, help="frames to run before measuring begins (default: %(default)s)"
    )
    parser.add_argument(
        "--pace",
        default="paced",
        help="paced: variants take turns frame by frame; back-to-back: in blocks (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the scripted observations (default: %(default)s)")
    parser.add_argument(
        "--reference",
        type=int,
        default=0,
        metavar="EVERY",
        help="run PI0 of transformers on the same weights, once in this many turns (pi0, pi0-mid, pi0-reduced)",
    )
    parser.add_argument(
        "--compiled", action="store_true", help="with --reference: also through torch.compile, on CUDA with its graphs"
    )
    parser.add_argument(
        "--fidelity", action="store_true", help="measure the error of the actions against dense, not the latency"
    )
    parser.add_argument(
        "--episodes",
        type=int,
        default=0,
        metavar="N",
        help="with --fidelity: use what the dense policy saw in N simulated episodes of each task, from --seed on, "
        "instead of scripted observations",
    )
    parser.add_argument(
        "--environment",
        default="calm",
        help="environment of these episodes: calm, looks or shift (default: %(default)s)",
    )
    parser.add_argument(
        "--nodes",
        type=int,
        default=0,
        metavar="ROUNDS",
        help="measure from camera stamp to published command, in this many demos of each variant (needs ROS 2)",
    )
    parser.add_argument(
        "--sessions", default="", metavar="N,N", help="measure so many arms that take turns at one engine, e.g. 1,2,4,8"
    )  # fmt: skip
    parser.add_argument(
        "--serve", default="", metavar="QUESTIONS",
        help="drive `ecovla serve` with several clients: crowd, kill, soak, separated by commas",
    )  # fmt: skip
    parser.add_argument("--clients", type=int, default=8, help="with --serve: clients at once (default: %(default)s)")
    parser.add_argument(
        "--replicas", type=int, default=1, help="with --serve: replicas of the server (default: %(default)s)"
    )
    parser.add_argument(
        "--requests", type=int, default=50_000, help="with --serve soak: messages in all (default: %(default)s)"
    )
    parser.add_argument(
        "--sms",
        type=int,
        default=0,
        metavar="N",
        help="use only N multiprocessors of the GPU (a green context), as a stand-in for a smaller one; 0: all",
    )
    parser.add_argument(
        "--profile",
        type=Path,
        metavar="FILE",
        help="on a GPU also write to FILE where the time of one frame of each kind goes, kernel by kernel",
    )
    parser.add_argument("--save-pattern", type=Path, help="write the pattern of the last variant to this file")


def run(options: argparse.Namespace) -> int:
    """`ecovla bench`."""
    from ecovla_ros.bench import document
    from ecovla_ros.bench.variants import variants

    settings = config.override(settings_of(options), **{"policy.model": options.model})
    _check(options)
    tokens = options.tokens.split(",") if options.tokens else ()
    chosen = variants(options.method.split(","), options.refresh.split(","), numbers(options.ratios), tokens)
    kinds = {
        _serve: options.serve,
        _sessions: options.sessions,
        _reduced: options.reduced,
        _nodes: options.nodes,
        _fidelity: options.fidelity,
    }
    measure = next((measure for measure, asked in kinds.items() if asked), _latency)
    if settings.policy.embodiment.other and measure not in (_latency, _serve):
        raise ConfigError("policy.embodiment.other: of a checkpoint of another arm the latency alone can be measured")
    rows, columns = measure(options, settings, chosen)
    print_table(rows, columns)
    if options.json:
        document.write(options.json, rows, {**plain(options), "config": asdict(settings)})
    return 0


def _check(options: argparse.Namespace) -> None:
    """Raises ConfigError for options that do not go together."""
    if options.frames < 1 or min(options.warm_up, options.reference, options.nodes) < 0:
        raise ConfigError("--frames must be at least 1, --warm-up, --reference and --nodes at least 0")
    if options.episodes < 0 or (options.episodes and not options.fidelity):
        raise ConfigError("--episodes goes with --fidelity, and is at least 1")
    if options.environment != "calm" and not options.episodes:
        raise ConfigError("--environment goes with --episodes; scripted observations have no environment")
    if options.episodes and options.frames != FRAMES:
        raise ConfigError("--episodes does not go with --frames: an episode has the frames it has")
    if options.episodes and options.model != "mini":
        raise ConfigError(f"--episodes {SIMULATED}, not {options.model}")
    if options.compiled and not options.reference:
        raise ConfigError("--compiled goes with --reference: it is transformers' model that it compiles")
    if options.sms < 0 or (options.sms and (options.nodes or options.fidelity or options.reduced)):
        raise ConfigError("--sms must be at least 0, and goes with the latency of one --model alone")
    if options.serve and (options.sessions or options.nodes or options.fidelity or options.reduced or options.sms):
        raise ConfigError("--serve goes with --clients, --replicas, --requests and --frames alone")
    if options.sessions and (options.nodes or options.fidelity or options.reduced or options.sms):
        raise ConfigError("--sessions goes with --model and --frames alone")
    if options.tokens and options.nodes:
        raise ConfigError("--tokens does not go with --nodes; valid: --set policy.fastv=0.5")


def _latency(
    options: argparse.Namespace, settings: config.Config, chosen: Sequence[Any]
) -> tuple[list[dict[str, Any]], Sequence[str]]:
    from ecovla_ros import build
    from ecovla_ros.bench import document
    from ecovla_ros.bench.speed import green_context, latency, profile
    from ecovla_ros.bench.speed.reference import COMPILE, Reference, shape_of

    part = green_context.enter(options.sms) if options.sms else None
    if part is not None:  # what is fastest on the whole GPU is not what is fastest on a part
        graphs = settings.policy.graphs and part.graphs
        settings = config.override(settings, **{"policy.kernel_cache": False, "policy.graphs": graphs})
    reference = None
    if options.reference:
        shape_of(options.model)
        build.prepare_process(settings.policy)
        compiler = COMPILE if options.compiled else None
        reference = Reference(options.model, settings.policy, options.reference, compiler)
    progress = ProgressLine(options.frames + options.warm_up, "frames")
    traces: list[latency.Traces] | None = [] if options.profile else None
    settled = {**plain(options), "config": asdict(settings)}

    def keep(rows: list[dict[str, Any]]) -> None:
        """What was measured is on disk before a compiler or a profiler may end the process."""
        if options.json:
            document.write(options.json, rows, settled)

    rows = latency.measure(
        settings,
        chosen,
        options.frames,
        options.warm_up,
        options.seed,
        options.pace,
        lambda done, total: progress.to(done),
        reference,
        options.save_pattern,
        part,
        traces,
        keep,
    )
    if options.profile:
        document.write(options.profile, profile.of_variants(options.model, chosen, traces or []), settled)
    return rows, (*LATENCY[:-1], *(("sms", "kernels", "of_reached") if "sms" in rows[0] else ()), LATENCY[-1])


def _reduced(
    options: argparse.Namespace, settings: config.Config, chosen: Sequence[Any]
) -> tuple[list[dict[str, Any]], Sequence[str]]:
    from ecovla_ros.bench.speed import families

    progress = ProgressLine(len(families.FAMILIES) * (options.frames + options.warm_up), "frames")
    tokens = options.tokens.split(",") if options.tokens else ()
    rows = families.measure(
        settings, numbers(options.ratios), options.frames, options.warm_up, options.seed, tokens, progress.to
    )
    return rows, ("model", *LATENCY, "paper_speedup")


def _fidelity(
    options: argparse.Namespace, settings: config.Config, chosen: Sequence[Any]
) -> tuple[list[dict[str, Any]], Sequence[str]]:
    from ecovla_ros.bench import scenes
    from ecovla_ros.bench.fidelity import comparison as fidelity
    from ecovla_ros.bench.fidelity import recorded
    from ecovla_ros.bench.variants import Bench
    from ecovla_ros.sim.tasks import TASKS

    bench = Bench(settings, chosen, options.seed)
    recordings: Iterable[fidelity.Recording]
    if options.episodes:
        recordings = recorded.recordings(settings, options.environment, options.episodes, options.seed)
    else:
        frames = list(scenes.stream(bench.policies[0].spec, options.frames, options.seed, bench.state))
        recordings = [fidelity.Recording(options.seed, frames)]
    progress = ProgressLine(len(chosen) * max(1, options.episodes * len(TASKS)), "answered")
    return fidelity.measure(bench, recordings, progress.to), FIDELITY


def _sessions(
    options: argparse.Namespace, settings: config.Config, chosen: Sequence[Any]
) -> tuple[list[dict[str, Any]], Sequence[str]]:
    from ecovla_ros.bench.speed import sessions

    counts = [int(n) for n in numbers(options.sessions)]
    progress = ProgressLine(len(counts) * options.frames, "rounds")
    return sessions.measure(settings, counts, options.frames, options.seed, progress.to), SESSIONS


def _serve(
    options: argparse.Namespace, settings: config.Config, chosen: Sequence[Any]
) -> tuple[list[dict[str, Any]], Sequence[str]]:
    from ecovla_ros.stage import serving

    if options.model != "mini":
        raise ConfigError(f"--serve asks for what the built-in policy knows, not {options.model}; valid: --model mini")
    progress = ProgressLine(options.requests, "requests")
    rows = serving.measure(
        options.serve.split(","), options.clients, options.frames, options.replicas, options.requests, options.set,
        Path("out/serve"), progress.to,
    )  # fmt: skip
    return rows, tuple(dict.fromkeys(key for row in rows for key in row))


def _nodes(
    options: argparse.Namespace, settings: config.Config, chosen: Sequence[Any]
) -> tuple[list[dict[str, Any]], Sequence[str]]:
    from ecovla_ros.bench.speed import camera_to_command as graph

    if options.model != "mini":
        raise ConfigError(f"--nodes {SIMULATED}, not {options.model}")
    progress = ProgressLine(options.nodes * len(chosen), "demos")
    rows = graph.measure(
        chosen, options.set, "apple", options.seed or 1, options.nodes, lambda done, total: progress.to(done)
    )
    return rows, LATENCY
