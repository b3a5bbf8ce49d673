"""What a node is told by parameters: a configuration file, keys over it, and single parameters `section.key`.

What holds in the end is shown under these names, so that `ros2 param dump` is the whole truth. A node reads it once: a
change at run time is refused with the reason, instead of being answered with "successful" and having no effect.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rcl_interfaces.msg import ParameterDescriptor, SetParametersResult
from rclpy.exceptions import InvalidParameterTypeException
from rclpy.parameter import Parameter

from ecovla_ros import config
from ecovla_ros.config import Config
from ecovla_ros.control import limits
from ecovla_ros.control.limits import Limits
from ecovla_ros.errors import ConfigError
from ecovla_ros.types import ArmJoints

DEFAULT_FILE = "mini_sim.yaml"
FILE = (
    ("config", DEFAULT_FILE, "YAML file: a path, or the name of a shipped one"),
    ("overrides", [""], "keys over the file, each section.key=value, e.g. prune.ratio=0.4"),
)


LIMITS = (
    ("lower", "lowest position, rad"), ("upper", "highest position, rad"), ("velocity", "largest speed, rad/s"),
    ("acceleration", "largest acceleration, rad/s^2"), ("jerk", "largest jerk, rad/s^3"),
)  # fmt: skip


class Settings:
    """The parameters `config` and `overrides` of a node, and one for each key of the sections that it reads."""

    def __init__(self, node: Any, *sections: str, more: Sequence[tuple[str, Any, str]] = (),
                 idle: Callable[[], bool] | None = None) -> None:  # fmt: skip
        """Declare them. `more`: name, default and description of parameters that are the node's alone.

        `idle`: whether the file is not read yet and may still be changed; None: it is read when the node starts.
        """
        self._node, self._sections, self._idle = node, sections, idle
        self._files = (*FILE, *more)
        self._given: dict[str, Any] = {}
        self._shown: set[str] = set()
        self._showing = False
        for name, default, text in self._files:
            node.declare_parameter(name, default, ParameterDescriptor(description=text, read_only=idle is None))
        node.add_on_set_parameters_callback(self._judge)

    def __getitem__(self, name: str) -> Any:
        """Value of a parameter."""
        return self._node.get_parameter(name).value

    def read(self) -> Config:
        """The configuration that holds: file, keys over it, parameters over both. Raises ConfigError."""
        texts = [text for text in self["overrides"] if text.strip()]
        loaded = config.override(load(str(self["config"]), texts), **self._given)
        for section in self._sections:
            values = getattr(loaded, section)
            told = {f.name: (getattr(values, f.name), described(f.metadata)) for f in dataclasses.fields(values)}
            given = self.show(section, told)
            self._given |= given
            loaded = config.override(loaded, **given)
        return loaded

    def show(self, section: str, values: Mapping[str, tuple[Any, str]]) -> dict[str, Any]:
        """Declare `section.key` for each value and description; returns those that the node was given as parameters.

        A section within the section, and an empty list, which has no type, are left out. Raises ConfigError.
        """
        given: dict[str, Any] = {}
        self._showing = True
        for key, (value, text) in values.items():
            name, plain = f"{section}.{key}", list(value) if isinstance(value, tuple) else value
            if dataclasses.is_dataclass(value) or plain == []:
                continue
            if name in self._shown:
                self._node.set_parameters([Parameter(name, value=plain)])
                continue
            self._shown.add(name)
            about = ParameterDescriptor(description=text, read_only=self._idle is None)
            try:
                found = self._node.declare_parameter(name, plain, about).value
            except InvalidParameterTypeException as error:
                raise ConfigError(f"parameter {name}: {error}; valid: {text}") from error
            if found != plain and section not in self._sections:
                raise ConfigError(f"parameter {name} only shows what holds, here {plain}; valid: leave it out")
            if found != plain:
                given[name] = tuple(found) if isinstance(plain, list) else found
        self._showing = False
        return given

    def limits(self) -> Limits:
        """The limits of the profile, shown as `limits.*`. Raises ConfigError."""
        within = limits.load(self._node.get_parameter("control.profile").value)
        told: dict[str, tuple[Any, str]] = {
            name: (tuple(getattr(within, name).tolist()), f"{text}, joint_1 .. joint_7") for name, text in LIMITS
        }
        told["tool_speed"] = (within.tool_speed, "largest speed of the tool point, m/s")
        self.show("limits", told)
        return within

    def _judge(self, parameters: Sequence[Parameter]) -> SetParametersResult:
        """Refuse what would have no effect."""
        files = {name for name, _, _ in self._files}
        for parameter in parameters:
            if self._showing or (parameter.name in files and self._idle is not None and self._idle()):
                continue
            if parameter.name in files:
                how = "clean up first, it is read by configure" if self._idle else "start the node anew with it"
                return _refused(f"{parameter.name} is read and in use; valid: {how}")
            if parameter.name in self._shown or parameter.name == "use_sim_time":
                return _refused(
                    f"{parameter.name} cannot change while the node runs; valid: start the node anew with it"
                )
        return SetParametersResult(successful=True)


def joints(told: Settings, loaded: Config) -> ArmJoints:
    """Names of arm and gripper: those of the configuration, without a gripper where the parameter `gripper` is none."""
    found = loaded.arm.joints
    return dataclasses.replace(found, gripper="") if told["gripper"] == config.NO_GRIPPER else found


def _refused(why: str) -> SetParametersResult:
    return SetParametersResult(successful=False, reason=why)


def described(metadata: Mapping[str, Any]) -> str:
    """What a key of the configuration is, and its valid values."""
    text = str(metadata.get("doc", ""))
    if "choices" in metadata:
        text += "; one of " + ", ".join(metadata["choices"])
    elif "range" in metadata:
        text += "; {} to {}".format(*metadata["range"])
    return text


def load(name: str, overrides: Sequence[str]) -> Config:
    """File by path or shipped name, with `section.key=value` texts over it. Raises ConfigError."""
    return config.override_texts(config.load(name if Path(name).is_file() else config.shipped(name)), overrides)
