"""What the commands' options have in common."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ecovla_ros import config
from ecovla_ros.errors import ConfigError


def add_common(parser: argparse.ArgumentParser) -> None:
    """Options every command has."""
    parser.add_argument("--config", default="mini_sim.yaml", help="YAML file, or the name of a shipped one")
    parser.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="override a configuration value"
    )
    parser.add_argument("--json", type=Path, help="write rows, settings, machine, versions and commit to this file")


def settings_of(options: argparse.Namespace) -> config.Config:
    """Configuration file plus overrides. Raises ConfigError."""
    path = Path(options.config)
    loaded = config.load(path if path.is_file() else config.shipped(options.config))
    return config.override_texts(loaded, options.set)


def numbers(text: str) -> list[float]:
    """Comma-separated numbers. Raises ConfigError."""
    try:
        return [float(part) for part in text.split(",") if part]
    except ValueError as error:
        raise ConfigError(f"'{text}' is not a list of numbers such as 0.25,0.4") from error


def plain(options: argparse.Namespace) -> dict[str, Any]:
    """The command line as plain values."""
    return {k: str(v) if isinstance(v, Path) else v for k, v in vars(options).items() if k != "run"}


def add_ros(parser: argparse.ArgumentParser) -> None:
    """Remappings and namespace as ROS 2 programs take them."""
    parser.add_argument(
        "--ros-args", nargs=argparse.REMAINDER, default=[], metavar="-r OLD:=NEW",
        help="last: arguments of ROS 2, e.g. -r __ns:=/left -r third_person/image:=/camera/color/image_raw",
    )  # fmt: skip


def of_ros(options: argparse.Namespace) -> list[str]:
    """These arguments, for `rclpy.init`."""
    return ["--ros-args", *options.ros_args] if options.ros_args else []
