"""The controller's own state: control_msgs/JointTrajectoryControllerState, which is on no package index.

Wherever ros2_control runs it is installed. Where it is not, nothing is heard, and the guard says so when it is enabled.
"""

from __future__ import annotations

from typing import Any

from ecovla_ros.nodes.ros import qos
from ecovla_ros.nodes.ros.polling import PolledTopic

try:
    from control_msgs.msg import JointTrajectoryControllerState as KIND
except ImportError:
    KIND = None

NAME = "controller_state"
MOST_BYTES = 2**14
"""Longest message that is read."""


def topic(node: Any) -> PolledTopic | None:
    """Subscription of `node`; None, with a word in its log, where the message is not installed."""
    if KIND is None:
        node.get_logger().info(
            "control_msgs is not installed, so the controller's clock and turns cannot be read from controller_state"
        )
        return None
    return PolledTopic(node, KIND, NAME, qos.SENSOR, MOST_BYTES)
