"""Launch files: every program, argument and file they name exists. Visited for real where launch_ros is installed."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path

import pytest

from ecovla_ros import config

ROOT = Path(__file__).resolve().parents[1]
LAUNCHES = sorted(ROOT.glob("launch/*.launch.py"))


@pytest.mark.parametrize("path", LAUNCHES, ids=lambda path: path.name)
def test_a_launch_file_names_only_what_the_package_has(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    ast.parse(text)
    programs = re.findall(r'executable="(\w+)"', text)
    assert programs and all((ROOT / "scripts" / name).is_file() for name in programs)
    declared = set(re.findall(r'^    \("(\w+)", ', text, re.M))
    assert set(re.findall(r'LaunchConfiguration\("(\w+)"\)', text)) == declared
    for name in re.findall(r'"(\w+\.(?:yaml|xml))"', text):
        assert config.shipped(name).is_file()


@pytest.mark.parametrize("path", LAUNCHES, ids=lambda path: path.name)
def test_a_launch_file_can_be_described_and_visited(path: Path) -> None:
    launch = pytest.importorskip("launch")
    pytest.importorskip("launch_ros")
    spec = importlib.util.spec_from_file_location(path.stem.replace(".", "_"), path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    description = module.generate_launch_description()
    arguments = description.get_launch_arguments()
    assert arguments and all(argument.description.strip() for argument in arguments)
    context = launch.LaunchContext()
    for argument in arguments:
        argument.visit(context)


@pytest.mark.parametrize("path", sorted(ROOT.glob("config/*.yaml")), ids=lambda path: path.name)
def test_every_shipped_configuration_loads(path: Path) -> None:
    if path.name == "gen3_limits.yaml":
        from ecovla_ros.control import limits

        limits.load("normal", path)
    else:
        config.load(path)
