"""Who drives the arm: among the readers of the command topic the controller is known by its kind, not by its reading.

Anybody may read along (a recorder, the guard itself, which looks for intruders); only a controller moves an arm.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

from ecovla_ros.stage.running import parameters
from ecovla_ros.stage.topics import FAULT, OK, WARNING, ExpectedTopic, Finding

REAL = "joint_trajectory_controller"
"""ros2_control's."""
STATE = "control_msgs/msg/JointTrajectoryControllerState"
"""Published by it."""
SCENE = "ecovla_ros/srv/ResetScene"
"""Offered by our simulator."""
DECIDED = (("controller_clock", "its clock"), ("controller_turns", "its whole turns"), ("stamps", "commands stamped"))
FAULTS = "arm_fault"
"""Published by our node kortex."""


def kind(node: Node, name: str, namespace: str) -> str:
    """What a node is: a controller by the name of its kind, or empty for one that only reads."""
    written = node.get_publisher_names_and_types_by_node(name, namespace)
    served = node.get_service_names_and_types_by_node(name, namespace)
    if any(STATE in kinds for _, kinds in written):
        return REAL
    if any(SCENE in kinds for _, kinds in served):
        return "the simulator"
    if any(topic.rpartition("/")[2] == FAULTS for topic, _ in written):
        return "node kortex"
    return ""


def readers(node: Node, name: str) -> list[tuple[Any, str]]:
    """Who reads the topic, and what each is, see `kind`."""
    found = []
    for end in node.get_subscriptions_info_by_topic(name):
        try:
            found.append((end, kind(node, end.node_name, end.node_namespace)))
        except RuntimeError:  # it is gone
            continue
    return found


def clocks(node: Node, executor: SingleThreadedExecutor, name: str) -> dict[str, bool]:
    """Whether the real controllers that read the topic go by /clock, by their names, as far as they say it. Spins the
    executor.
    """
    found = {}
    for end, what in readers(node, name):
        if what == REAL:
            place = f"{end.node_namespace.rstrip('/')}/{end.node_name}"
            found[place] = parameters(node, executor, place, ["use_sim_time"]).get("use_sim_time")
    return {place: simulated for place, simulated in found.items() if simulated is not None}


def other_clocks(follows: Mapping[str, bool], simulated: bool) -> Iterator[Finding]:
    """Controllers that go by another clock than the guard, which stamps what they get. `follows`: see `clocks`."""
    names = {True: "/clock (use_sim_time true)", False: "the wall clock (use_sim_time false)"}
    for place, theirs in follows.items():
        if theirs != simulated:
            text = (
                f"it goes by {names[theirs]}, the guard by {names[simulated]}: it refuses what it is sent; valid: one "
                "clock, with gz_ros2_control use_sim_time among the parameters of the controller manager"
            )
            yield Finding(FAULT, place, text)


def findings(node: Node, name: str, topic: ExpectedTopic) -> Iterator[Finding]:
    """Exactly one controller reads the command topic, whose full name is `name`, and hears what is sent."""
    told = readers(node, name)
    found = {f"{end.node_name} ({what})": end for end, what in told if what}
    others = [end.node_name for end, what in told if not what]
    along = f"; {', '.join(sorted(set(others)))} only read along" if others else ""
    wrong = [end.topic_type for end in found.values() if end.topic_type != topic.type_name]
    deaf = [reason for end in found.values() if (reason := topic.deaf(end.qos_profile))]
    if not found:
        yield Finding(FAULT, name, f"no controller reads it: is joint_trajectory_controller active?{along}")
    elif len(found) > 1:
        yield Finding(FAULT, name, f"{len(found)} controllers read it: {', '.join(sorted(found))}; valid: one")
    elif wrong:
        yield Finding(FAULT, name, f"type {wrong[0]}; valid: {topic.type_name}")
    elif deaf:
        yield Finding(FAULT, name, f"quality of service does not match: {deaf[0]}")
    else:
        yield Finding(OK, name, f"{topic.type_name}, read by {next(iter(found))}{along}")


def guarded(values: dict[str, str]) -> Iterator[Finding]:
    """What the guard decided about the controller's clock, the turns of its joints, and stamps."""
    said = [f"{text}: {values[key]}" for key, text in DECIDED if key in values]
    level = OK if said and not values["controller_clock"].startswith("not known") else WARNING
    yield Finding(level, "guard: controller", "; ".join(said) or "it does not say what it knows of the controller")
