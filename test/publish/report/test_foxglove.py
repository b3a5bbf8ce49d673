"""The Foxglove layout is what the code builds, and everything it names exists: topics, fields, services."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from rosbags.interfaces import Nodetype

from ecovla_ros import config
from ecovla_ros.bags.kinds import Kinds
from ecovla_ros.publish.report import foxglove

LAYOUT = json.loads(config.shipped(foxglove.FILE).read_text(encoding="utf-8"))
PATH_KEYS = ("value", "imageTopic", "topicToRender", "topicPath")


def named(part: Any, keys: tuple[str, ...]) -> Iterator[str]:
    """Every string under one of these keys, anywhere."""
    for key, value in part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else ():
        if key in keys and isinstance(value, str):
            yield value
        else:
            yield from named(value, keys)


def field_exists(kinds: Kinds, path: str) -> str:
    """Why a message path leads nowhere; empty when it leads to a number, a word or a picture."""
    topic = next(
        (t for t in sorted(foxglove.TOPICS, key=len, reverse=True) if path == t or path.startswith(t + ".")), None
    )
    if topic is None:
        return f"{path}: no such topic"
    kind, steps = foxglove.TOPICS[topic], re.findall(r"[A-Za-z_]\w*|\[[^\]]*\]|\{[^}]*\}", path[len(topic) :])
    node: tuple[Nodetype, Any] = (Nodetype.NAME, kind)
    for step in steps:
        if step.startswith("["):
            if node[0] not in (Nodetype.SEQUENCE, Nodetype.ARRAY):
                return f"{path}: {step} of what is no list"
            node = node[1][0]
            continue
        key = re.match(r"\{(\w+)==", step)
        name = key.group(1) if key else step
        kinds.learn(node[1])
        fields = dict(kinds.store.fielddefs[node[1]][1]) if node[0] == Nodetype.NAME else {}
        if name not in fields:
            return f"{path}: {node[1]} has no field {name}; it has {', '.join(fields)}"
        node = node if key else fields[name]
    return ""


def test_every_path_leads_to_a_field() -> None:
    kinds = Kinds()
    paths = [p for p in named(LAYOUT, PATH_KEYS) if p.startswith("/")]
    assert len(paths) > 25 and {p.partition(".")[0] for p in paths} == set(foxglove.TOPICS)
    assert [why for path in paths if (why := field_exists(kinds, path))] == []
    for wrong in ("/latency.act_msec", "/latencies.act_ms", "/latency[0]", '/status.values[:]{kee=="state"}.value'):
        assert field_exists(kinds, wrong), wrong


def test_the_shipped_layout_is_what_the_code_builds() -> None:
    pytest.importorskip("foxglove.layouts")
    assert foxglove.build() == config.shipped(foxglove.FILE).read_text(encoding="utf-8")


def test_fields_are_scalars_that_plotjuggler_plots() -> None:
    """Latency and pruning hold the header and plain numbers, flags and words: no list, no nested message, no JSON."""
    kinds = Kinds()
    for kind in ("ecovla_ros/msg/LatencyReport", "ecovla_ros/msg/PruningState"):
        kinds.learn(kind)
        fields = kinds.store.fielddefs[kind][1]
        assert [name for name, (node, _) in fields if node != Nodetype.BASE] == ["header"]
        assert sum(detail[0] != "string" for _, (_, detail) in fields) >= 8


def test_the_nodes_publish_and_serve_it() -> None:
    pytest.importorskip("rclpy")
    pytest.importorskip("ecovla_ros.msg")
    from lifecycle_msgs.msg import Transition
    from lifecycle_msgs.srv import ChangeState
    from support.graph import FakeEngine, graph

    from ecovla_ros.nodes.guard import GuardNode
    from ecovla_ros.nodes.policy import PolicyNode
    from ecovla_ros.nodes.sim import SimNode

    with graph() as ros:
        ros.start(lambda **options: PolicyNode(lambda config: FakeEngine(), **options))
        ros.start(GuardNode)
        ros.start(SimNode, overrides=["sim.width=32", "sim.height=32"])
        transition = Transition(id=Transition.TRANSITION_CONFIGURE)
        assert ros.call(ChangeState, "policy/change_state", ChangeState.Request(transition=transition)).success
        topics = {name: kinds for name, kinds in ros.tester.get_topic_names_and_types()}
        services = dict(ros.tester.get_service_names_and_types())
    for topic, kind in foxglove.TOPICS.items():
        assert topics.get(topic) == [kind], topic
    for service in (*named(LAYOUT, ("serviceName",)), *foxglove.SERVICES):
        assert services.get(service) == [foxglove.SERVICES[service][0]], service
