"""`ecovla inspect CHECKPOINT`: what a checkpoint is and what it would cost, from its headers; no weight is read."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from ecovla_ros import config
from ecovla_ros.cli.options import add_common, numbers, plain, settings_of
from ecovla_ros.cli.terminal import print_table

SAME = {"pi0": "pi05"}
"""Family -> the family whose configuration of this arm is its own as well."""
MEANING = {
    "absolute": "joint targets",
    "relative": "differences from the joints now",
    "delta_base": "motions of the tool along the axes of the base, made joint targets by kinematics",
    "delta_tool": "motions of the tool along its own axes, made joint targets by kinematics",
}
"""What actions are, by `policy.embodiment.actions`."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("checkpoint", type=Path, help="the folder of a published checkpoint")
    add_common(parser)
    parser.set_defaults(config="")  # that of the checkpoint's family
    parser.add_argument(
        "--ratios", default="0,0.25,0.4", help="pruning ratios, separated by commas (default: %(default)s)"
    )
    parser.add_argument(
        "--prompt",
        type=int,
        default=30,
        help="length of the prompt for which the cost is counted, tokens (default: %(default)s)",
    )


def run(options: argparse.Namespace) -> int:
    """`ecovla inspect`. Everything a load checks is checked here, but the numbers themselves."""
    from ecovla_ros import build
    from ecovla_ros.bench import document
    from ecovla_ros.bench.speed import cost

    family = build.family_of(options.checkpoint)
    options.config = options.config or f"{SAME.get(family, family).replace('-', '_')}_gen3.yaml"
    settings = settings_of(options)
    policy = build.outline(replace(settings.policy, model=family, checkpoint=str(options.checkpoint)))
    for name, value in facts(policy, family, settings.policy.embodiment):
        print(f"{name:<14} {value}")
    found = cost.products(policy, options.prompt)
    groups = settings.prune.sites
    rows = [
        {"ratio": ratio, **{f"{stage}_gmac": cost.macs(found, stage, ratio, groups) / 1e9 for stage in cost.STAGES},
         "weights_gb": cost.streamed(found, ratio, groups) / 1e9,
         **{gpu: cost.bound_ms(found, peak, ratio, groups) for gpu, peak in cost.GPUS.items()}}
        for ratio in numbers(options.ratios)
    ]  # fmt: skip
    reusing = "" if policy.reuse is None else " A frame that reuses tokens."
    print(f"\nPer frame in bfloat16, prompt of {options.prompt} tokens; {', '.join(groups)} pruned.{reusing}")
    print("GPUs: computed lower bound, ms; no frame is faster. Not measured.")
    print_table(rows, tuple(rows[0]))
    if options.json:
        told = [list(pair) for pair in facts(policy, family, settings.policy.embodiment)]
        document.write(options.json, rows, {**plain(options), "facts": told})
    return 0


def facts(policy: Any, family: str, embodiment: config.EmbodimentConfig) -> Iterator[tuple[str, str]]:
    """Name and text of what there is to know before a checkpoint moves anything."""
    shape, spec, norm = policy.config, policy.spec, policy.normaliser
    numel = sum(p.numel() for p in policy.model.parameters())
    yield "family", f"{family}, checkpoint '{spec.name}'"
    yield "parameters", f"{numel / 1e9:.2f} G of this package's model; parts that nothing reads are left out"
    for text in embodiment.cameras:
        camera, _, slot = text.partition("=")
        yield "camera", f"{camera} -> slot {slot}, {shape.image_size} x {shape.image_size} px, fit {shape.fit}"
    if embodiment.other:
        state, action = norm.widths
        yield "another arm", f"state of {state}, actions of {action} numbers, as its data have them; for serving only"
        return
    yield "state", _ranges(norm.state_mean, norm.state_std) if norm.widths[0] else "none"
    opened, closed = embodiment.gripper
    ends = f"gripper {opened:g} open, {closed:g} closed"
    kind = MEANING[embodiment.actions]
    yield "actions", f"{shape.horizon} x {spec.period_s:g} s, {kind}, {ends}"
    yield "", _ranges(norm.action_mean[0], norm.action_std[0])
    for group in sorted({s.group for s in policy.sites}):
        mine = [s for s in policy.sites if s.group == group]
        probe = "" if mine[0].hidden is not None else ", cannot be probed: refresh dense"
        yield "site", f"{group}: {len(mine)} layers x {mine[0].channels}, kept in steps of {mine[0].step}{probe}"
    if policy.tokens is not None:
        gone = len(shape.cameras) * shape.tokens - policy.tokens.keep
        yield "FastV", f"{gone} of {gone + policy.tokens.keep} vision tokens leave after layer {policy.tokens.layer}"
    if policy.reuse is not None:
        counts = policy.reuse.counts
        least, most, all_tokens = counts.counts[0], counts.counts[-1], len(shape.cameras) * shape.tokens
        never = f"{counts.excluded} never, by the attention of layer {counts.layer + 1}"
        yield "VLA-Cache", f"layers reuse {least} to {most} of {all_tokens} vision tokens if they stand still; {never}"
    numbers_kept = sum(cache.keys.numel() + cache.values.numel() for cache in policy.caches)
    for kind, size in (("bfloat16", 2), ("float32", 4)):
        gib, mib = size * numel / 2**30, size * numbers_kept / 2**20
        yield "memory", f"{kind}: weights {gib:.1f} GiB, K and V that are kept {mib:.0f} MiB"


def _ranges(mean: tuple[float, ...], std: tuple[float, ...]) -> str:
    """What -1 and 1 stand for, per dimension."""
    return "normalised -1..1 is " + ", ".join(f"{m - s:.2f}..{m + s:.2f}" for m, s in zip(mean, std))
