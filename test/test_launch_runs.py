"""Our launch files in the real launch system, beside packages with the arguments of the real ones.

Skipped where launch is not installed. The stand-ins declare what `ARGUMENTS` says; where the real package is installed,
its own list is compared with that.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

pytest.importorskip("launch")
pytest.importorskip("launch_ros")
pytest.importorskip("rclpy")
pytest.importorskip("ecovla_ros.msg")

from support.launched import LATE_PROGRAM, PROGRAM, Launched, Prefix, gone

ARGUMENTS = {
    "gen3.launch.py": {
        "robot_type": "gen3", "robot_ip": None, "dof": "7", "use_fake_hardware": "false",
        "fake_sensor_commands": "false", "robot_controller": "joint_trajectory_controller",
        "controllers_file": "ros2_controllers.yaml", "gripper": "",
        "gripper_joint_name": "robotiq_85_left_knuckle_joint",
        "use_internal_bus_gripper_comm": "true", "gripper_max_velocity": "100.0", "gripper_max_force": "100.0",
        "launch_rviz": "true",
    },
    "kortex_sim_control.launch.py": {
        "sim_gazebo": "true", "robot_type": "gen3", "dof": "7", "vision": "false",
        "controllers_file": "ros2_controllers.yaml", "description_package": "kortex_description",
        "description_file": "kinova.urdf.xacro", "robot_name": "gen3", "prefix": '""',
        "robot_controller": "joint_trajectory_controller", "robot_pos_controller": "twist_controller",
        "robot_hand_controller": "robotiq_gripper_controller",
        "robot_lite_hand_controller": "gen3_lite_2f_gripper_controller", "use_sim_time": "true", "gripper": "",
        "launch_rviz": "true",
    },
}  # fmt: skip
"""Arguments of kortex_bringup's launch files and their defaults, of main, jazzy and humble in 2026."""
KORTEX = """
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, RegisterEventHandler
from launch.conditions import IfCondition
from launch.event_handlers import OnProcessExit
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare

ARGUMENTS = {arguments!r}

def generate_launch_description():
    declared = [DeclareLaunchArgument(name, default_value=value) for name, value in ARGUMENTS.items()]
    if "description_package" not in ARGUMENTS:  # declared one file further in by the real one
        declared.append(DeclareLaunchArgument("description_package", default_value="kortex_description"))
    if "prefix" not in ARGUMENTS:  # and so is this
        declared.append(DeclareLaunchArgument("prefix", default_value='""'))
    shown = [*ARGUMENTS] + [name for name in ("prefix",) if name not in ARGUMENTS]
    told = [part for name in shown for part in (name + "=", LaunchConfiguration(name), " ")]
    manager = Node(package="controller_manager", executable="ros2_control_node", output="screen", arguments=[told])
    spawner = Node(package="controller_manager", executable="spawner", output="screen")
    file = PathJoinSubstitution([FindPackageShare(LaunchConfiguration("description_package")), "rviz", "view.rviz"])
    rviz = Node(
        package="rviz2", executable="rviz2", output="screen", arguments=["-d", file],
        condition=IfCondition(LaunchConfiguration("launch_rviz")),
    )
    return LaunchDescription(
        [*declared, manager, spawner, RegisterEventHandler(OnProcessExit(target_action=spawner, on_exit=[rviz]))]
    )
"""
"""Starts what the real ones start, and RViz late, when the scope of the include is over."""


@pytest.fixture
def prefix(tmp_path: Path) -> Iterator[Prefix]:
    made = Prefix(tmp_path)
    files = {name: KORTEX.replace("{arguments!r}", repr(arguments)) for name, arguments in ARGUMENTS.items()}
    made.package("kortex_bringup", files)
    made.package("kortex_description")
    made.package("controller_manager", ros2_control_node=PROGRAM, spawner=LATE_PROGRAM)
    made.package("rviz2", rviz2=PROGRAM)
    made.package("ros_gz_bridge", parameter_bridge=PROGRAM)
    made.package("ros_gz_sim", create=PROGRAM)
    yield made


@pytest.mark.parametrize("file", ARGUMENTS)
def test_the_stand_in_declares_what_the_real_package_declares(file: str) -> None:
    packages = pytest.importorskip("ament_index_python.packages")
    try:
        share = packages.get_package_share_directory("kortex_bringup")
    except packages.PackageNotFoundError:
        pytest.skip("kortex_bringup is not installed")
    text = (Path(share) / "launch" / file).read_text(encoding="utf-8")
    declared = re.findall(r'DeclareLaunchArgument\(\s*"(\w+)"', text)
    assert sorted(declared) == sorted(ARGUMENTS[file])


@pytest.mark.parametrize("file, kortex", [("gen3", "gen3"), ("gazebo", "kortex_sim_control")])
def test_with_kortex_installed_our_nodes_get_our_arguments_and_kortex_its_own(
    file: str, kortex: str, prefix: Prefix
) -> None:
    told: tuple[str, ...] = ("config:=gen3.yaml", "autostart:=false", "launch_rviz:=true", "use_sim_time:=false")
    told += ("arm:=kortex",) * (file == "gazebo")
    with Launched(prefix, f"ecovla_{file}.launch.py", *told) as launched:
        launched.says("disarmed; profile gentle")
        launched.says("rviz2 was told: -d")
        assert f"{prefix.path}/share/kortex_description/rviz/view.rviz" in launched.text
        kortex_line = next(line for line in launched.lines if "ros2_control_node was told" in line)
        for expected in (
            "gripper=robotiq_2f_85", "robot_controller=joint_trajectory_controller", "dof=7", "launch_rviz=true",
            f"controllers_file={prefix.path}/share/ecovla_ros/config/gen3_controllers_streaming.yaml",
        ):  # fmt: skip
            assert expected in kortex_line
        launched.process.send_signal(signal.SIGINT)
        assert launched.ends() == 0, launched.text
    assert "unknown kind" not in launched.text and "Caught exception" not in launched.text


@pytest.mark.parametrize("file, bringup", [("gen3", "gen3"), ("gazebo", "kortex_sim_control")])
def test_a_prefix_reaches_kortex_its_controllers_and_our_nodes(file: str, bringup: str, prefix: Prefix) -> None:
    told: tuple[str, ...] = ("config:=gen3.yaml", "autostart:=false", "use_sim_time:=false", "prefix:=left_")
    told += ("arm:=kortex",) if file == "gazebo" else ()
    with Launched(prefix, f"ecovla_{file}.launch.py", *told) as launched:
        launched.says("ros2_control_node was told")
        launched.says("disarmed; profile gentle")
        line = next(line for line in launched.lines if "ros2_control_node was told" in line)
        parts = dict(part.partition("=")[::2] for part in line.split("was told: ")[1].split() if "=" in part)
        assert parts["gripper"] == "robotiq_2f_85"
        if bringup == "gen3":  # its own file does not declare it; what it includes does, and finds it
            assert parts["gripper_joint_name"] == "robotiq_85_left_knuckle_joint", "kortex puts the prefix before it"
        assert parts["prefix"] == "left_"
        controllers = yaml.safe_load(Path(parts["controllers_file"]).read_text(encoding="utf-8"))
        names = [f"left_joint_{k}" for k in range(1, 8)]
        assert controllers["joint_trajectory_controller"]["ros__parameters"]["joints"] == names
        assert all("arm.joint_prefix=left_" in launched.told(name) for name in ("guard", "policy"))


def test_an_arm_without_a_gripper_gets_none_from_kortex(prefix: Prefix) -> None:
    told = ("config:=gen3.yaml", "autostart:=false", "use_sim_time:=false", "gripper:=none")
    with Launched(prefix, "ecovla_gen3.launch.py", *told) as launched:
        launched.says("ros2_control_node was told")
        assert " gripper= " in next(line for line in launched.lines if "ros2_control_node was told" in line)


@pytest.mark.parametrize(
    "file, told, says",
    [
        ("sim", ("overrides:=['sim.state_hz=1000']", "autostart:=false"), "the simulator ticks at"),
        ("sim", ("overrides:=['policy.checkpoint=/no/such/folder']",), "the policy did not configure"),
        ("replay", ("bag:=/no/such/bag",), "/no/such/bag"),
    ],
)
def test_a_launch_ends_with_an_error_when_a_node_cannot_start(
    file: str, told: tuple[str, ...], says: str, prefix: Prefix
) -> None:
    with Launched(prefix, f"ecovla_{file}.launch.py", *told) as launched:
        assert launched.ends() == 1, launched.text
        assert says in launched.text
        started = launched.pids()
    assert len(started) > 1 and all(gone(pid) for pid in started)


@pytest.mark.parametrize(
    "file, told, says",
    [
        ("sim", "config:=no_such.yaml", "no_such.yaml"), ("gen3", "config:=no_such.yaml", "no_such.yaml"),
        ("replay", "overrides:=prune.ratio=0.4", "no list of texts"), ("gazebo", "overrides:=['a.b=1']", "a.b"),
    ],
)  # fmt: skip
def test_a_configuration_that_cannot_be_read_ends_the_launch_before_it_starts_anything(
    file: str, told: str, says: str, prefix: Prefix
) -> None:
    with Launched(prefix, f"ecovla_{file}.launch.py", told) as launched:
        assert launched.ends() == 1, launched.text
        assert says in launched.text and not launched.pids()


def test_nothing_that_was_launched_outlives_a_killed_launch(prefix: Prefix) -> None:
    with Launched(prefix, "ecovla_sim.launch.py", "autostart:=false") as launched:
        launched.says("disarmed; profile")
        launched.says("simulating")
        started = launched.pids()
        assert len(started) == 3
        launched.process.kill()
        launched.until(lambda: all(gone(pid) for pid in started), "the end of all three")
    assert os.path.isdir(prefix.path)


@pytest.fixture
def gz(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for Gazebo's command, and a graph without a screen."""
    (tmp_path / "bin").mkdir()
    for name in ("sh", "sleep", "basename"):  # and nothing else: `ign` may be installed
        (tmp_path / "bin" / name).symlink_to(shutil.which(name) or name)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin")
    monkeypatch.delenv("DISPLAY", raising=False)
    (tmp_path / "bin/gz").write_text(PROGRAM, encoding="utf-8")
    (tmp_path / "bin/gz").chmod(0o755)
    return tmp_path / "bin/gz"


def test_the_built_in_arm_in_gazebo_starts_everything_and_ends_all_of_it(prefix: Prefix, gz: Path) -> None:
    with Launched(
        prefix, "ecovla_gazebo.launch.py", "autostart:=false", "seed:=4", "task:=bottle", "pace:=0.5"
    ) as launched:
        for text in ("gz was told: sim -r -v 2 -s --headless-rendering", "parameter_bridge was told", "disarmed"):
            launched.says(text)
        launched.says("waiting for Gazebo's joint states on /gazebo/joint_states")
        world = next(line for line in launched.lines if "gz was told" in line).split()[-1]
        text = Path(world).read_text(encoding="utf-8")
        assert "seed 4, for Gazebo Harmonic" in text and "<real_time_factor>0.5</real_time_factor>" in text
        told = next(line for line in launched.lines if "parameter_bridge was told" in line).split()
        settings = yaml.safe_load(Path(told[told.index("--params-file") + 1]).read_text(encoding="utf-8"))
        file = next(iter(settings.values()))["ros__parameters"]["config_file"]
        assert "/wrist/image" in Path(file).read_text(encoding="utf-8")
        assert "bottle" in launched.told("gazebo") and "topic" in launched.told("guard")
        pids = launched.pids()
        launched.process.send_signal(signal.SIGINT)
        assert launched.ends() == 0, launched.text
        assert all(gone(pid) for pid in pids)


def test_a_launch_ends_when_gazebo_has_ended_and_says_when_it_is_not_there(prefix: Prefix, gz: Path) -> None:
    gz.write_text("#!/bin/sh\nexit 3\n", encoding="utf-8")
    with Launched(prefix, "ecovla_gazebo.launch.py", "autostart:=false") as launched:
        assert launched.ends() == 1 and "Gazebo ended with code 3" in launched.text
    with Launched(prefix, "ecovla_gazebo.launch.py", "release:=fortress") as launched:
        assert launched.ends() == 1 and "no command 'ign' of Gazebo fortress" in launched.text
    with Launched(prefix, "ecovla_gazebo.launch.py", "seed:=two") as launched:
        assert launched.ends() == 1 and "seed:=two; valid" in launched.text
    with Launched(prefix, "ecovla_gazebo.launch.py", "pace:=slow") as launched:
        assert launched.ends() == 1 and "pace:=slow; valid" in launched.text
