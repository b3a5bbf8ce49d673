"""Launch files and what they start: every program, argument, topic, parameter and file they name exists.

The names are read from the text everywhere; where launch_ros is installed, every description is made and visited. The
world of Gazebo has a test of its own, test/sim/test_gazebo.py.
"""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from ecovla_ros import config
from ecovla_ros.control import limits
from ecovla_ros.errors import ConfigError
from ecovla_ros.nodes.ros import joint_names
from ecovla_ros.types import CAMERAS, GRIPPER_JOINT, JOINTS

ROOT = Path(__file__).resolve().parents[1]
LAUNCHES = sorted(ROOT.glob("launch/*.launch.py"))
SHARED = (ROOT / "ecovla_ros/nodes/ros/launching.py").read_text(encoding="utf-8")
NODES = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "ecovla_ros/nodes").rglob("*.py"))
OURS = ("sim", "gen3", "gazebo", "replay")
OTHERS = {
    "ros_gz_bridge": "parameter_bridge", "ros_gz_sim": "create", "controller_manager": "spawner",
}  # fmt: skip
"""Programs of other packages that may be started."""


def test_there_is_a_launch_file_for_each_way_to_run() -> None:
    assert {path.name for path in LAUNCHES} == {f"ecovla_{name}.launch.py" for name in OURS}


@pytest.mark.parametrize("path", LAUNCHES, ids=lambda path: path.name)
def test_a_launch_file_names_only_what_exists(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    ast.parse(text)
    common = SHARED if "launching.COMMON" in text else ""
    started = set(re.findall(r'(?:launching\.node\(\s*|executable=)"(\w+)"', text)) - set(OTHERS.values())
    started |= {"policy", "guard"}
    assert started <= {p.name for p in (ROOT / "scripts").iterdir()}
    for package, program in re.findall(r'package="(\w+)",\s*executable="(\w+)"', text):
        assert OTHERS[package] == program
    declared = set(re.findall(r'^    \("(\w+)", ', text, re.M)) | set(re.findall(r'^    \("(\w+)", ', common, re.M))
    used = set(re.findall(r'LaunchConfiguration\("(\w+)"\)', text + common)) | {"config"}
    used |= {"log_level", "enclaves"} if "launching.ros_arguments" in text else set()
    used |= {"discovery"} if "launching.network()," in text else set()
    used |= {"prefix"} if "launching_joints.named()," in text else set()
    used |= {"kortex_python", "kortex_password_file"} if "KORTEX_NODE" in text else set()
    handed_on = (
        set(re.findall(r"^KORTEX = \((.*)\)$", text, re.M)[0].replace('"', "").replace(",", "").split())
        if ("KORTEX = (" in text)
        else set()
    )
    serials = {f"{camera}_serial" for camera in CAMERAS} if "_serial" in text else set()
    assert used | handed_on | serials | ({"driver"} if "driver" in declared else set()) == declared
    for name in re.findall(r'"config", "((?:\w+", ")?\w+\.(?:yaml|xml|sdf))"', text + SHARED):
        assert config.shipped(name.replace('", "', "/")).is_file()
    for name in re.findall(r'shipped\("([^"]+)"\)', text):
        assert config.shipped(name).is_file()


def test_nothing_is_open_to_the_network_unless_a_real_arm_may_be_there() -> None:
    """And what says so stands before the first node of each launch."""
    chosen = {}
    for path in LAUNCHES:
        text = path.read_text(encoding="utf-8")
        chosen[path.name] = re.findall(r'^    \("discovery", "(\w+)", ', text, re.M)
        body = text[text.index("return LaunchDescription") :]
        starts = [body.index(word) for word in ("launching.transport()", "guard", "FASTDDS") if word in body]
        assert body.index("launching.network(),") < min(starts)
    local, open_ = ["localhost"], ["subnet"]
    assert chosen == {f"ecovla_{name}.launch.py": open_ if name == "gen3" else local for name in OURS}


def test_the_launch_files_offer_every_way_to_command_the_gripper() -> None:
    kinds = re.findall(r"^(?:KINDS|GRIPPERS) = (\(.*\))$", NODES, re.M)
    assert len(kinds) == 2 and kinds[0] == kinds[1]


def test_every_remapped_topic_is_one_of_our_nodes() -> None:
    cameras = {f"{camera}/image" for camera in CAMERAS}
    found = set()
    for text in (*(path.read_text(encoding="utf-8") for path in LAUNCHES), SHARED):
        found |= set(re.findall(r'\("(\w+(?:/\w+)?)", (?:"/|root|f"\{root)', text))
    assert found >= {"joint_trajectory", "gripper_trajectory", "gripper_cmd", "joint_states"}
    assert all(name in cameras or f'"{name}"' in NODES for name in found), found


@pytest.mark.parametrize("path", LAUNCHES, ids=lambda path: path.name)
def test_a_launch_file_can_be_described_and_visited(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launch = pytest.importorskip("launch")
    pytest.importorskip("launch_ros")
    substitutions = importlib.import_module("launch_ros.substitutions.find_package")
    monkeypatch.setattr(substitutions, "get_package_share_directory", lambda name: f"/share/{name}", raising=False)
    spec = importlib.util.spec_from_file_location(path.stem.replace(".", "_"), path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    description = module.generate_launch_description()
    arguments = description.get_launch_arguments()
    assert arguments and all(argument.description.strip() for argument in arguments)
    assert all(argument.choices for argument in arguments if argument.default_value[0].text in ("true", "false"))
    context = launch.LaunchContext()
    for argument in arguments:
        argument.visit(context)
    for entity in description.entities:
        for part in getattr(entity, "launch_arguments", ()):  # what is handed on can be resolved
            for value in part:
                resolve(context, value)


@pytest.mark.parametrize(("enclaves", "taken"), [("true", ""), ("false", "/launch")])
def test_with_enclaves_of_their_own_the_nodes_do_not_take_that_of_the_launch(
    enclaves: str, taken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    launch = pytest.importorskip("launch")
    pytest.importorskip("launch_ros")
    launching = importlib.import_module("ecovla_ros.nodes.ros.launching")
    monkeypatch.setenv("ROS_SECURITY_ENCLAVE_OVERRIDE", "/launch")
    context = launch.LaunchContext()
    context.launch_configurations["enclaves"] = enclaves
    assert launching.followed()["ROS_SECURITY_ENCLAVE_OVERRIDE"].perform(context) == taken


def resolve(context: Any, value: Any) -> None:
    for part in value if isinstance(value, (list, tuple)) else [value]:
        if not isinstance(part, str):
            part.perform(context)


@pytest.mark.parametrize("path", sorted(ROOT.glob("config/*.yaml")), ids=lambda path: path.name)
def test_every_shipped_configuration_loads(path: Path) -> None:
    if path.name == "gen3_limits.yaml":
        limits.load("normal", path)
    elif path.name != "gen3_controllers_streaming.yaml":
        config.load(path)


def test_the_streaming_controllers_are_those_of_the_arm() -> None:
    data = yaml.safe_load(config.shipped("gen3_controllers_streaming.yaml").read_text(encoding="utf-8"))
    controller = data["joint_trajectory_controller"]["ros__parameters"]
    assert controller["joints"] == list(JOINTS) and controller["interpolate_from_desired_state"] is True
    assert controller["command_interfaces"] == ["position"] and not controller["allow_partial_joints_goal"]
    assert data["robotiq_gripper_controller"]["ros__parameters"]["joint"] == GRIPPER_JOINT
    known = {"joints", "command_interfaces", "state_interfaces", "action_monitor_rate", "allow_partial_joints_goal",
             "interpolate_from_desired_state", "allow_nonzero_velocity_at_trajectory_end", "constraints"}  # fmt: skip
    assert set(controller) <= known, "in every release from Jazzy on, by its parameter file"
    stops, limit = controller["constraints"], limits.load("normal").acceleration.tolist()
    assert stops["decelerate_on_cancel"] is True
    assert [stops[name]["max_deceleration_on_cancel"] for name in JOINTS] == limit
    assert set(stops) == {"stopped_velocity_tolerance", "goal_time", "decelerate_on_cancel", *JOINTS}
    assert set(data) - {"controller_manager"} <= set(data["controller_manager"]["ros__parameters"])


def test_every_launch_settles_the_names_of_the_joints_before_its_nodes() -> None:
    for path in LAUNCHES:
        text = path.read_text(encoding="utf-8")
        body = text[text.index("return LaunchDescription") :]
        places = [
            body.index(word) for word in ("declared(ARGUMENTS)", "launching_joints.named()", "launching.network()")
        ]
        assert places == sorted(places), path.name


@pytest.mark.parametrize("overrides", ["['']", "[]", "['arm.joint_prefix=other_', 'control.profile=gentle']"])
def test_a_prefix_is_one_key_for_nodes_and_controllers(overrides: str) -> None:
    told = joint_names.keys(overrides, "left_")
    prefix, joints = joint_names.arm("gen3.yaml", told)
    assert prefix == "left_" and joints.arm == tuple(f"left_{name}" for name in JOINTS)
    text = config.shipped("gen3_controllers_streaming.yaml").read_text(encoding="utf-8")
    data = yaml.safe_load(joint_names.controllers(text, joints))
    controller = data["joint_trajectory_controller"]["ros__parameters"]
    assert controller["joints"] == list(joints.arm) and set(joints.arm) <= set(controller["constraints"])
    assert data["robotiq_gripper_controller"]["ros__parameters"]["joint"] == joints.gripper == f"left_{GRIPPER_JOINT}"


def test_without_a_prefix_the_configuration_names_the_joints_and_the_file_is_as_shipped() -> None:
    assert joint_names.keys("['']", "") == [""]
    assert joint_names.arm("gen3.yaml", ["arm.joint_prefix=right_"])[0] == "right_"
    prefix, joints = joint_names.arm("gen3.yaml", [""])
    text = config.shipped("gen3_controllers_streaming.yaml").read_text(encoding="utf-8")
    assert not prefix and joint_names.controllers(text, joints) == text
    _, bare = joint_names.arm("gen3.yaml", ["arm.gripper_joint=none"])
    assert not bare.gripper and joint_names.controllers(text, bare) == text


@pytest.mark.parametrize("overrides", ["prune.ratio=0.4", "[1, 2]", "{a: b}", "['a", ""])
def test_overrides_that_are_no_list_of_texts_are_refused(overrides: str) -> None:
    with pytest.raises(ConfigError, match="(?s)overrides.*valid"):
        joint_names.keys(overrides, "")
