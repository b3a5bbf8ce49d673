"""Messages to values and back, by field name: the same code serves rclpy's messages and those read from a bag.

Nothing here imports ROS. A `fill_...` function writes into the message it is handed and gives it back.
"""

from __future__ import annotations

from ecovla_ros.wire import causes, compressed
from ecovla_ros.wire.arm import (
    MOST_RAD,
    arm_state,
    controller_state,
    fill_gripper,
    fill_joint_state,
    fill_trajectory,
    gripper,
    trajectory,
)
from ecovla_ros.wire.fields import raw_stamp_ns, set_stamp, stamp_ns
from ecovla_ros.wire.frames import chunk, fill_chunk, fill_latency, fill_pruning, observation
from ecovla_ros.wire.images import decode_image, fill_camera_info, fill_image
from ecovla_ros.wire.states import JointStates
from ecovla_ros.wire.stillness import Stillness

__all__ = [
    "MOST_RAD",
    "JointStates",
    "Stillness",
    "arm_state",
    "controller_state",
    "causes",
    "chunk",
    "compressed",
    "decode_image",
    "fill_camera_info",
    "fill_chunk",
    "fill_gripper",
    "fill_image",
    "fill_joint_state",
    "fill_latency",
    "fill_pruning",
    "fill_trajectory",
    "gripper",
    "observation",
    "raw_stamp_ns",
    "set_stamp",
    "stamp_ns",
    "trajectory",
]
