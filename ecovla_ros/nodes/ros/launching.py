"""What the launch files share: arguments in a table, our nodes with their remappings, and bringing the policy up."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any, List  # noqa: UP035  launch_ros tells a list of strings by this name

from launch.actions import DeclareLaunchArgument, EmitEvent, RegisterEventHandler, SetEnvironmentVariable
from launch.conditions import IfCondition
from launch.events import matches_action
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution, PythonExpression
from launch_ros.actions import LifecycleNode, Node
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare
from lifecycle_msgs.msg import Transition

Argument = tuple[str, str, str, Sequence[str] | None]
"""Name, default, what it does, choices."""

YES_NO = ("true", "false")
DISCOVERY = ("localhost", "subnet")
"""Who may find the nodes of a launch: those of this machine, or everybody on its network."""
COMMON: tuple[Argument, ...] = (
    ("overrides", "['']", "keys over the configuration, e.g. \"['prune.ratio=0.4', 'control.profile=gentle']\"", None),
    ("namespace", "", "namespace of our nodes", None),
    ("autostart", "true", "configure and activate the policy; the guard stays disarmed", YES_NO),
    ("log_level", "info", "of our nodes", ("debug", "info", "warn", "error")),
)
"""Arguments of every launch file; each adds `config` with a default of its own, and `use_sim_time`."""

CONTROLLER = "joint_trajectory_controller/joint_trajectory"
GRIPPER = "robotiq_gripper_controller"


def declared(arguments: Iterable[Argument]) -> list[DeclareLaunchArgument]:
    """The launch arguments of a table."""
    return [DeclareLaunchArgument(n, default_value=d, description=text, choices=c) for n, d, text, c in arguments]


def shared(*parts: str) -> PathJoinSubstitution:
    """Path of a file of this package."""
    return PathJoinSubstitution([FindPackageShare("ecovla_ros"), *parts])


def transport() -> SetEnvironmentVariable:
    """Fast DDS with a shared-memory segment that holds images."""
    return SetEnvironmentVariable("FASTDDS_DEFAULT_PROFILES_FILE", shared("config", "fastdds.xml"))


def network() -> SetEnvironmentVariable:
    """Keep what is launched after this on this machine, or open it to the network, as `discovery` says.

    Whoever is on the network of a graph can publish to it: `subnet` is for networks whose machines are all trusted.
    """
    asked = LaunchConfiguration("discovery")
    if os.environ.get("ROS_DISTRO") == "humble":  # which does not know the range yet
        return SetEnvironmentVariable(
            "ROS_LOCALHOST_ONLY", PythonExpression(["'1' if '", asked, "' == 'localhost' else '0'"])
        )
    return SetEnvironmentVariable("ROS_AUTOMATIC_DISCOVERY_RANGE", PythonExpression(["'", asked, "'.upper()"]))


def node(executable: str, **more: Any) -> Node:
    """One of our nodes. `parameters` and `remappings` are added to the common ones."""
    return Node(executable=executable, name=executable, **_common(more))


def policy(**more: Any) -> list[Any]:
    """The policy, configured now and activated when it is inactive, unless autostart is off."""
    made = LifecycleNode(executable="policy", name="policy", **_common(more))
    chosen, wanted = matches_action(made), IfCondition(LaunchConfiguration("autostart"))
    configure = ChangeState(lifecycle_node_matcher=chosen, transition_id=Transition.TRANSITION_CONFIGURE)
    activate = ChangeState(lifecycle_node_matcher=chosen, transition_id=Transition.TRANSITION_ACTIVATE)
    configured = OnStateTransition(
        target_lifecycle_node=made,
        start_state="configuring",
        goal_state="inactive",
        entities=[EmitEvent(event=activate)],
    )
    return [
        made,
        EmitEvent(event=configure, condition=wanted),
        RegisterEventHandler(configured, condition=wanted),
    ]


def guard(root: str = "", **more: Any) -> Node:
    """The guard in front of the controllers below `root`."""
    remappings = [
        ("joint_trajectory", root + CONTROLLER),
        ("gripper_trajectory", f"{root}{GRIPPER}/joint_trajectory"),
        ("gripper_cmd", f"{root}{GRIPPER}/gripper_cmd"),
    ]
    return node("guard", remappings=[*remappings, *more.pop("remappings", ())], **more)


def _common(more: dict[str, Any]) -> dict[str, Any]:
    told = {
        "config": LaunchConfiguration("config"),
        "overrides": ParameterValue(LaunchConfiguration("overrides"), value_type=List[str]),  # noqa: UP006
        "use_sim_time": ParameterValue(LaunchConfiguration("use_sim_time"), value_type=bool),
    }
    return {
        "package": "ecovla_ros",
        "namespace": LaunchConfiguration("namespace"),
        "output": "screen",
        "arguments": ["--ros-args", "--log-level", LaunchConfiguration("log_level")],
        **more,
        "parameters": [told, *more.get("parameters", ())],
    }
