"""Who drives the arm: among the readers of the command topic the controller is known by its kind, not by its reading.

Anybody may read along (a recorder, the guard itself, which looks for intruders); only a controller moves an arm.
"""

from __future__ import annotations

from collections.abc import Iterator

from rclpy.node import Node

from ecovla_ros.stage.topics import FAULT, OK, WARNING, ExpectedTopic, Finding

STATE = "control_msgs/msg/JointTrajectoryControllerState"
"""Published by ros2_control's joint_trajectory_controller."""
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
        return "joint_trajectory_controller"
    if any(SCENE in kinds for _, kinds in served):
        return "the simulator"
    if any(topic.rpartition("/")[2] == FAULTS for topic, _ in written):
        return "node kortex"
    return ""


def findings(node: Node, name: str, topic: ExpectedTopic) -> Iterator[Finding]:
    """Exactly one controller reads the command topic, whose full name is `name`, and hears what is sent."""
    found, others = {}, []
    for end in node.get_subscriptions_info_by_topic(name):
        try:
            what = kind(node, end.node_name, end.node_namespace)
        except RuntimeError:  # it is gone
            continue
        if what:
            found[f"{end.node_name} ({what})"] = end
        else:
            others.append(end.node_name)
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
