"""`ecovla calibrate` measures on recorded frames which channels a policy uses: a calibration to start from."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ecovla_ros import config
from ecovla_ros.cli.options import add_settings, settings_of
from ecovla_ros.errors import ConfigError


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_settings(parser)
    parser.add_argument("source", type=Path, help="a rosbag2 folder, an .mcap or .db3 file, or a LeRobot data set")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="the calibration, for prune.calibration"
    )
    parser.add_argument(
        "--map", action="append", default=[], metavar="INPUT=TOPIC", help="read an input from this topic of the bag"
    )
    parser.add_argument("--instruction", default="", help="the task in words, in place of the one in the bag")
    parser.add_argument(
        "--camera", action="append", default=[], metavar="CAMERA=KEY", help="which pictures of a data set a camera has"
    )
    parser.add_argument(
        "--rate", type=float, default=2.0, help="frames a second that are taken, 0: all (default: %(default)s)"
    )


def run(options: argparse.Namespace) -> int:
    """`ecovla calibrate`. Exit code 2: the bag is damaged; the file says so, and holds what could be read."""
    from ecovla_ros import build
    from ecovla_ros.bags import calibrate
    from ecovla_ros.bench import document
    from ecovla_ros.models.data import calibration_file

    if not 0.0 <= options.rate <= 1000.0:
        raise ConfigError(f"--rate {options.rate}; valid: frames a second from 0 (all) to 1000")
    settings = settings_of(options)
    if settings.policy.model in build.SHAPES and not settings.policy.checkpoint:
        raise ConfigError(
            f"model '{settings.policy.model}' needs policy.checkpoint: random weights need no calibration"
        )
    policy, taken = build.policy(settings.policy), calibrate.Taken()
    found = calibrate.energies(
        policy, _frames(options, settings, policy, taken), taken, settings.policy.seed, options.source
    )
    about = {
        "source": str(options.source), "rate_hz": options.rate, "frames": taken.frames, "held": taken.held,
        "instructions": taken.instructions, "damage": taken.damage, "model": settings.policy.model,
        "checkpoint": settings.policy.checkpoint, "policy": policy.spec.name, "versions": document.versions(),
        "commit": document.commit(),
    }  # fmt: skip
    calibration_file.save(options.out, found, policy.sites, about)
    _show(options.out, taken)
    return 2 if taken.damage else 0


def _frames(options: argparse.Namespace, settings: config.Config, policy: Any, taken: Any) -> Iterator[Any]:
    if (options.source / "meta" / "info.json").is_file():
        return _lerobot(options, settings, policy)
    from ecovla_ros.bags import calibrate, inputs

    if options.camera:
        raise ConfigError("--camera names pictures of a LeRobot data set; for a bag: --map CAMERA=TOPIC")
    topics = inputs.mapping(options.map, tuple(policy.spec.cameras))
    return calibrate.frames(settings, policy.spec, options.source, topics, options.instruction, options.rate, taken)


def _lerobot(options: argparse.Namespace, settings: config.Config, policy: Any) -> Iterator[Any]:
    """Observations of all episodes. Raises ConfigError where the instruction is not one of the policy's."""
    from dataclasses import replace

    from ecovla_ros.errors import unknown
    from ecovla_ros.models.data.normalise import ends_of
    from ecovla_ros.train import lerobot

    if options.map:
        raise ConfigError("--map names topics of a bag; for a LeRobot data set: --camera CAMERA=KEY")
    ends = ends_of("gripper", settings.policy.embodiment.gripper)
    every = 1.0 / options.rate if options.rate else 0.0
    how = lerobot.Reading(lerobot.cameras(options.camera), settings.arm.joints, ends, every)
    for episode in lerobot.read(options.source, how):
        for seen in episode.observations:
            words = options.instruction or seen.instruction
            if policy.spec.instructions and words not in policy.spec.instructions:
                raise ConfigError(unknown("instruction", words, policy.spec.instructions))
            yield replace(seen, instruction=words)


def _show(out: Path, taken: Any) -> None:
    for words, count in taken.instructions.items():
        print(f"{count} frames: {words}")
    for why, count in taken.held.items():
        print(f"passed over, {count} times: {why}")
    print(f"{out}: calibration of {taken.frames} frames; start from it with --set prune.calibration={out}")
    if taken.damage:
        print(f"ecovla: {taken.damage}; the calibration is of what came before", file=sys.stderr)
