"""Shared settings. Never imports rclpy: every test outside test/nodes and test/stage runs where ROS is absent."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).parent))

# Not where only torch and its company are (`make gpu`): no test there reads a bag.
BAGS = all(importlib.util.find_spec(name) for name in ("apsw", "mcap", "rosbags"))
pytest_plugins = [*(["ecovla_ros.bags.fixture"] if BAGS else []), "pytester", "support.reads"]
