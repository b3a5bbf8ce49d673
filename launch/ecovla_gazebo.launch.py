"""The Gen3 in Gazebo (Harmonic) with our table, objects and third-person camera, policy and guard. Not run yet.

kortex_sim_control starts Gazebo with an empty world, puts the arm 0.3 m above its floor and bridges clock and wrist
camera; the models of config/gazebo/table.sdf are spawned into it, and config/gazebo/bridge.yaml adds the third-person
camera, and spawns the controllers.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator

from launch import LaunchDescription
from launch.actions import GroupAction, SetLaunchConfiguration
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from ecovla_ros import config
from ecovla_ros.nodes.ros import launching, launching_joints

ARGUMENTS = (
    ("config", "gazebo.yaml", "configuration of our nodes: a path, or the name of a shipped file", None),
    ("gripper", "auto", "how to command it; auto: as its controller offers", launching.GRIPPERS),
    ("launch_rviz", "false", "ros2_kortex' RViz", launching.YES_NO),
    ("use_sim_time", "true", "follow Gazebo's /clock", launching.YES_NO),
    ("discovery", "localhost", "who may find the nodes: this machine, or its network", launching.DISCOVERY),
    *launching.COMMON,
)  # fmt: skip
PICTURES = [("third_person/image", "/third_person/image"), ("wrist/image", "/wrist_mounted_camera/image")]


def generate_launch_description() -> LaunchDescription:
    """Gazebo with arm and scene, the bridge, guard and policy."""
    arm = [("joint_states", "/joint_states")]
    return LaunchDescription(
        [
            *launching.declared(ARGUMENTS),
            launching_joints.named(),
            launching.network(),
            launching.transport(),
            SetLaunchConfiguration("description_package", "kortex_description"),  # asked for when RViz starts, later
            _arm(),
            *_scene(),
            Node(
                package="ros_gz_bridge",
                executable="parameter_bridge",
                name="ecovla_bridge",
                parameters=[{"config_file": launching.shared("config", "gazebo", "bridge.yaml"), "use_sim_time": True}],
            ),
            launching.guard("/", parameters=[{"gripper": LaunchConfiguration("gripper")}], remappings=arm),
            launching.metrics(),
            *launching.policy(remappings=[*PICTURES, *arm]),
        ]
    )


def _arm() -> GroupAction:
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


def _scene() -> Iterator[Node]:
    """Every model of our world file, spawned by itself."""
    root = ElementTree.parse(config.shipped("gazebo/table.sdf")).getroot()
    for model in root.iterfind("./world/model"):
        text = f'<sdf version="{root.get("version")}">{ElementTree.tostring(model, encoding="unicode")}</sdf>'
        x, y, z, *_ = (model.findtext("pose") or "0 0 0").split()
        place = ["-x", x, "-y", y, "-z", z]
        arguments = ["-string", text, "-name", str(model.get("name")), *place]
        yield Node(package="ros_gz_sim", executable="create", output="screen", arguments=arguments)
