"""The live nodes on a recorded bag: `ros2 launch ecovla_ros ecovla_replay.launch.py bag:=my_bag`. Policy and guard
follow the bag's clock; the guard stays disarmed, and its trajectories go where no controller listens. Ends with the
bag."""

from __future__ import annotations

from typing import List  # noqa: UP035  launch_ros tells a list of strings by this name

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, EmitEvent, RegisterEventHandler, SetEnvironmentVariable, Shutdown
from launch.events import matches_action
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import LifecycleNode, Node
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare
from lifecycle_msgs.msg import Transition

from ecovla_ros.nodes.ros import launching

ARGUMENTS = (
    ("bag", "bag", "rosbag2 folder, .mcap or .db3 file", None),
    ("map", "['']", "where its topics are named otherwise, e.g. \"['wrist=/hand/image_raw']\"", None),
    ("instruction", "", "the task in words, in place of the bag's", None),
    ("rate", "1.0", "seconds of the bag in a second", None),
    ("loop", "false", "begin again at the end", ("true", "false")),
    ("compressed", "false", "the bag's pictures are CompressedImage", ("true", "false")),
    ("config", "mini_sim.yaml", "configuration of policy and guard: a path, or the name of a shipped file", None),
    ("overrides", "['']", "keys over it, e.g. \"['prune.ratio=0.4']\"", None),
    ("discovery", "localhost", "who may find the nodes: this machine, or its network", ("localhost", "subnet")),
    ("log_level", "info", "of all three nodes", ("debug", "info", "warn", "error")),
)


def generate_launch_description() -> LaunchDescription:
    """Policy and guard; the bag begins when the policy is active."""
    told = {
        "config": LaunchConfiguration("config"),
        "overrides": ParameterValue(LaunchConfiguration("overrides"), value_type=List[str]),  # noqa: UP006
        "use_sim_time": True,
    }
    common = {
        "package": "ecovla_ros",
        "namespace": "",
        "output": "screen",
        "arguments": ["--ros-args", "--log-level", LaunchConfiguration("log_level")],
    }
    compressed = {"compressed": ParameterValue(LaunchConfiguration("compressed"), value_type=bool)}
    policy = LifecycleNode(executable="policy", name="policy", parameters=[told, compressed], **common)
    guard = Node(executable="guard", name="guard", parameters=[told], **common)
    played = {
        "bag": LaunchConfiguration("bag"),
        "instruction": ParameterValue(LaunchConfiguration("instruction"), value_type=str),
        "map": ParameterValue(LaunchConfiguration("map"), value_type=List[str]),  # noqa: UP006
        "rate": ParameterValue(LaunchConfiguration("rate"), value_type=float),
        "loop": ParameterValue(LaunchConfiguration("loop"), value_type=bool),
    }
    replay = Node(executable="replay", name="replay", parameters=[played], on_exit=_all, **common)
    chosen = matches_action(policy)
    profile = PathJoinSubstitution([FindPackageShare("ecovla_ros"), "config", "fastdds.xml"])
    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(name, default_value=default, description=text, choices=choices)
                for name, default, text, choices in ARGUMENTS
            ),
            launching.network(),
            SetEnvironmentVariable("FASTDDS_DEFAULT_PROFILES_FILE", profile),
            guard,
            policy,
            EmitEvent(event=_change(chosen, Transition.TRANSITION_CONFIGURE)),
            _then(policy, "configuring", "inactive", EmitEvent(event=_change(chosen, Transition.TRANSITION_ACTIVATE))),
            _then(policy, "activating", "active", replay),
        ]
    )


def _all(event: object, context: LaunchContext) -> list[Shutdown]:
    """The bag has ended: so do the others, unless they already do."""
    return [] if context.is_shutdown else [Shutdown()]


def _change(chosen: object, transition: int) -> ChangeState:
    return ChangeState(lifecycle_node_matcher=chosen, transition_id=transition)


def _then(node: LifecycleNode, start: str, goal: str, action: EmitEvent | Node) -> RegisterEventHandler:
    """When the node has come from one state to another, do this."""
    return RegisterEventHandler(
        OnStateTransition(target_lifecycle_node=node, start_state=start, goal_state=goal, entities=[action])
    )
