"""Shared settings. Never imports rclpy: every test outside test/nodes and test/stage runs where ROS is absent."""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).parent))

pytest_plugins = ["ecovla_ros.bags.fixture", "pytester"]
