"""What a node shows of its configuration: `ros2 param dump` is the whole truth, and what cannot change says so."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("ecovla_ros.msg")

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.srv import DescribeParameters, GetParameters, SetParameters
from rclpy.parameter import Parameter
from support.graph import FakeEngine, Graph, graph

from ecovla_ros.control import limits
from ecovla_ros.errors import ConfigError
from ecovla_ros.nodes.guard import GuardNode
from ecovla_ros.nodes.policy import PolicyNode
from ecovla_ros.nodes.ros.polling import OncePerSecond
from ecovla_ros.nodes.sim import SimNode


@pytest.fixture
def ros() -> Iterator[Graph]:
    with graph() as made:
        yield made


def value_of(ros: Graph, node: str, name: str) -> object:
    (answer,) = ros.call(GetParameters, f"{node}/get_parameters", GetParameters.Request(names=[name])).values
    kinds = {1: "bool_value", 2: "integer_value", 3: "double_value", 4: "string_value", 8: "double_array_value"}
    return getattr(answer, kinds[answer.type])


def asks(ros: Graph, node: str, name: str, value: object) -> tuple[bool, str]:
    request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
    (result,) = ros.call(SetParameters, f"{node}/set_parameters", request).results
    return result.successful, result.reason


def test_the_guard_tells_profile_limits_and_file_describes_them_and_refuses_every_change(ros: Graph) -> None:
    node = ros.start(GuardNode, config="gen3.yaml", **{"control.rate_hz": 50.0})
    seldom, seconds = OncePerSecond(), itertools.count(step=0.5)
    ros.tester.create_timer(0.02, lambda: seldom.turn(node, next(seconds)))  # as `drive` does, fifty times as fast
    assert value_of(ros, "guard", "config") == "gen3.yaml"
    assert value_of(ros, "guard", "control.profile") == "gentle"
    assert list(value_of(ros, "guard", "limits.velocity")) == limits.load("gentle").velocity.tolist()
    assert value_of(ros, "guard", "control.rate_hz") == 50.0 and node._period_s == 0.02, "a parameter is over the file"
    for name, value in (
        ("config", "mini_sim.yaml"), ("overrides", ["control.profile=fast"]), ("control.profile", "fast"),
        ("limits.tool_speed", 1.0), ("gripper", "none"), ("enable_lease_s", 0.0), ("use_sim_time", True),
    ):  # fmt: skip
        successful, reason = asks(ros, "guard", name, value)
        assert not successful and name in reason
    names = sorted(node._parameters)
    told = ros.call(DescribeParameters, "guard/describe_parameters", DescribeParameters.Request(names=names))
    ours = [
        about for about in told.descriptors if about.name.split(".")[0] in ("config", "control", "limits", "gripper")
    ]
    assert len(ours) > 20 and all(about.description and about.read_only for about in ours)


def test_a_parameter_that_is_none_or_does_not_fit_ends_the_start(ros: Graph) -> None:
    for name, value, says in (
        ("control.rate_hz", 5.0, "10.0"), ("control.profile", "quick", "gentle"), ("control.rate_hz", "fast", "rate"),
        ("limits.velocity", [9.0] * 7, "leave it out"), ("enable_lease_s", 0.01, "0.2"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=says):
            GuardNode(parameter_overrides=[Parameter(name, value=value)])


def test_the_simulator_does_not_answer_successful_to_what_has_no_effect(ros: Graph) -> None:
    ros.start(SimNode, overrides=["sim.width=32", "sim.height=32"])
    assert value_of(ros, "sim", "sim.width") == 32
    for name, value in (("overrides", ["sim.width=64"]), ("sim.width", 64), ("use_sim_time", True)):
        assert not asks(ros, "sim", name, value)[0]


def test_the_file_of_a_policy_changes_only_while_it_is_not_configured(ros: Graph) -> None:
    ros.start(lambda **options: PolicyNode(engine=lambda config: FakeEngine(), **options), **{"prune.ratio": 0.5})

    def change(transition: int) -> bool:
        request = ChangeState.Request(transition=Transition(id=transition))
        return bool(ros.call(ChangeState, "policy/change_state", request).success)

    assert asks(ros, "policy", "overrides", ["prune.method=dense"])[0]
    assert change(Transition.TRANSITION_CONFIGURE)
    assert (value_of(ros, "policy", "prune.method"), value_of(ros, "policy", "prune.ratio")) == ("dense", 0.5)
    successful, reason = asks(ros, "policy", "overrides", ["prune.method=every"])
    assert not successful and "clean up first" in reason
    assert not asks(ros, "policy", "prune.ratio", 0.1)[0], "told once, at the start"
    assert change(Transition.TRANSITION_CLEANUP)
    assert asks(ros, "policy", "overrides", ["prune.method=every"])[0]
    assert change(Transition.TRANSITION_CONFIGURE)
    assert (value_of(ros, "policy", "prune.method"), value_of(ros, "policy", "prune.ratio")) == ("every", 0.5)
