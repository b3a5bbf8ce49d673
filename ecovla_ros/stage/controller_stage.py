"""Guard and controller as processes, on mock hardware, and this process as the policy: it swings the arm to and fro.

Nothing here needs pictures, a simulator or a model: what is tried is what the guard does when its controller is killed,
frozen, deactivated or switched under it.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.executors import SingleThreadedExecutor

from ecovla_ros import wire
from ecovla_ros.errors import EcovlaError
from ecovla_ros.nodes.ros import qos
from ecovla_ros.nodes.ros.interfaces import ActionChunk as ChunkMessage
from ecovla_ros.nodes.ros.process import keep_loaded, start_ros
from ecovla_ros.stage import children
from ecovla_ros.stage.children import Child
from ecovla_ros.stage.driver import LEASE_S, Driver
from ecovla_ros.stage.mock_arm import MockArm, OwnArm, Ros2ControlArm
from ecovla_ros.stage.recorded_controller import RecordedController
from ecovla_ros.types import GEN3, ActionChunk

CONFIG, PROFILE = "gen3.yaml", "normal"
START_RAD = np.array([0.0, 0.26, 3.0, -2.0, 0.0, 0.96, 1.57])
"""About the Gen3's home."""
SWING_RAD = np.array([0.5, 0.0, 0.0, 0.1, 0.0, 0.1, 0.5])
SWING_RAD_S, TURN_RAD = 0.3, 0.05
"""It swings by so much to either side, its fastest joint so fast, and turns so near to the end."""
CHUNK_S, POINTS, POINT_S = 0.1, 10, 0.1
"""Time between two chunks, points of one, time between two points."""
ANYWHERE = ("control.box_lower=[-2, -2, -2]", "control.box_upper=[2, 2, 2]", f"control.profile={PROFILE}")
"""A swing has no table."""
ENABLED_S = 30.0
"""The guard has so long to know its controller and be enabled, s."""


class ControllerStage:
    """A context manager: what was started ends with it."""

    def __init__(self, out: Path, prefix: Path | None = None) -> None:
        """`prefix`: of the real ros2_control; None: our own controller. Raises ConfigError without either."""
        domain = children.fresh_domain()
        surroundings = children.environment(domain, out)
        keys = ("ROS_", "FASTDDS_", "AMENT_")
        os.environ.update({key: value for key, value in surroundings.items() if key.startswith(keys)})
        stamped = () if prefix else ("control.stamp_commands=always",)  # ours says nothing of its clock, and shares it
        told = {"config": CONFIG, "overrides": [*ANYWHERE, *stamped], "enable_lease_s": LEASE_S, "gripper": "none"}
        renamed = {"controller_state": "joint_trajectory_controller/controller_state"}
        self._guard = Child("guard", told, surroundings, out / "guard.log", renamed)
        start_ros([])
        self._executor = SingleThreadedExecutor()
        self.node = rclpy.create_node("trial")
        self._executor.add_node(self.node)
        self.values: dict[str, str] = {}
        """What the guard said last: key -> value."""
        self.node.create_subscription(DiagnosticStatus, "status", self._on_status, qos.LATCHED)
        self.recorded = RecordedController(self.node, replace(GEN3, gripper=""))
        self.driver = Driver(self.node, self._executor, self._guard.check)
        self.arm: MockArm = (
            Ros2ControlArm(out, surroundings, self.node, self.driver.until, prefix)
            if prefix
            else OwnArm(out, surroundings, self.node, self.driver.until)
        )
        self._chunks = self.node.create_publisher(ChunkMessage, "action_chunk", qos.COMMAND)
        self._side = 1.0
        self.node.create_timer(CHUNK_S, self._chunk)

    def __enter__(self) -> ControllerStage:
        return self

    def __exit__(self, *_: object) -> None:
        self._guard.stop()
        self.arm.stop()
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.try_shutdown()

    @property
    def place(self) -> np.ndarray:
        """Where the joint states say that the arm is (7,), rad."""
        return self.recorded.joints

    @property
    def says(self) -> str:
        """State and reason, as the guard said last."""
        return f"{self.values.get('state', '')}: {self.values.get('message', '')}"

    def begin(self) -> None:
        """Bring controller and guard up, and drive. Raises EcovlaError."""
        self.arm.start(START_RAD)
        self.driver.until(lambda: self.recorded.heard, ENABLED_S, "joint states")
        self.drive()
        keep_loaded()

    def drive(self) -> None:
        """Enable the guard, asking again while it says what it still waits for. Raises EcovlaError."""
        end = time.monotonic() + ENABLED_S
        while True:
            self.driver.unlatch()
            try:
                self.driver.enable(True)
                return
            except EcovlaError:
                if time.monotonic() > end:
                    raise
                self.driver.spin(0.5, lambda: True)

    def _chunk(self) -> None:
        """From where the arm is on to the end of the swing, and back once it is there."""
        if not self.recorded.heard:
            return
        way = START_RAD + self._side * SWING_RAD - self.place
        far = float(np.abs(way).max())
        if far < TURN_RAD:
            self._side = -self._side
            return
        shares = np.minimum(SWING_RAD_S * POINT_S * np.arange(POINTS) / far, 1.0)
        now_ns = int(self.node.get_clock().now().nanoseconds)
        chunk = ActionChunk(now_ns, POINT_S, self.place + np.outer(shares, way), np.zeros(POINTS))
        self._chunks.publish(wire.fill_chunk(ChunkMessage(), chunk))

    def _on_status(self, msg: DiagnosticStatus) -> None:
        self.values = {"message": msg.message} | {pair.key: pair.value for pair in msg.values}
