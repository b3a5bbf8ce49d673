"""LeRobot data sets (huggingface/lerobot): versions 2.0 to 3.0 are read, with pictures or videos; 3.0 is written."""

from __future__ import annotations

from ecovla_ros.train.lerobot.layout import ACTION, AXES, DATA, EPISODES, IMAGE, STATE, VERSION
from ecovla_ros.train.lerobot.read import Reading, cameras, read
from ecovla_ros.train.lerobot.write import write

__all__ = ["ACTION", "AXES", "DATA", "EPISODES", "IMAGE", "STATE", "VERSION", "Reading", "cameras", "read", "write"]
