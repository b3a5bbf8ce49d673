"""Node `gazebo`: the trajectory controller of an arm in Gazebo where gz_ros2_control is not used.

It keeps the rules of ros2_control's joint_trajectory_controller, as `bench/guard/release` has them from its source, by
simulated time. What that controller would command at each tick of 10 ms goes to Gazebo's own joint-trajectory system as
one point; that system's position and velocity gains drive the joints. So it is the same interface for the guard, and
not the same program: gz_ros2_control runs the real controller inside of Gazebo, at every step.

Gazebo's system knows nothing of the arm's weight, which a Gen3 carries by itself, nor of the damping of its joints:
each point brings the torques for both. The arm of a world starts at zero, straight up. This node first moves it to the
start pose, as a trajectory that any other replaces; so does `~/home` later. There `~/reset` lays a scene anew, as that
of the node `sim`. Whether its task is solved is judged as there, by the poses that Gazebo tells (`success`).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from geometry_msgs.msg import PoseStamped
from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from ecovla_ros import wire
from ecovla_ros.bench.guard import release
from ecovla_ros.errors import (
    ConfigError,
    ControlError,
    EcovlaError,
    ObservationError,
    SimulationError,
    unknown,
)
from ecovla_ros.nodes.ros import intake, process, qos, settings
from ecovla_ros.nodes.ros.interfaces import ResetScene
from ecovla_ros.sim import gazebo
from ecovla_ros.sim.gazebo import ARM_TOPIC, FINGERS, GRIPPER_TOPIC, STATES_TOPIC
from ecovla_ros.sim.gen3 import JAW_STROKE
from ecovla_ros.sim.mirror import THINGS, Mirror
from ecovla_ros.sim.tasks import TASKS, Task, find
from ecovla_ros.sim.world import GRIPPER_RATE, HOME, TICK_NS
from ecovla_ros.types import JOINTS, ArmJoints, ArmState, Trajectory

PARAMETERS = (
    ("controller", "kilted", "release of ros2_control whose rules are kept: " + ", ".join(release.RELEASES)),
    ("server", "harmonic", "release of Gazebo, for ~/reset: " + ", ".join(gazebo.RELEASES)),
    ("task", "apple", "apple, bottle or banana: what is published as the instruction when the node starts"),
)
HOME_RAD = 0.05
"""Largest distance of a joint from the start pose at which a scene is laid, rad."""
HOME_RAD_S = 0.5
"""Fastest joint of the way to the start pose."""
STATES_BYTES = 2**14
"""Longest message of joint states that is read."""
POSE_BYTES = 2**10
"""Longest message of a thing's pose that is read."""
UNHEARD = f"Gazebo has sent no joint states yet on {STATES_TOPIC}"
JUDGED_TICKS = 10
"""Ticks from one look at the task to the next."""


class GazeboNode(Node):
    """Joint states in, points out. One thread, the executor's; Gazebo's joint states are its clock."""

    def __init__(self, **options: Any) -> None:
        """Open the topics. Raises ConfigError or SimulationError."""
        super().__init__("gazebo", **options)
        told = settings.Settings(self, "arm", more=PARAMETERS)
        self._joints: ArmJoints = told.read().arm.joints
        named = str(told["controller"])
        if named not in release.RELEASES:
            raise ConfigError("parameter controller: " + unknown("release", named, release.RELEASES))
        self._release = release.RELEASES[named]
        self._server = gazebo.release(str(told["server"]))
        self._task = find(str(told["task"]))
        self._mirror = Mirror()
        self._home_ns = self._ticks = 0
        self._success = False
        self._controller: release.ReleasedController | None = None
        self._now_ns = 0
        self._closed = self._closed_target = 0.0
        self._commanded = np.zeros(len(HOME))
        self._order: tuple[list[str], list[int]] = [], []
        self._states = self.create_publisher(JointState, "joint_states", qos.COMMAND)
        self._arm = self.create_publisher(JointTrajectory, ARM_TOPIC, qos.COMMAND)
        self._gripper = self.create_publisher(JointTrajectory, GRIPPER_TOPIC, qos.COMMAND)
        for kind, topic, receive, profile, most in (
            (JointState, STATES_TOPIC, self._on_states, qos.SENSOR, STATES_BYTES),
            (JointTrajectory, "joint_trajectory_controller/joint_trajectory", self._on_trajectory, qos.COMMAND,
             intake.TRAJECTORY_BYTES),
            (JointTrajectory, "robotiq_gripper_controller/joint_trajectory", self._on_gripper, qos.COMMAND,
             intake.TRAJECTORY_BYTES),
        ):  # fmt: skip
            intake.subscribe(self, kind, topic, receive, profile, most)
        for name in THINGS:
            hear = partial(self._on_pose, name)
            intake.subscribe(self, PoseStamped, gazebo.pose_topic(name), hear, qos.SENSOR, POSE_BYTES)
        self._instruction = self.create_publisher(String, "instruction", qos.LATCHED)
        self._successes = self.create_publisher(Bool, "success", qos.LATCHED)
        self.create_service(ResetScene, "~/reset", self._on_reset)
        self.create_service(Trigger, "~/home", self._on_home)
        self._begin_task(self._task)
        self.get_logger().info(f"waiting for Gazebo's joint states on {STATES_TOPIC}; rules of {named}")

    def _on_states(self, msg: JointState) -> None:
        """A tick, when 10 ms have passed since the last one; time that goes back is a world that was reset."""
        stamp = wire.stamp_ns(msg.header.stamp)
        if 0 <= stamp - self._now_ns < TICK_NS and self._controller is not None:
            return
        try:
            position, velocity = self._read(msg)
        except ObservationError as error:
            self.get_logger().error(str(error), throttle_duration_sec=5.0)
            return
        if self._controller is None or stamp < self._now_ns:
            self._begin(position[: len(HOME)], stamp)
        self._tick(stamp)
        closed = float(np.clip(position[-2:].mean() / JAW_STROKE, 0.0, 1.0))
        state = ArmState(stamp, position[: len(HOME)], velocity[: len(HOME)], closed)
        self._states.publish(wire.fill_joint_state(JointState(), state, stamp, self._joints))
        self._ticks += 1
        if self._ticks % JUDGED_TICKS == 0:
            self._judge(state)

    def _read(self, msg: JointState) -> tuple[np.ndarray, np.ndarray]:
        """Positions and velocities of arm and fingers, (9,) each. Raises ObservationError when one is missing."""
        if self._order[0] != list(msg.name):
            wanted = (*JOINTS, *FINGERS)
            missing = [name for name in wanted if name not in msg.name]
            if missing:
                raise ObservationError(f"{STATES_TOPIC} lacks {', '.join(missing)}; it holds: {', '.join(msg.name)}")
            self._order = list(msg.name), [list(msg.name).index(name) for name in wanted]
        position, velocity = np.asarray(msg.position, float), np.asarray(msg.velocity, float)
        if not len(position) == len(velocity) == len(msg.name) or not np.isfinite(position).all():
            raise ObservationError(f"{STATES_TOPIC}: valid: a finite position and a velocity for each name")
        return position[self._order[1]], velocity[self._order[1]]

    def _begin(self, positions: np.ndarray, stamp_ns: int) -> None:
        """A controller that holds `positions` (7,), rad, and is asked to go to the start pose."""
        self._controller = release.ReleasedController(positions, self._release)
        self._now_ns = stamp_ns - TICK_NS
        span = self._go_home(positions, stamp_ns)
        self.get_logger().info(f"the arm goes to its start pose in {span:.1f} s of simulated time")

    def _go_home(self, positions: np.ndarray, stamp_ns: int) -> float:
        """Asks the controller for the way from `positions` (7,), rad, to the start pose; returns its length, s."""
        assert self._controller is not None
        span = 1.5 * float(np.abs(HOME - positions).max()) / HOME_RAD_S + 0.1
        way = Trajectory(np.array([0.0, span]), np.array([positions, HOME]), np.zeros((2, len(HOME))))
        self._controller.accept(release.points(way), stamp_ns)
        self._home_ns = stamp_ns + round(span * 1e9)
        return span

    def _tick(self, stamp_ns: int) -> None:
        """What the controller commands by now goes to Gazebo, and the jaws a little nearer to their target."""
        assert self._controller is not None
        cycles = np.arange(self._now_ns + release.CYCLE_NS, stamp_ns + 1, release.CYCLE_NS)
        passed = (stamp_ns - self._now_ns) / 1e9
        self._now_ns = int(cycles[-1])
        position, velocity = self._controller.run(cycles, cycles)
        self._commanded = position[-1]
        effort = self._mirror.weight(self._commanded) + np.multiply(gazebo.DAMPING, velocity[-1])
        self._send(self._arm, JOINTS, self._commanded, velocity[-1], effort)
        reach = GRIPPER_RATE * passed
        self._closed += min(max(self._closed_target - self._closed, -reach), reach)
        self._send(self._gripper, FINGERS, np.full(2, self._closed * JAW_STROKE), np.zeros(2))

    def _send(
        self, to: Any, names: tuple[str, ...], position: np.ndarray, velocity: np.ndarray, effort: Any = ()
    ) -> None:
        one = Trajectory(np.zeros(1), position[None], velocity[None])
        msg = wire.fill_trajectory(JointTrajectory(), one, JointTrajectoryPoint, names)
        msg.points[0].effort = [float(value) for value in effort]
        to.publish(msg)

    def _on_pose(self, name: str, msg: PoseStamped) -> None:
        at, turn = msg.pose.position, msg.pose.orientation
        try:
            self._mirror.put(name, (at.x, at.y, at.z), (turn.w, turn.x, turn.y, turn.z))
        except SimulationError as error:
            self.get_logger().error(str(error), throttle_duration_sec=5.0)

    def _judge(self, state: ArmState) -> None:
        self._mirror.follow_arm(state.joints, self._closed)
        success = self._mirror.solved(self._task.name)
        if success != self._success:
            self._success = success
            self._successes.publish(Bool(data=success))

    def _begin_task(self, task: Task) -> None:
        self._task, self._success = task, False
        self._successes.publish(Bool(data=False))
        self._instruction.publish(String(data=task.instruction))

    def _on_home(self, _request: Any, response: Any) -> Any:
        """Opens the gripper and moves the arm to its start pose; answers at once, with how long that takes."""
        if self._controller is None:
            response.message = UNHEARD
            return response
        self._closed_target = 0.0
        span = self._go_home(self._commanded, self._now_ns)
        response.success, response.message = True, f"{span:.1f} s of simulated time"
        return response

    def _on_reset(self, request: Any, response: Any) -> Any:
        """Puts everything where the seed says. What is held, or moves, would take its speed along."""
        response.success, response.message = False, self._unfit(request)
        if not response.message:
            self._mirror.forget()
            response.message = gazebo.lay(self._server, int(request.seed))
        if not response.message:
            self._begin_task(find(request.task))
            response.success, response.instruction = True, self._task.instruction
        return response

    def _unfit(self, request: Any) -> str:
        """Why a scene cannot be laid; empty when it can."""
        if request.task not in TASKS:
            return unknown("task", request.task, TASKS)
        if request.looks:
            return "the world of Gazebo has one look; valid: looks false"
        if self._controller is None:
            return UNHEARD
        if np.abs(self._commanded - HOME).max() > HOME_RAD or self._now_ns < self._home_ns or self._closed > 0.0:
            return "the arm is not at its start pose with its gripper open; valid: a disabled guard, then ~/home first"
        return ""

    def _on_trajectory(self, msg: JointTrajectory) -> None:
        if self._controller is None:
            self.get_logger().error(
                "trajectory dropped: Gazebo has sent no joint states yet", throttle_duration_sec=1.0
            )
            return
        try:
            points = release.points(wire.trajectory(msg))
            plain = self._joints.plain(msg.joint_names)
            self._controller.accept(points, self._now_ns, wire.stamp_ns(msg.header.stamp), plain)
        except ControlError as error:
            self.get_logger().error(f"trajectory rejected: {error}", throttle_duration_sec=1.0)

    def _on_gripper(self, msg: JointTrajectory) -> None:
        try:
            self._closed_target = wire.gripper(msg, self._joints)
        except EcovlaError as error:
            self.get_logger().error(f"gripper target rejected: {error}", throttle_duration_sec=1.0)

    def close(self) -> None:
        """Nothing to end: Gazebo goes on holding the last point."""


def main(arguments: list[str] | None = None) -> int:
    """Entry point of `ros2 run ecovla_ros gazebo`."""
    return process.run("gazebo", GazeboNode, arguments)
