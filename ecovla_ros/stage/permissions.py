"""Least privilege for SROS2: what each node publishes, hears, serves and calls, read off the nodes themselves.

    python -m ecovla_ros.stage.permissions config/sros2

starts every node as its launch file does and writes one policy file a launch: `ros2 security generate_artifacts -p`
makes keys and permissions of it. What stands there is what the node has asked the middleware for, and nothing else. A
test makes them anew and compares.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter

from ecovla_ros.bags import sample
from ecovla_ros.nodes.guard import GuardNode
from ecovla_ros.nodes.kortex import KortexNode
from ecovla_ros.nodes.metrics import MetricsNode
from ecovla_ros.nodes.policy import PolicyNode
from ecovla_ros.nodes.replay import ReplayNode
from ecovla_ros.nodes.ros.process import start_ros
from ecovla_ros.nodes.sim import SimNode
from ecovla_ros.types import CAMERAS

VERSION = "0.2.0"
"""Of the schema of SROS2's policies."""
CONTROLLER, GRIPPER = "joint_trajectory_controller", "robotiq_gripper_controller"
STATE = "controller_state"
"""What the guard hears where control_msgs is installed, as beside a real controller; the policies always have it."""
GUARD = {
    "joint_trajectory": f"{CONTROLLER}/joint_trajectory",
    "gripper_trajectory": f"{GRIPPER}/joint_trajectory",
    STATE: f"{CONTROLLER}/{STATE}",
}
PICTURES = {f"{name}/image": f"/camera/{name}/color/image_raw" for name in CAMERAS}
LAUNCHES: Mapping[str, Mapping[str, Mapping[str, str]]] = {
    "sim": {"sim": {}, "guard": GUARD, "policy": {}, "metrics": {}},
    "replay": {"replay": {}, "guard": {}, "policy": {}},
    "gen3": {
        "kortex": {},
        "guard": {old: f"/{new}" for old, new in GUARD.items()} | {"joint_states": "/joint_states"},
        "policy": PICTURES | {"joint_states": "/joint_states"},
        "metrics": {},
    },
}
"""Launch -> node -> its topics by another name. `record` and `launch` are added to each (`recorder`, `launcher`)."""
LAUNCH_NODE = "launch_ros_*"
"""The node of `ros2 launch` itself, through which it brings the policy up: its process id is a part of its name."""
WALL_TIME = ("gen3",)
"""Launches that follow no `/clock`; in the others guard and policy may."""
ACTION = "gripper_cmd"
GRIPPER_ACTION = {"gen3": f"/{GRIPPER}/{ACTION}"}
"""Launch -> the gripper's action, which the guard calls where its controller offers one."""
OF_OTHERS = {"gen3": ("/joint_states", *PICTURES.values(), "/instruction", "/estop")}
"""Launch -> topics of nodes that are not ours, which `record` hears too."""
STILL_S = 0.5
KINDS = ("publish", "subscribe", "reply", "request")
Interface = dict[str, set[str]]
"""One of `KINDS` -> full names of topics or services."""


def main(argv: Sequence[str] | None = None) -> int:
    """Write a policy file for every launch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--launch", choices=LAUNCHES, help="only this one's")
    options = parser.parse_args(argv)
    if options.launch is None:  # a process for each: the graph remembers nodes of a process as long as it lives
        for launch in LAUNCHES:
            subprocess.run([sys.executable, "-m", __spec__.name, str(options.folder), "--launch", launch], check=True)
        return 0
    options.folder.mkdir(parents=True, exist_ok=True)
    start_ros([])
    try:
        text = policy(options.launch, interfaces(options.launch))
    finally:
        rclpy.try_shutdown()
    (options.folder / f"{options.launch}.policy.xml").write_text(text, encoding="utf-8")
    return 0


def interfaces(launch: str) -> dict[str, Interface]:
    """Node -> what it asks the middleware for, as `launch` starts it. rclpy has been started."""
    found: dict[str, Interface] = {}
    with ExitStack() as stack, tempfile.TemporaryDirectory() as scratch:
        executor = SingleThreadedExecutor()
        stack.callback(executor.shutdown)
        for name, remappings in LAUNCHES[launch].items():
            arguments = ["--ros-args", *(part for old, new in remappings.items() for part in ("-r", f"{old}:={new}"))]
            follows = launch not in WALL_TIME and name in ("guard", "policy")
            parameters = [Parameter("use_sim_time", value=True)] * follows
            node = MAKERS[name](Path(scratch), parameters, cli_args=arguments)
            stack.callback(node.destroy_node)
            stack.callback(node.close)
            executor.add_node(node)
            if isinstance(node, PolicyNode):
                node.trigger_configure()
            found[name] = settled(node)
    state = LAUNCHES[launch]["guard"].get(STATE, STATE)
    found["guard"]["subscribe"].add(f"/{state.strip('/')}")
    if launch in GRIPPER_ACTION:
        found["guard"]["call"] = {GRIPPER_ACTION[launch]}
    said = (one[kind] for one in found.values() for kind in ("publish", "subscribe"))
    found["record"] = recorder(set().union(*said, OF_OTHERS.get(launch, ())), found["guard"])
    found["launch"] = launcher(found["guard"])
    return found


def settled(node: Any) -> Interface:
    """`interface`, once the middleware tells the same for `STILL_S`: what was asked for is known a little later."""
    end = time.monotonic() + 10.0 * STILL_S
    found, since = interface(node), time.monotonic()
    while time.monotonic() < end and (time.monotonic() - since < STILL_S or "/rosout" not in found["publish"]):
        time.sleep(0.05)
        again = interface(node)
        if again != found:
            found, since = again, time.monotonic()
    return found


def interface(node: Any) -> Interface:
    """What one node has asked the middleware for."""
    name, namespace = node.get_name(), node.get_namespace()
    asked = (
        node.get_publisher_names_and_types_by_node, node.get_subscriber_names_and_types_by_node,
        node.get_service_names_and_types_by_node, node.get_client_names_and_types_by_node,
    )  # fmt: skip
    return {
        kind: {topic for topic, _ in names(name, namespace) if f"/{ACTION}/_action/" not in topic}
        for kind, names in zip(KINDS, asked)
    }


def bare(name: str, example: Interface) -> Interface:
    """What a node has that does nothing yet; rclpy gives the same to each, so any other is an `example`."""
    common = {service for service in example["reply"] if "parameter" in service or "type" in service}
    services = {f"/{name}/{service.rpartition('/')[2]}" for service in common}
    publishes = {str(topic) for topic in example["publish"] if topic in ("/rosout", "/parameter_events")}
    return {"publish": publishes, "subscribe": set(), "reply": services, "request": set()}


def recorder(heard: set[str], example: Interface) -> Interface:
    """Node `record` hears what is said, by the nodes and to them (an e-stop is told by somebody else)."""
    return bare("record", example) | {"subscribe": heard}


def launcher(example: Interface) -> Interface:
    """The node of `ros2 launch` takes the policy from state to state, and hears of it."""
    asks = {"subscribe": {"/policy/transition_event"}, "request": {"/policy/change_state"}}
    return bare(LAUNCH_NODE, example) | asks


def policy(launch: str, nodes: Mapping[str, Interface]) -> str:
    """SROS2's policy of a launch: an enclave for each node, named as the node."""
    root = ElementTree.Element("policy", version=VERSION)
    root.append(ElementTree.Comment(f" {launch}: made by python -m ecovla_ros.stage.permissions; do not edit "))
    enclaves = ElementTree.SubElement(root, "enclaves")
    for name, asked in sorted(nodes.items()):
        enclave = ElementTree.SubElement(enclaves, "enclave", path=f"/{name}")
        profiles = ElementTree.SubElement(enclave, "profiles")
        profile = ElementTree.SubElement(profiles, "profile", ns="/", node="launch_ros" if name == "launch" else name)
        for kind, group, entry in (("call", "actions", "action"), ("reply", "services", "service"),
                                   ("request", "services", "service"), ("publish", "topics", "topic"),
                                   ("subscribe", "topics", "topic")):  # fmt: skip
            if asked.get(kind):
                place = ElementTree.SubElement(profile, group, {kind: "ALLOW"})
                for topic in sorted(asked[kind]):
                    ElementTree.SubElement(place, entry).text = topic
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _replay(scratch: Path, parameters: list[Parameter], **options: Any) -> ReplayNode:
    path = sample.write(scratch / "bag", sample.Sample(seconds=0.5, size=32, encoding="rgb8").events())
    return ReplayNode(parameter_overrides=[Parameter("bag", value=str(path)), *parameters], **options)


MAKERS: Mapping[str, Callable[..., Any]] = {
    "sim": lambda _scratch, parameters, **more: SimNode(parameter_overrides=parameters, **more),
    "guard": lambda _scratch, parameters, **more: GuardNode(parameter_overrides=parameters, **more),
    "policy": lambda _scratch, parameters, **more: PolicyNode(parameter_overrides=parameters, **more),
    "kortex": lambda _scratch, parameters, **more: KortexNode(
        parameter_overrides=[Parameter("python", value=sys.executable), *parameters], **more
    ),
    "replay": _replay,
    "metrics": lambda _scratch, parameters, **more: MetricsNode(
        parameter_overrides=[Parameter("port", value=0), *parameters], **more
    ),
}

if __name__ == "__main__":
    sys.exit(main())
