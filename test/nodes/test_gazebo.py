"""Node `gazebo`: what it hands to Gazebo is what the controller of a release would command, by Gazebo's clock."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("ecovla_ros.msg")

from geometry_msgs.msg import PoseStamped
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, String
from std_srvs.srv import Trigger
from support.graph import Graph, graph
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from ecovla_ros import wire
from ecovla_ros.errors import ConfigError, SimulationError
from ecovla_ros.nodes.gazebo import HOME_RAD_S, GazeboNode
from ecovla_ros.nodes.ros import qos
from ecovla_ros.nodes.ros.interfaces import ResetScene
from ecovla_ros.sim import gazebo
from ecovla_ros.sim.gen3 import JAW_STROKE
from ecovla_ros.sim.mirror import THINGS, Mirror
from ecovla_ros.sim.world import HOME, TICK_NS
from ecovla_ros.types import GEN3, JOINTS, Trajectory

STEP_NS = 2_000_000
START_NS = 40_000_000


@pytest.fixture
def ros() -> Iterator[Graph]:
    with graph() as made:
        yield made


class Gazebo:
    """Stands in for Gazebo: joints that are wherever they were told to be, one step at a time."""

    def __init__(self, ros: Graph) -> None:
        self._ros, self.now_ns, self.jaws = ros, START_NS, np.zeros(2)
        self.position = np.zeros(7)
        self.told: list[JointTrajectory] = ros.listen(JointTrajectory, gazebo.ARM_TOPIC, qos.COMMAND)
        self.pressed: list[JointTrajectory] = ros.listen(JointTrajectory, gazebo.GRIPPER_TOPIC, qos.COMMAND)
        self.states: list[JointState] = ros.listen(JointState, "joint_states", qos.COMMAND)
        self._topic = ros.matched(ros.tester.create_publisher(JointState, gazebo.STATES_TOPIC, qos.COMMAND))

    def home(self) -> None:
        """Ticks until the arm is where it begins."""
        while np.abs(self.tick() - HOME).max() > 1e-9:
            assert self.now_ns < START_NS + 1000 * TICK_NS
        self.tick()

    def say(self, names: tuple[str, ...] = (*gazebo.FINGERS, *JOINTS)) -> None:
        """The joint states of now, in an order of Gazebo's."""
        msg = JointState(name=list(names))
        wire.set_stamp(msg.header.stamp, self.now_ns)
        values = dict(zip((*JOINTS, *gazebo.FINGERS), (*self.position, *self.jaws)))
        msg.position, msg.velocity = [values[name] for name in names], [0.0] * len(names)
        self._topic.publish(msg)

    def tick(self) -> np.ndarray:
        """Ten simulated milliseconds: what the arm was told at their end, (7,)."""
        seen = len(self.told)
        self.say()
        self._ros.until(lambda: min(len(heard) for heard in (self.told, self.pressed, self.states)) > seen, "a point")
        assert len(self.told[-1].points) == 1 and tuple(self.told[-1].joint_names) == JOINTS
        self.position = np.array(self.told[-1].points[0].positions)
        self.jaws = np.array(self.pressed[-1].points[0].positions)
        self.now_ns += TICK_NS
        return self.position


def test_the_arm_goes_to_its_start_pose_and_then_where_it_is_told(ros: Graph) -> None:
    ros.start(GazeboNode)
    world = Gazebo(ros)
    way = [np.zeros(7)]
    while np.abs(way[-1] - HOME).max() > 1e-9:
        way.append(world.tick())
        assert len(way) < 1000
    speeds = np.abs(np.diff(way, axis=0)).max(axis=1) / (TICK_NS * 1e-9)
    assert speeds.max() < HOME_RAD_S * 1.01 and np.abs(np.diff(speeds)).max() < 0.02, "no step, no jerk"
    state = wire.arm_state(world.states[-1])
    assert state.stamp_ns == world.now_ns - TICK_NS and state.joints == pytest.approx(way[-2], abs=0.02)

    arm = ros.matched(ros.tester.create_publisher(JointTrajectory, "joint_trajectory_controller/joint_trajectory", 1))
    goal = Trajectory(np.array([0.05]), (HOME + 0.01)[None], np.zeros((1, 7)))
    tell(ros, world, lambda: arm.publish(wire.fill_trajectory(JointTrajectory(), goal, JointTrajectoryPoint)))
    for _ in range(8):
        last = world.tick()
    assert last == pytest.approx(HOME + 0.01, abs=1e-9)

    moving = Trajectory(np.array([0.05]), (HOME + 0.5)[None], np.full((1, 7), 0.1))
    tell(ros, world, lambda: arm.publish(wire.fill_trajectory(JointTrajectory(), moving, JointTrajectoryPoint)))
    assert world.tick() == pytest.approx(HOME + 0.01, abs=1e-9), "its last point moves: the controller refuses it"


def tell(ros: Graph, world: Gazebo, publish: Callable[[], None]) -> None:
    """Publish, and give the node the time to hear it."""
    publish()
    ros.spin(0.2)
    world.tick()


def test_the_jaws_follow_the_gripper_at_its_rate(ros: Graph) -> None:
    ros.start(GazeboNode)
    world = Gazebo(ros)
    world.tick()
    gripper = ros.matched(
        ros.tester.create_publisher(JointTrajectory, "robotiq_gripper_controller/joint_trajectory", qos.COMMAND)
    )
    tell(ros, world, lambda: gripper.publish(wire.fill_gripper(JointTrajectory(), 1.0, 0.5, JointTrajectoryPoint)))
    moved = []
    for _ in range(45):
        world.tick()
        moved.append(world.jaws.copy())
    assert moved[-1] == pytest.approx([JAW_STROKE] * 2)
    assert np.abs(np.diff(moved, axis=0)).max() < 0.03 * JAW_STROKE, "not at once"
    assert wire.arm_state(world.states[-1]).gripper > 0.9
    assert list(world.states[-1].name) == list(GEN3.wanted)


def test_a_world_that_was_reset_begins_anew_and_half_a_message_is_none(ros: Graph) -> None:
    ros.start(GazeboNode)
    world = Gazebo(ros)
    for _ in range(60):
        world.tick()
    world.position, world.now_ns = np.full(7, 0.2), START_NS
    assert world.tick() == pytest.approx(np.full(7, 0.2), abs=1e-3), "from where the arm is now"
    seen = len(world.told)
    world.now_ns += TICK_NS
    world.say(JOINTS)
    ros.spin(0.3)
    assert len(world.told) == seen


def test_a_point_brings_what_holds_the_arm_there(ros: Graph) -> None:
    """Its weight, and, while it moves, what the damping of its joints takes."""
    ros.start(GazeboNode)
    world, mirror = Gazebo(ros), Mirror()
    for _ in range(100):
        at = world.tick()
    moving = world.told[-1].points[0]
    given = mirror.weight(at) + np.multiply(gazebo.DAMPING, moving.velocities)
    assert np.abs(moving.velocities).max() > 0.1 and list(moving.effort) == pytest.approx(list(given))
    world.home()
    assert list(world.told[-1].points[0].effort) == pytest.approx(list(mirror.weight(HOME)), abs=1e-6)
    assert not world.pressed[-1].points[0].effort


def test_it_judges_by_the_poses_that_gazebo_tells(ros: Graph) -> None:
    ros.start(GazeboNode)
    world, verdicts = Gazebo(ros), ros.listen(Bool, "success", qos.LATCHED)
    world.home()
    tell_all = {
        name: ros.matched(ros.tester.create_publisher(PoseStamped, gazebo.pose_topic(name), qos.COMMAND))
        for name in THINGS
    }
    for i, (name, topic) in enumerate(tell_all.items()):
        msg = PoseStamped()
        at = (0.47, -0.37, 0.04 if name == "apple" else 0.0) if name in ("apple", "basket") else (0.5, 0.1 * i, 0.02)
        msg.pose.position.x, msg.pose.position.y, msg.pose.position.z = at
        msg.pose.orientation.w = 1.0
        topic.publish(msg)
    ros.spin(0.2)
    for _ in range(12):
        world.tick()
    ros.until(lambda: verdicts and verdicts[-1].data, "a verdict")


def test_a_scene_is_laid_only_from_the_start_pose(ros: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    laid: list[int] = []
    monkeypatch.setattr(gazebo, "lay", lambda server, seed: laid.append(seed) or "")
    ros.start(GazeboNode)
    lay, home = (
        ros.tester.create_client(kind, name) for kind, name in ((ResetScene, "gazebo/reset"), (Trigger, "gazebo/home"))
    )
    words = ros.listen(String, "instruction", qos.LATCHED)
    assert not asked(ros, home, Trigger.Request()).success, "no joint states yet"
    world = Gazebo(ros)
    world.tick()
    assert "start pose" in asked(ros, lay, ResetScene.Request(task="banana", seed=7)).message
    world.home()
    assert "banana" in asked(ros, lay, ResetScene.Request(task="pear", seed=7)).message
    assert "looks" in asked(ros, lay, ResetScene.Request(task="banana", seed=7, looks=True)).message
    assert not laid
    answer = asked(ros, lay, ResetScene.Request(task="banana", seed=7))
    assert answer.success and laid == [7]
    ros.until(lambda: words[-1].data == answer.instruction, "the instruction")
    assert asked(ros, home, Trigger.Request()).success
    assert "start pose" in asked(ros, lay, ResetScene.Request(task="banana", seed=8)).message, "not before it rests"


def asked(ros: Graph, client: object, request: object) -> object:
    """The answer of a service."""
    ros.until(client.service_is_ready, "the service")
    future = client.call_async(request)
    ros.until(future.done, "the answer")
    return future.result()


def test_an_unknown_release_is_refused(ros: Graph) -> None:
    with pytest.raises(ConfigError, match="kilted"):
        ros.start(GazeboNode, controller="noetic")
    with pytest.raises(SimulationError, match="harmonic"):
        ros.start(GazeboNode, server="classic")
