"""A recorded bag in front of the policy, live: `ros2 launch ecovla_ros ecovla_replay.launch.py bag:=out/demo/bag`.

The guard runs too, and says in its status what it would have refused; it is disarmed and has no arm. For a
deterministic replay use `ecovla replay`.
"""

from __future__ import annotations

from launch import LaunchDescription
from launch.actions import ExecuteProcess
from launch.substitutions import LaunchConfiguration

from ecovla_ros.nodes import launching

ARGUMENTS = (
    ("bag", "out/demo/bag", "folder of the bag", None),
    ("rate", "1.0", "how fast it is played", None),
    ("config", "mini_sim.yaml", "configuration of our nodes: a path, or the name of a shipped file", None),
    ("use_sim_time", "true", "follow the bag's clock", launching.YES_NO),
    *launching.COMMON,
)
INPUTS = ("/third_person/image", "/wrist/image", "/joint_states", "/instruction")
"""Topics that are played: what the policy reads, and not what it once answered."""


def generate_launch_description() -> LaunchDescription:
    """The player, the policy and a guard."""
    play = ["ros2", "bag", "play", LaunchConfiguration("bag"), "--clock", "100", "--rate", LaunchConfiguration("rate")]
    return LaunchDescription(
        [
            *launching.declared(ARGUMENTS),
            launching.transport(),
            ExecuteProcess(cmd=[*play, "--topics", *INPUTS], output="screen"),
            launching.guard(),
            *launching.policy(),
        ]
    )
