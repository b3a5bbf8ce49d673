"""Simulator, policy and guard: `ros2 launch ecovla_ros ecovla_sim.launch.py`. The arm stays disarmed until
`ecovla enable`, and is again when that ends."""

from __future__ import annotations

from launch import LaunchDescription

from ecovla_ros.nodes.ros import launching, launching_joints

ARGUMENTS = (
    ("config", "mini_sim.yaml", "configuration of all three nodes: a path, or the name of a shipped file", None),
    ("use_sim_time", "false", "follow /clock; the simulator's stamps fit the wall clock as well", launching.YES_NO),
    ("discovery", "localhost", "who may find the nodes: this machine, or its network", launching.DISCOVERY),
    *launching.COMMON,
)


def generate_launch_description() -> LaunchDescription:
    """Three nodes, and the events that bring the policy up."""
    return LaunchDescription(
        [
            *launching.declared(ARGUMENTS),
            launching_joints.named(),
            launching.network(),
            launching.transport(),
            launching.node("sim"),
            launching.guard(),
            launching.metrics(),
            *launching.policy(),
        ]
    )
