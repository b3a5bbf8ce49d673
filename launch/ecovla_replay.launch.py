"""The live nodes on a recorded bag: `ros2 launch ecovla_ros ecovla_replay.launch.py bag:=my_bag`. Policy and guard
follow the bag's clock; the guard stays disarmed, and its trajectories go where no controller listens. Ends with the
bag."""

from __future__ import annotations

from typing import List  # noqa: UP035  launch_ros tells a list of strings by this name

from launch import LaunchContext, LaunchDescription
from launch.actions import EmitEvent, RegisterEventHandler, Shutdown
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode, Node
from launch_ros.parameter_descriptions import ParameterValue
from lifecycle_msgs.msg import Transition

from ecovla_ros.nodes.ros import launching, launching_joints

ARGUMENTS = (
    ("bag", "bag", "rosbag2 folder, .mcap or .db3 file", None),
    ("map", "['']", "where its topics are named otherwise, e.g. \"['wrist=/hand/image_raw']\"", None),
    ("instruction", "", "the task in words, in place of the bag's", None),
    ("rate", "1.0", "seconds of the bag in a second", None),
    ("loop", "false", "begin again at the end", ("true", "false")),
    ("compressed", "false", "the bag's pictures are CompressedImage", ("true", "false")),
    ("config", "mini_sim.yaml", "configuration of policy and guard: a path, or the name of a shipped file", None),
    ("overrides", "['']", "keys over it, e.g. \"['prune.ratio=0.4']\"", None),
    ("prefix", "", "before the names of the bag's joints; empty: as the configuration says", None),
    ("discovery", "localhost", "who may find the nodes: this machine, or its network", ("localhost", "subnet")),
    ("enclaves", "false", "SROS2: each node in the enclave of its name, see docs/security.md", ("true", "false")),
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
        "additional_env": launching.followed(),
    }
    compressed = {"compressed": ParameterValue(LaunchConfiguration("compressed"), value_type=bool)}
    needed = {
        name: {"name": name, "on_exit": launching.ended(name), "arguments": launching.ros_arguments(name), **common}
        for name in ("policy", "guard")
    }
    policy = LifecycleNode(executable="policy", parameters=[told, compressed], **needed["policy"])
    guard = Node(executable="guard", parameters=[told], **needed["guard"])
    played = {
        "bag": LaunchConfiguration("bag"),
        "instruction": ParameterValue(LaunchConfiguration("instruction"), value_type=str),
        "map": ParameterValue(LaunchConfiguration("map"), value_type=List[str]),  # noqa: UP006
        "rate": ParameterValue(LaunchConfiguration("rate"), value_type=float),
        "loop": ParameterValue(LaunchConfiguration("loop"), value_type=bool),
    }
    replay = Node(executable="replay", name="replay", parameters=[played], on_exit=_all,
                  arguments=launching.ros_arguments("replay"), **common)  # fmt: skip
    activate = EmitEvent(event=launching.change(policy, Transition.TRANSITION_ACTIVATE))
    then = (
        launching.came(policy, "configuring", "inactive", activate),
        launching.came(policy, "activating", "active", replay),
        *launching.failures(policy),
    )
    return LaunchDescription(
        [
            *launching.declared(ARGUMENTS),
            launching_joints.named(),
            launching.network(),
            launching.transport(),
            guard,
            policy,
            EmitEvent(event=launching.change(policy, Transition.TRANSITION_CONFIGURE)),
            *(RegisterEventHandler(handler) for handler in then),
        ]
    )


def _all(event: object, context: LaunchContext) -> list[object]:
    """The bag has ended: so do the others, unless they already do. A bag that could not be read is an error."""
    if getattr(event, "returncode", 0):
        return list(launching.ended("replay")(event, context))
    return [] if context.is_shutdown else [Shutdown()]
