"""What the commands' options have in common."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path
from typing import Any

from ecovla_ros import config
from ecovla_ros.errors import ConfigError


def add_common(parser: argparse.ArgumentParser) -> None:
    """`--config`, `--set` and `--json`, for the commands that run a policy."""
    add_settings(parser)
    add_json(parser)


def add_settings(parser: argparse.ArgumentParser) -> None:
    """`--config` and `--set`."""
    parser.add_argument(
        "--config", default="mini_sim.yaml", metavar="FILE",
        help="configuration: a YAML file, or the name of one that ships in config/ (default: mini_sim.yaml)",
    )  # fmt: skip
    parser.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE",
        help="replace one value of the configuration; may be given several times",
    )  # fmt: skip


def add_json(parser: argparse.ArgumentParser) -> None:
    """`--json`."""
    parser.add_argument(
        "--json", type=Path, metavar="FILE",
        help="write the results to this file, with the settings, the machine, the versions and the commit",
    )  # fmt: skip


def module_with_ros(name: str, what: str) -> Any:
    """The module `name`, which needs ROS 2. Raises ConfigError that says `what` needs it, where rclpy is missing."""
    importlib.import_module("ecovla_ros.nodes")  # before rclpy: it loads what mends the middleware's reader
    try:
        importlib.import_module("rclpy")
    except ImportError as error:
        raise ConfigError(f"{what} needs ROS 2, and rclpy does not import ({error}); run: make setup") from error
    return importlib.import_module(name)


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
    return {name: _plain(value) for name, value in vars(options).items() if name != "run"}


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value


def add_ros(parser: argparse.ArgumentParser) -> None:
    """Remappings and namespace as ROS 2 programs take them."""
    parser.add_argument(
        "--ros-args", nargs=argparse.REMAINDER, default=[], metavar="-r OLD:=NEW",
        help="arguments of ROS 2; must come last, e.g. -r __ns:=/left -r third_person/image:=/camera/color/image_raw",
    )  # fmt: skip


def of_ros(options: argparse.Namespace) -> list[str]:
    """These arguments, for `rclpy.init`."""
    return ["--ros-args", *options.ros_args] if options.ros_args else []
