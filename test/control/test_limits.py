"""Limits: the shipped numbers, and that a file with anything unclear in it is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from ecovla_ros.config import PROFILES, shipped
from ecovla_ros.control.kinematics import POSITION_LIMIT
from ecovla_ros.control.limits import FILE, load
from ecovla_ros.errors import ConfigError
from ecovla_ros.types import CONTINUOUS


@pytest.fixture
def data() -> dict[str, Any]:
    return yaml.safe_load(shipped(FILE).read_text(encoding="utf-8"))


def refused(data: Any, folder: Path, match: str, profile: str = "normal") -> None:
    path = folder / "limits.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    with pytest.raises(ConfigError, match=match):
        load(profile, path)


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_of_the_configuration_is_shipped(profile: str) -> None:
    limits = load(profile)
    assert limits.profile == profile
    assert np.array_equal(np.isinf(limits.upper), CONTINUOUS) and np.array_equal(limits.lower, -limits.upper)
    assert np.array_equal(limits.upper, POSITION_LIMIT)  # the simulator's arm is this arm
    assert (limits.velocity <= 0.873).all() and (limits.acceleration <= 8.6).all()


def test_profiles_are_ordered_from_gentle_to_fast() -> None:
    gentle, normal, fast = (load(profile) for profile in PROFILES)
    for name in ("velocity", "acceleration", "tool_speed"):
        assert np.all(getattr(gentle, name) < getattr(normal, name))
        assert np.all(getattr(normal, name) < getattr(fast, name))


def test_ramp_grows_from_its_start_to_one() -> None:
    limits = load("normal")
    shares = [limits.ramp(t) for t in (-1.0, 0.0, limits.ramp_s / 2, limits.ramp_s, 100.0)]
    assert shares == pytest.approx([0.1, 0.1, 0.55, 1.0, 1.0])


def test_limits_cannot_be_written() -> None:
    with pytest.raises(ValueError, match="read-only"):
        load("normal").velocity[0] = 9.0


def test_an_unknown_profile_names_the_near_one() -> None:
    with pytest.raises(ConfigError, match="unknown profile 'norml'.*Did you mean 'normal'"):
        load("norml")


def test_unknown_and_missing_names_are_refused(data: dict[str, Any], tmp_path: Path) -> None:
    data["joints"]["joint_8"] = data["joints"].pop("joint_7")
    refused(data, tmp_path, "unknown key 'joint_8'")
    del data["joints"]["joint_8"]
    refused(data, tmp_path, "joint_7 missing")


def test_a_misspelt_quantity_is_refused(data: dict[str, Any], tmp_path: Path) -> None:
    data["profiles"]["normal"]["velocty"] = data["profiles"]["normal"].pop("velocity")
    refused(data, tmp_path, "velocty.*Did you mean 'velocity'")


@pytest.mark.parametrize("value", [0.0, -0.6, float("nan"), float("inf"), "fast", True, None])
def test_a_number_that_is_not_positive_and_finite_is_refused(data: dict[str, Any], tmp_path: Path, value: Any) -> None:
    data["profiles"]["normal"]["velocity"][3] = value
    refused(data, tmp_path, "normal: velocity: joint_4")


def test_a_profile_cannot_ask_for_more_than_the_arm(data: dict[str, Any], tmp_path: Path) -> None:
    data["profiles"]["normal"]["velocity"][0] = 60.0
    refused(data, tmp_path, "joint_1: 60.0 is more than the arm's own limit 1.396")


def test_six_numbers_are_not_seven(data: dict[str, Any], tmp_path: Path) -> None:
    data["profiles"]["fast"]["acceleration"].pop()
    refused(data, tmp_path, "list of 7 numbers", profile="fast")


def test_swapped_position_limits_and_a_bounded_joint_called_continuous_are_refused(
    data: dict[str, Any], tmp_path: Path
) -> None:
    joint = data["joints"]["joint_2"]
    joint["lower"], joint["upper"] = joint["upper"], joint["lower"]
    refused(data, tmp_path, "joint_2: lower 2.24 must be below")
    data["joints"]["joint_2"] = {"continuous": True, "velocity": 1.0, "acceleration": 1.0}
    refused(data, tmp_path, "joint_2: unknown key 'continuous'")


def test_a_file_that_is_missing_or_not_yaml_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read limits"):
        load("normal", tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("joints: [", encoding="utf-8")
    with pytest.raises(ConfigError, match="not YAML"):
        load("normal", tmp_path / "bad.yaml")
    (tmp_path / "list.yaml").write_text("- 1", encoding="utf-8")
    with pytest.raises(ConfigError, match="expected a mapping of joints, profiles"):
        load("normal", tmp_path / "list.yaml")
