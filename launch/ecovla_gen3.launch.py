"""A Gen3 with two RealSense cameras, policy and guard: `ros2 launch ecovla_ros ecovla_gen3.launch.py`.

By default with ros2_control's mock hardware; for the arm: `use_fake_hardware:=false robot_ip:=...`. Disarmed until
`ecovla enable`, and is again when that ends. Run `ecovla doctor` before. Not run on an arm.
"""

from __future__ import annotations

from launch import LaunchDescription
from launch.actions import GroupAction, SetLaunchConfiguration
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration, PythonExpression

from ecovla_ros.nodes.ros import launching, launching_joints

ARGUMENTS = (
    ("config", "gen3.yaml", "configuration of our nodes: a path, or the name of a shipped file", None),
    ("robot_ip", "192.168.1.10", "address of the arm", None),
    ("use_fake_hardware", "true", "mock hardware instead of the arm", launching.YES_NO),
    ("launch_kortex", "true", "start ros2_kortex; false: it runs already", launching.YES_NO),
    ("driver", "ros2_control", "kortex: Kinova's Python API in a process of its own", ("ros2_control", "kortex")),
    ("kortex_python", "python3", "Python of an environment with kortex_api, for driver:=kortex", None),
    ("kortex_password_file", "''", "file with the arm's password; else KORTEX_PASSWORD, or admin", None),
    ("gripper", "auto", "how to command it; auto: as its controller offers", launching.GRIPPERS),
    ("launch_cameras", "false", "start two realsense2_camera nodes", launching.YES_NO),
    ("third_person_serial", "''", "serial number of the third-person camera, with a leading underscore", None),
    ("wrist_serial", "''", "serial number of the wrist camera, with a leading underscore", None),
    ("launch_rviz", "false", "ros2_kortex' RViz", launching.YES_NO),
    ("use_sim_time", "false", "follow /clock", launching.YES_NO),
    ("discovery", "subnet", "who may find the nodes: this machine, or its network", launching.DISCOVERY),
    *launching.COMMON,
)  # fmt: skip
CAMERAS = ("third_person", "wrist")
KORTEX_NODE = (("python", "kortex_python"), ("robot_ip", "robot_ip"), ("password_file", "kortex_password_file"))
"""Parameters of our kortex node, and the arguments that set them."""
KORTEX = ("robot_ip", "use_fake_hardware", "launch_rviz", "prefix")
"""Arguments handed on to kortex_bringup's gen3.launch.py under the same name."""


def generate_launch_description() -> LaunchDescription:
    """ros2_kortex or our kortex node, cameras, guard and policy."""
    pictures = [(f"{name}/image", f"/camera/{name}/color/image_raw") for name in CAMERAS]
    arm = [("joint_states", "/joint_states")]
    return LaunchDescription(
        [
            *launching.declared(ARGUMENTS),
            launching_joints.named(),
            launching.network(),
            launching.transport(),
            SetLaunchConfiguration("description_package", "kortex_description"),  # asked for when RViz starts, later
            _kortex(),
            *(_camera(name) for name in CAMERAS),
            launching.node(
                "kortex",
                parameters=[{name: LaunchConfiguration(value) for name, value in KORTEX_NODE}],
                condition=IfCondition(PythonExpression(["'", LaunchConfiguration("driver"), "' == 'kortex'"])),
            ),
            launching.guard("/", parameters=[{"gripper": LaunchConfiguration("gripper")}], remappings=arm),
            launching.metrics(),
            *launching.policy(remappings=[*pictures, *arm]),
        ]
    )


def _kortex() -> GroupAction:
    """ros2_kortex with our controllers file: an absolute path takes the place of its own."""
    told = {name: LaunchConfiguration(name) for name in KORTEX}
    told |= {
        "dof": "7",
        "gripper": launching_joints.GripperModel(),
        "gripper_joint_name": launching_joints.GripperJoint(),
        "controllers_file": launching_joints.Controllers(),
    }
    asked, driver = LaunchConfiguration("launch_kortex"), LaunchConfiguration("driver")
    wanted = PythonExpression(["'", asked, "' == 'true' and '", driver, "' == 'ros2_control'"])
    return launching.included("kortex_bringup", "gen3.launch.py", told, IfCondition(wanted))


def _camera(name: str) -> GroupAction:
    told = {
        "camera_name": name,
        "serial_no": LaunchConfiguration(f"{name}_serial"),
        "rgb_camera.color_profile": "640x480x30",
        "enable_depth": "false",
    }
    asked = IfCondition(LaunchConfiguration("launch_cameras"))
    return launching.included("realsense2_camera", "rs_launch.py", told, asked)
