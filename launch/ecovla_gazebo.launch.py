"""A Gen3 in Gazebo with our table, objects and cameras, policy and guard.

`arm:=built_in` is the arm and scene of the built-in simulator; Gazebo's own joint-trajectory system drives it, behind a
node of ours that keeps the rules of joint_trajectory_controller. Run with Fortress. `arm:=kortex` is ros2_kortex' own
simulation (kortex_sim_control, gz_ros2_control) with our scene spawned into it. Run with Fortress too, but for its
physics engine and ros_gz. docs/gazebo.md says more.
"""

from __future__ import annotations

import os
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from launch import LaunchContext, LaunchDescription
from launch.actions import ExecuteProcess, GroupAction, OpaqueFunction, SetLaunchConfiguration
from launch.logging import launch_config
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from ecovla_ros.errors import EcovlaError
from ecovla_ros.nodes.ros import launching, launching_joints
from ecovla_ros.sim import gazebo

ARGUMENTS = (
    ("config", "gazebo.yaml", "configuration of our nodes: a path, or the name of a shipped file", None),
    ("arm", "built_in", "that of the built-in simulator, or ros2_kortex' with gz_ros2_control", ("built_in", "kortex")),
    ("release", "harmonic", "release of Gazebo that is installed", tuple(gazebo.RELEASES)),
    ("engine", "ogre2", "what draws the cameras' pictures; ogre where there is no OpenGL 3.3", ("ogre2", "ogre")),
    ("pace", "1.0", "seconds simulated in a second, at most: less where policy and pictures share few cores", None),
    ("window", "false", "show Gazebo's window", launching.YES_NO),
    ("expert", "false", "the expert of the built-in simulator drives, instead of the policy", launching.YES_NO),
    ("task", "apple", "first instruction, of the built-in arm: apple, bottle or banana", None),
    ("seed", "0", "where things stand", None),
    ("gripper", "auto", "how to command it; auto: as its controller offers", launching.GRIPPERS),
    ("launch_rviz", "false", "ros2_kortex' RViz", launching.YES_NO),
    ("use_sim_time", "true", "follow Gazebo's /clock", launching.YES_NO),
    ("discovery", "localhost", "who may find the nodes: this machine, or its network", launching.DISCOVERY),
    *launching.COMMON,
)  # fmt: skip
KORTEX_HEIGHT = 0.3
"""kortex_sim_control puts the arm's base so high above the floor, m."""
KORTEX_CARRIES = ("/clock", "/wrist/image", "/wrist/camera_info", *(t for t in gazebo.DRIVEN))
"""What kortex_sim_control bridges itself, or its arm has not."""


def generate_launch_description() -> LaunchDescription:
    """Gazebo with arm and scene, the bridge, guard and policy."""
    return LaunchDescription(
        [
            *launching.declared(ARGUMENTS),
            launching_joints.named(),
            launching.network(),
            launching.transport(),
            OpaqueFunction(function=_all),
        ]
    )


def _all(context: LaunchContext) -> list[Any]:
    release, seed = LaunchConfiguration("release").perform(context), LaunchConfiguration("seed").perform(context)
    if not seed.isdecimal():
        raise EcovlaError(f"seed:={seed}; valid: a whole number from 0 on")
    kortex = LaunchConfiguration("arm").perform(context) == "kortex"
    expert = LaunchConfiguration("expert").perform(context) == "true"
    if expert and kortex:
        raise EcovlaError("expert:=true with arm:=kortex: nobody tells where things stand there; valid: arm:=built_in")
    engine, pace = LaunchConfiguration("engine").perform(context), LaunchConfiguration("pace").perform(context)
    try:
        world = gazebo.world(release, int(seed), engine=engine, pace=float(pace))
    except ValueError as error:
        raise EcovlaError(f"pace:={pace}; valid: a number") from error
    carried = [e for e in gazebo.bridged(release) if not (kortex and e["ros_topic_name"] in KORTEX_CARRIES)]
    if kortex:
        SetLaunchConfiguration("description_package", "kortex_description").execute(context)  # RViz asks, later
        running: list[Any] = [_kortex(), *_scene(world)]
    else:
        window = LaunchConfiguration("window").perform(context) == "true"
        command = gazebo.release(release).command(_written("world.sdf", world), window, "DISPLAY" in os.environ)
        if shutil.which(command[0]) is None:
            others = ", ".join(name for name in gazebo.RELEASES if name != release)
            raise EcovlaError(
                f"there is no command '{command[0]}' of Gazebo {release}; valid: install it, or release:={others}"
            )
        task = {"task": LaunchConfiguration("task"), "server": release}
        running = [
            ExecuteProcess(cmd=command, name="gazebo_server", output="screen", on_exit=launching.ended("Gazebo")),
            launching.node("gazebo", parameters=[task]),
        ]
    wrist = "/wrist_mounted_camera/image" if kortex else "/wrist/image"
    pictures = [("third_person/image", "/third_person/image"), ("wrist/image", wrist)]
    gripper = {"gripper": LaunchConfiguration("gripper") if kortex else "topic"}
    arm = [("joint_states", "/joint_states")]
    return [
        *running,
        _bridge(_written("bridge.yaml", yaml.safe_dump(carried))),
        launching.guard("/", parameters=[gripper], remappings=arm),
        launching.metrics(),
        *(
            [launching.node("demonstrator", remappings=arm)]
            if expert
            else launching.policy(remappings=[*pictures, *arm])
        ),
    ]


def _written(name: str, text: str) -> str:
    """Path of a file beside the log of this launch."""
    path = Path(launch_config.log_dir) / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def _bridge(file: str) -> Node:
    return Node(
        package="ros_gz_bridge",
        executable="parameter_bridge",
        name="ecovla_bridge",
        output="screen",
        parameters=[{"config_file": file, "use_sim_time": True}],
        on_exit=launching.ended("the bridge"),
    )


def _kortex() -> GroupAction:
    """ros2_kortex' own simulation; its default controller is the one of the Gen3 lite."""
    told = {
        "sim_gazebo": "true",
        "vision": "true",
        "gripper": launching_joints.GripperModel(),
        "prefix": LaunchConfiguration("prefix"),
        "robot_controller": "joint_trajectory_controller",
        "controllers_file": launching_joints.Controllers(),
        "launch_rviz": LaunchConfiguration("launch_rviz"),
        "use_sim_time": LaunchConfiguration("use_sim_time"),
    }
    return launching.included("kortex_bringup", "kortex_sim_control.launch.py", told)


def _scene(world: str) -> Iterator[Node]:
    """Every model of our world but the arm and the floor, spawned by itself, around an arm that stands higher."""
    root = ElementTree.fromstring(world.encode())
    for model in root.iterfind("./world/model"):
        if model.get("name") == gazebo.ARM:
            continue
        text = f'<sdf version="{root.get("version")}">{ElementTree.tostring(model, encoding="unicode")}</sdf>'
        placed = model.find("pose")
        x, y, z, *turn = [float(v) for v in (placed.text or "").split()] if placed is not None else [0.0] * 6 + [1.0]
        place = ["-x", str(x), "-y", str(y), "-z", str(z + KORTEX_HEIGHT), "-Y", str(gazebo.yaw(turn))]
        arguments = ["-string", text, "-name", str(model.get("name")), *place]
        yield Node(package="ros_gz_sim", executable="create", output="screen", arguments=arguments)
