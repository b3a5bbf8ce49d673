"""`ecovla trial`: a process is killed or a camera stops in mid-motion; how the guard ticks; picture to command.

Processes over ROS 2 on this machine; the arm is simulated. What the controller was told is run again at 1 kHz here.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import Image, JointState
from trajectory_msgs.msg import JointTrajectory

from ecovla_ros import wire
from ecovla_ros.bench import document
from ecovla_ros.bench.controller import FakeController
from ecovla_ros.control.limits import load
from ecovla_ros.control.trajectory import TrajectoryController
from ecovla_ros.nodes import children, qos
from ecovla_ros.nodes.children import Child
from ecovla_ros.nodes.driver import Driver
from ecovla_ros.nodes.interfaces import ActionChunk, LatencyReport
from ecovla_ros.nodes.process import start_ros
from ecovla_ros.types import CAMERAS, Trajectory

CONFIG = "mini_sim.yaml"
NODES = ("sim", "guard", "policy")
MOVE_RAD_S = 0.15
"""The arm is in mid-motion when a joint is commanded to be faster, rad/s."""
RAMPED_S, MOVE_S, AFTER_S = 2.2, 30.0, 1.6
TRANSPORT_NS = 3_000_000
"""A command reaches the controller so much later than it was planned, ns."""
STILL_RAD_S = 1e-4
"""A joint slower than this is at rest, rad/s."""
SIZE_PX, PICTURE_S, OVERHEAD_S = 224, 0.15, 25.0
DRAWN = ("sim.width=96", "sim.height=96", "sim.image_hz=6", "node.image_age_s=0.6")
"""Pictures that leave the processors to policy and guard: the simulator draws them on the same cores."""
GONE_S = 1.0
"""Time in which what ended processes published is forgotten, s."""


def main(repeat: int, out: Path, json: Path | None) -> int:
    """Run the trials. Exit code 1 when a figure that was asked for is not reached."""
    out.mkdir(parents=True, exist_ok=True)
    trial = Trial(out)
    rows: list[dict[str, Any]] = []
    try:
        for what in ("policy", "guard", "camera"):
            for seed in range(repeat):
                rows.append(trial.stop(what, seed))
                print(rows[-1], flush=True)
        jitter, share = (max(row[key] for row in rows) for key in ("tick_jitter_p99_ms", "guard_share"))
        rows += [
            {"trial": "guard tick jitter while the policy runs, worst run", "p99_ms": jitter, "reached": jitter <= 5.0},
            {"trial": "guard share of one core, worst run", "share": share, "reached": share <= 0.15},
            *trial.overhead(),
        ]
    finally:
        trial.close()
    for row in rows:
        print(row)
    if json:
        document.write(json, rows, {"repeat": repeat, "config": CONFIG})
    return int(not all(row["reached"] for row in rows))


class Arm:
    """What the controller was told, in order, to be run again at 1 kHz."""

    def __init__(self, node: Any) -> None:
        self._node = node
        self._told: list[tuple[int, Trajectory]] = []
        self._live: TrajectoryController | None = None
        self._start: tuple[int, np.ndarray] | None = None
        self._joints: np.ndarray | None = None
        node.create_subscription(JointState, "joint_states", self._on_joints, qos.SENSOR)
        node.create_subscription(JointTrajectory, "joint_trajectory_controller/joint_trajectory", self._on, qos.COMMAND)

    def begin(self) -> None:
        """Start from where the arm is, at rest."""
        assert self._joints is not None
        self._start, self._told, self._live = (self._now(), self._joints), [], TrajectoryController(self._joints)

    def end(self) -> None:
        """Listen no more: what ends may still command, and be heard late."""
        self._live = None

    def speed(self) -> float:
        """Largest commanded joint speed now, rad/s."""
        return float(np.abs(self._live.sample(self._now())[1]).max()) if self._live else 0.0

    def again(self) -> FakeController:
        """The commands from `begin` to now, by a controller that gets each `TRANSPORT_NS` after it was planned."""
        assert self._start is not None
        controller = FakeController(self._start[1], self._start[0])
        for stamp_ns, trajectory in self._told:
            controller.run(max(stamp_ns + TRANSPORT_NS - controller.now_ns, 0))
            controller.model.accept(trajectory, controller.now_ns, stamp_ns=stamp_ns)
        controller.run(max(self._now() - controller.now_ns, 0))
        return controller

    def _on(self, msg: JointTrajectory) -> None:
        if self._live is not None:
            stamp_ns, trajectory = wire.stamp_ns(msg.header.stamp), wire.trajectory(msg)
            self._told.append((stamp_ns, trajectory))
            self._live.accept(trajectory, self._now(), stamp_ns=stamp_ns)

    def _on_joints(self, msg: JointState) -> None:
        self._joints = wire.arm_state(msg).joints

    def _now(self) -> int:
        return int(self._node.get_clock().now().nanoseconds)


class Trial:
    """One ROS context for all trials, and the processes of the present one."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._children: dict[str, Child] = {}
        self._surroundings = children.environment(children.free_domain(), out)
        keys = ("ROS_", "FASTDDS_", "AMENT_")
        os.environ.update({key: value for key, value in self._surroundings.items() if key.startswith(keys)})
        start_ros([])
        self._executor = SingleThreadedExecutor()
        self._node = rclpy.create_node("trial")
        self._executor.add_node(self._node)
        self._values: dict[str, str] = {}
        self._node.create_subscription(DiagnosticStatus, "status", self._on_status, qos.LATCHED)
        self._arm = Arm(self._node)
        self._driver = Driver(self._node, self._executor, lambda: None)
        self._open = True  # whether pictures are passed on
        self._pictures: list[Any] = []

    def stop(self, what: str, seed: int) -> dict[str, Any]:
        """Drive, kill `what` with signal 9 (or stop passing pictures on) in mid-motion, and look at the commands."""
        self._start(NODES, DRAWN, relayed=what == "camera")
        self._driver.bring_up()
        self._driver.lay("apple", seed)
        self._driver.enable(True)
        self._arm.begin()
        used, began = self._cpu_s("guard"), time.monotonic()
        self._driver.spin(RAMPED_S, lambda: True)
        self._driver.until(lambda: self._arm.speed() > MOVE_RAD_S, MOVE_S, "motion")
        speed = self._arm.speed()
        share = (self._cpu_s("guard") - used) / (time.monotonic() - began)
        if what == "camera":
            self._open = False
        else:
            self._children[what].kill()
        cycle = len(self._arm.again().commanded()[0])
        self._driver.spin(AFTER_S, lambda: True)
        controller = self._arm.again()
        moving = np.abs(controller.commanded()[1][cycle:]).max(axis=1) > STILL_RAD_S
        rest_s = 1e-3 * (int(np.flatnonzero(moving)[-1]) + 1) if moving.any() else 0.0
        limits = load("normal")
        broken = sorted(controller.violations(limits) - {"jerk"})  # said as a step: stamps and transport blur jerk
        step = float(np.abs(np.diff(controller.commanded()[1], 2, axis=0)).max()) * 1e3
        jitter = float(self._values.get("tick_jitter_p99_ms", "nan"))
        row = {"trial": f"{what} {'stopped' if what == 'camera' else 'killed'}", "seed": seed, "speed_rad_s": speed,
               "rest_s": rest_s, "violations": broken, "step_rad_s2": step, "guard": self._values.get("state", ""),
               "reached": rest_s <= 0.8 and not moving[-1] and not broken and step <= limits.acceleration.min(),
               "tick_jitter_p99_ms": jitter, "guard_share": share}  # fmt: skip
        self._end()
        return row

    def overhead(self) -> list[dict[str, Any]]:
        """Two 224 px cameras of this process, the real policy and guard: picture to command without the policy call."""
        self._open = False  # the simulator's pictures: they are drawn after their stamp
        self._start(NODES, ["control.replan_s=0.02", "sim.image_hz=1"], relayed=True)
        picture = np.full((SIZE_PX, SIZE_PX, 3), 128, np.uint8)
        timer = self._node.create_timer(PICTURE_S, lambda: self._shoot(picture))
        chunks: list[int] = []
        policy_ms: dict[int, float] = {}
        spent: list[tuple[int, float]] = []

        def on_command(_msg: JointTrajectory) -> None:
            if chunks:
                spent.append((chunks[-1], (self._now() - chunks[-1]) / 1e6))

        listen = self._node.create_subscription
        listen(ActionChunk, "action_chunk", lambda msg: chunks.append(wire.stamp_ns(msg.header.stamp)), qos.COMMAND)
        listen(
            LatencyReport, "latency",
            lambda msg: policy_ms.__setitem__(wire.stamp_ns(msg.header.stamp), msg.policy_ms), qos.REPORT,
        )  # fmt: skip
        listen(JointTrajectory, "joint_trajectory_controller/joint_trajectory", on_command, qos.COMMAND)
        self._driver.bring_up()
        self._driver.lay("apple", 0)
        self._driver.enable(True)
        spent.clear()
        self._driver.spin(OVERHEAD_S, lambda: True)
        timer.cancel()
        self._end()
        beside = [ms - policy_ms[stamp] for stamp, ms in dict(spent).items() if stamp in policy_ms]
        p50, p99 = (float(np.percentile(beside, q)) if beside else None for q in (50, 99))
        return [
            {"trial": "picture to command, beside the policy call", "n": len(beside), "p50_ms": p50, "p99_ms": p99,
             "reached": p99 is not None and p99 <= 15.0},
        ]  # fmt: skip

    def close(self) -> None:
        """End every process."""
        self._end()
        self._executor.shutdown()
        rclpy.try_shutdown()

    def _start(self, names: Sequence[str], overrides: Sequence[str] = (), relayed: bool = False) -> None:
        """`relayed`: the policy gets its pictures through this process, which can stop them."""
        parameters = {"config": CONFIG, "overrides": [*overrides, "policy.seed=0"]}
        pictures = {f"{camera}/image": f"relay/{camera}/image" for camera in CAMERAS} if relayed else {}
        if relayed and not self._pictures:
            for camera in CAMERAS:
                self._relay(camera)
        self._children = {
            name: Child(name, parameters, self._surroundings, self._out / f"{name}.log",
                        pictures if name == "policy" else {})
            for name in names
        }  # fmt: skip
        self._values = {}

    def _end(self) -> None:
        self._arm.end()
        for child in self._children.values():
            child.stop()
        self._children = {}
        self._open = True
        self._driver.spin(GONE_S, lambda: True)

    def _relay(self, camera: str) -> None:
        onward = self._node.create_publisher(Image, f"relay/{camera}/image", qos.COMMAND)
        self._pictures.append(onward)

        def forward(msg: Image) -> None:
            if self._open:
                onward.publish(msg)

        self._node.create_subscription(Image, f"{camera}/image", forward, qos.SENSOR)

    def _shoot(self, picture: np.ndarray) -> None:
        now_ns = self._now()
        for camera, onward in zip(CAMERAS, self._pictures):
            onward.publish(wire.fill_image(Image(), picture, now_ns, camera))

    def _on_status(self, msg: DiagnosticStatus) -> None:
        self._values = {pair.key: pair.value for pair in msg.values}

    def _cpu_s(self, name: str) -> float:
        """Processor time of a process so far, s."""
        fields = Path(f"/proc/{self._children[name].pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _now(self) -> int:
        return int(self._node.get_clock().now().nanoseconds)
