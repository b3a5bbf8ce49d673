"""Node `demonstrator`: chunks in the policy's place, of what Gazebo tells."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("ecovla_ros.msg")

from geometry_msgs.msg import PoseStamped
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from support.graph import Graph, graph

from ecovla_ros import wire
from ecovla_ros.nodes.demonstrator import DemonstratorNode
from ecovla_ros.nodes.ros import qos
from ecovla_ros.nodes.ros.interfaces import ActionChunk
from ecovla_ros.sim import gazebo
from ecovla_ros.sim.mirror import THINGS
from ecovla_ros.sim.tasks import TASKS
from ecovla_ros.sim.world import World


@pytest.fixture
def ros() -> Iterator[Graph]:
    with graph() as made:
        yield made


def test_it_answers_joint_states_when_it_knows_the_task_and_the_scene(ros: Graph) -> None:
    ros.start(DemonstratorNode)
    world = World()
    world.reset("banana", 60_001)
    chunks = ros.listen(ActionChunk, "action_chunk", qos.COMMAND)
    words = ros.matched(ros.tester.create_publisher(String, "instruction", qos.LATCHED))
    states = ros.matched(ros.tester.create_publisher(JointState, "joint_states", qos.COMMAND))
    poses = {
        name: ros.matched(ros.tester.create_publisher(PoseStamped, gazebo.pose_topic(name), qos.COMMAND))
        for name in THINGS
    }

    def tell() -> None:
        for name, topic in poses.items():
            msg, body = PoseStamped(), world.body(name)
            at, turn = world.data.xpos[body], world.data.xquat[body]
            msg.pose.position.x, msg.pose.position.y, msg.pose.position.z = (float(v) for v in at)
            order = ("w", "x", "y", "z")
            for axis, value in zip(order, turn):
                setattr(msg.pose.orientation, axis, float(value))
            topic.publish(msg)

    def state() -> None:
        world.now_ns += 100_000_000
        states.publish(wire.fill_joint_state(JointState(), world.arm_state(), world.now_ns))
        ros.spin(0.1)

    words.publish(String(data="juggle"))
    tell()
    ros.spin(0.2)
    state()
    assert not chunks, "no such task"
    words.publish(String(data=TASKS["banana"].instruction))
    ros.spin(0.2)
    state()
    assert not chunks, "what was told was of another scene"
    tell()
    ros.spin(0.2)
    states.publish(JointState(name=["joint_1"], position=[0.0]))
    state()
    ros.until(lambda: chunks, "a chunk")
    assert wire.stamp_ns(chunks[-1].header.stamp) == world.now_ns and chunks[-1].horizon == 16
