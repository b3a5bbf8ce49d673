"""What the launch files share: arguments in a table, our nodes with their remappings, files of other packages in scopes
of their own, bringing the policy up, and ending the launch when a node that it needs has ended."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, List  # noqa: UP035  launch_ros tells a list of strings by this name

from launch import LaunchContext
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    GroupAction,
    IncludeLaunchDescription,
    OpaqueFunction,
    RegisterEventHandler,
    SetEnvironmentVariable,
    TimerAction,
)
from launch.conditions import IfCondition
from launch.events import matches_action
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import EnvironmentVariable, LaunchConfiguration, PathJoinSubstitution, PythonExpression
from launch_ros.actions import LifecycleNode, Node
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare
from lifecycle_msgs.msg import Transition

from ecovla_ros.errors import EcovlaError
from ecovla_ros.nodes.ros.process import PARENT

Argument = tuple[str, str, str, Sequence[str] | None]
"""Name, default, what it does, choices."""

YES_NO = ("true", "false")
GRIPPERS = ("auto", "topic", "parallel_gripper", "gripper_command", "none")
"""As `gripper.KINDS`, which cannot be imported here: a launch needs no messages."""
DISCOVERY = ("localhost", "subnet")
"""Who may find the nodes of a launch: those of this machine, or everybody on its network."""
COMMON: tuple[Argument, ...] = (
    ("overrides", "['']", "keys over the configuration, e.g. \"['prune.ratio=0.4', 'control.profile=gentle']\"", None),
    ("namespace", "", "namespace of our nodes", None),
    ("prefix", "", "before the names of the joints, as ros2_kortex' prefix; empty: as the configuration says", None),
    ("enable_lease_s", "2.0", "whoever enables must ask again within so long, s, as `ecovla enable` does; 0: no", None),
    ("autostart", "true", "configure and activate the policy; the guard stays disarmed", YES_NO),
    ("enclaves", "false", "SROS2: each node in the enclave of its name, see docs/security.md", YES_NO),
    ("metrics_port", "0", "metrics of policy and guard for Prometheus at this port of this machine; 0: none", None),
    ("log_level", "info", "of our nodes", ("debug", "info", "warn", "error")),
)
"""Arguments of every launch file; each adds `config` with a default of its own, and `use_sim_time`."""

CONTROLLER = "joint_trajectory_controller/joint_trajectory"
CONTROLLER_STATE = "joint_trajectory_controller/controller_state"
GRIPPER = "robotiq_gripper_controller"
ENCLAVE = "ROS_SECURITY_ENCLAVE_OVERRIDE"
"""Environment variable: the enclave of every process that has it, whatever --enclave says; empty: none."""
REST_S = 2.0
"""From the end of a node to the end of the launch, s: a controller plays what it has to its end, at rest, meanwhile."""


def declared(arguments: Iterable[Argument]) -> list[DeclareLaunchArgument]:
    """The launch arguments of a table."""
    return [DeclareLaunchArgument(n, default_value=d, description=text, choices=c) for n, d, text, c in arguments]


def shared(*parts: str) -> PathJoinSubstitution:
    """Path of a file of this package."""
    return PathJoinSubstitution([FindPackageShare("ecovla_ros"), *parts])


def transport() -> SetEnvironmentVariable:
    """Fast DDS with a shared-memory segment that holds images."""
    return SetEnvironmentVariable("FASTDDS_DEFAULT_PROFILES_FILE", shared("config", "fastdds.xml"))


def included(package: str, file: str, told: Mapping[str, Any], condition: IfCondition | None = None) -> GroupAction:
    """A launch file of another package, in a scope of its own.

    Without the scope its arguments stay behind under their names, and ours of the same name (`gripper`) are lost.
    """
    path = PathJoinSubstitution([FindPackageShare(package), "launch", file])
    include = IncludeLaunchDescription(PythonLaunchDescriptionSource(path), launch_arguments=told.items())
    return GroupAction([include], scoped=True, condition=condition)


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
    """One of our nodes; the launch ends with it. `parameters` and `remappings` are added to the common ones."""
    return Node(executable=executable, name=executable, on_exit=ended(executable), **_common(executable, more))


def ros_arguments(name: str) -> list[Any]:
    """Of one of our nodes: how much it logs, and its enclave (SROS2); "/" is the one that every node has by itself."""
    enclave = PythonExpression([f"'/{name}' if '", LaunchConfiguration("enclaves"), "' == 'true' else '/'"])
    return ["--ros-args", "--log-level", LaunchConfiguration("log_level"), "--enclave", enclave]


def ended(name: str) -> Callable[[Any, LaunchContext], list[TimerAction]]:
    """What to do when a process that the launch needs has ended: end the launch, with an error, after `REST_S`."""

    def on_exit(event: Any, context: LaunchContext) -> list[TimerAction]:
        if context.is_shutdown:
            return []
        return [_end(f"{name} ended with code {event.returncode}; its last words are above")]

    return on_exit


def _end(why: str) -> TimerAction:
    """The end of the launch with exit code 1: Shutdown alone would say 0."""

    def fail(context: LaunchContext) -> None:
        if not context.is_shutdown:
            raise EcovlaError(why)

    return TimerAction(period=REST_S, actions=[OpaqueFunction(function=fail)])


def policy(**more: Any) -> list[Any]:
    """The policy, configured now and activated when it is inactive, unless autostart is off."""
    made = LifecycleNode(executable="policy", name="policy", on_exit=ended("policy"), **_common("policy", more))
    wanted = IfCondition(LaunchConfiguration("autostart"))
    activate = EmitEvent(event=change(made, Transition.TRANSITION_ACTIVATE))
    return [
        made,
        EmitEvent(event=change(made, Transition.TRANSITION_CONFIGURE), condition=wanted),
        RegisterEventHandler(came(made, "configuring", "inactive", activate), condition=wanted),
        *(RegisterEventHandler(handler, condition=wanted) for handler in failures(made)),
    ]


def change(policy: LifecycleNode, transition: int) -> ChangeState:
    """The event that asks the policy for a transition."""
    return ChangeState(lifecycle_node_matcher=matches_action(policy), transition_id=transition)


def came(policy: LifecycleNode, start: str, goal: str, action: Any) -> OnStateTransition:
    """When the policy has come from one state to another, do this."""
    return OnStateTransition(target_lifecycle_node=policy, start_state=start, goal_state=goal, entities=[action])


def failures(policy: LifecycleNode) -> list[OnStateTransition]:
    """A policy that cannot be configured or activated ends the launch."""
    ways = (("configuring", "unconfigured", "configure"), ("activating", "inactive", "activate"))
    return [came(policy, start, goal, _end(f"the policy did not {verb}; why is above")) for start, goal, verb in ways]


def guard(root: str = "", **more: Any) -> Node:
    """The guard in front of the controllers below `root`."""
    remappings = [
        ("joint_trajectory", root + CONTROLLER),
        ("controller_state", root + CONTROLLER_STATE),
        ("gripper_trajectory", f"{root}{GRIPPER}/joint_trajectory"),
        ("gripper_cmd", f"{root}{GRIPPER}/gripper_cmd"),
    ]
    lease = {"enable_lease_s": ParameterValue(LaunchConfiguration("enable_lease_s"), value_type=float)}
    parameters = [lease, *more.pop("parameters", ())]
    return node("guard", remappings=[*remappings, *more.pop("remappings", ())], parameters=parameters, **more)


def metrics() -> Node:
    """What policy and guard tell, for Prometheus; nothing ends with it."""
    port = LaunchConfiguration("metrics_port")
    return Node(
        executable="metrics",
        name="metrics",
        package="ecovla_ros",
        namespace=LaunchConfiguration("namespace"),
        output="screen",
        arguments=ros_arguments("metrics"),
        additional_env=followed(),
        parameters=[{"port": ParameterValue(port, value_type=int)}],
        condition=IfCondition(PythonExpression(["'", port, "' != '0'"])),
    )


def followed() -> dict[str, Any]:
    """Environment of our nodes: they end when the launch is gone, also when it was killed; and with enclaves of their
    own they do not take the one that the launch itself was given, which counts more than the argument --enclave."""
    given = EnvironmentVariable(ENCLAVE, default_value="")
    enclave = PythonExpression(["'' if '", LaunchConfiguration("enclaves"), "' == 'true' else '", given, "'"])
    return {PARENT: str(os.getpid()), ENCLAVE: enclave}


def _common(name: str, more: dict[str, Any]) -> dict[str, Any]:
    told = {
        "config": LaunchConfiguration("config"),
        "overrides": ParameterValue(LaunchConfiguration("overrides"), value_type=List[str]),  # noqa: UP006
        "use_sim_time": ParameterValue(LaunchConfiguration("use_sim_time"), value_type=bool),
    }
    return {
        "package": "ecovla_ros",
        "namespace": LaunchConfiguration("namespace"),
        "output": "screen",
        "arguments": ros_arguments(name),
        "additional_env": followed(),
        **more,
        "parameters": [told, *more.get("parameters", ())],
    }
