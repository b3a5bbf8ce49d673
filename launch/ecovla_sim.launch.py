"""Simulator, policy and guard: `ros2 launch ecovla_ros ecovla_sim.launch.py`. The arm stays disarmed until
`ros2 service call /guard/enable std_srvs/srv/SetBool "{data: true}"`."""

from __future__ import annotations

from typing import List  # noqa: UP035  launch_ros tells a list of strings by this name

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, EmitEvent, RegisterEventHandler, SetEnvironmentVariable
from launch.conditions import IfCondition
from launch.events import matches_action
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import LifecycleNode, Node
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare
from lifecycle_msgs.msg import Transition

ARGUMENTS = (
    ("config", "mini_sim.yaml", "configuration of all three nodes: a path, or the name of a shipped file", None),
    ("overrides", "['']", "keys over it, e.g. \"['prune.ratio=0.4', 'sim.task=banana']\"", None),
    ("namespace", "", "namespace of everything but /clock and /diagnostics", None),
    ("autostart", "true", "configure and activate the policy", ("true", "false")),
    ("use_sim_time", "false", "follow /clock; the simulator's stamps fit the wall clock as well", ("true", "false")),
    ("log_level", "info", "of all three nodes", ("debug", "info", "warn", "error")),
)


def generate_launch_description() -> LaunchDescription:
    """Three nodes, and the events that bring the policy up."""
    namespace = LaunchConfiguration("namespace")
    told = {
        "config": LaunchConfiguration("config"),
        "overrides": ParameterValue(LaunchConfiguration("overrides"), value_type=List[str]),  # noqa: UP006
    }
    follows = {"use_sim_time": ParameterValue(LaunchConfiguration("use_sim_time"), value_type=bool)}
    common = {
        "package": "ecovla_ros",
        "namespace": namespace,
        "output": "screen",
        "arguments": ["--ros-args", "--log-level", LaunchConfiguration("log_level")],
    }
    policy = LifecycleNode(executable="policy", name="policy", parameters=[told, follows], **common)
    guard = Node(
        executable="guard",
        name="guard",
        parameters=[told, follows],
        remappings=[
            ("joint_trajectory", "joint_trajectory_controller/joint_trajectory"),
            ("gripper_trajectory", "robotiq_gripper_controller/joint_trajectory"),
        ],
        **common,
    )
    sim = Node(executable="sim", name="sim", parameters=[told], **common)
    profile = PathJoinSubstitution([FindPackageShare("ecovla_ros"), "config", "fastdds.xml"])
    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(name, default_value=default, description=text, choices=choices)
                for name, default, text, choices in ARGUMENTS
            ),
            SetEnvironmentVariable("FASTDDS_DEFAULT_PROFILES_FILE", profile),
            sim,
            guard,
            policy,
            *_brought_up(policy, IfCondition(LaunchConfiguration("autostart"))),
        ]
    )


def _brought_up(node: LifecycleNode, condition: IfCondition) -> tuple[EmitEvent, RegisterEventHandler]:
    """Configure the node now, and activate it when it is inactive."""
    chosen = matches_action(node)
    configure = ChangeState(lifecycle_node_matcher=chosen, transition_id=Transition.TRANSITION_CONFIGURE)
    activate = ChangeState(lifecycle_node_matcher=chosen, transition_id=Transition.TRANSITION_ACTIVATE)
    configured = OnStateTransition(
        target_lifecycle_node=node,
        start_state="configuring",
        goal_state="inactive",
        entities=[EmitEvent(event=activate)],
    )
    return EmitEvent(event=configure, condition=condition), RegisterEventHandler(configured, condition=condition)
