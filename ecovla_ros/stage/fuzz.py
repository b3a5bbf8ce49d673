"""`ecovla fuzz` sends hostile messages to the real nodes, and counts what ends, grows or falls silent.

Each subscribed topic of guard and policy gets broken messages from the very publisher that it trusts, since what others
send is not even read; between batches the same publisher sends a good message, which must be answered. Requests of
their services, and what the middleware tells itself about nodes, are sent as bytes below ROS (`stage/bare`). The e-stop
is pressed while its topic and the joint states are flooded. Nothing here is simulated but the arm, which stands still.
"""

from __future__ import annotations

import importlib
import itertools
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rclpy.serialization import serialize_message
from rmw_dds_common.msg import Gid, NodeEntitiesInfo, ParticipantEntitiesInfo

from ecovla_ros.nodes.ros import controller_state
from ecovla_ros.stage import bare, hostile
from ecovla_ros.stage.fuzz_guard import GuardRange
from ecovla_ros.stage.fuzz_policy import PolicyRange
from ecovla_ros.stage.fuzz_range import MEMORY_MB, Row, Target

BATCH = 500
"""Hostile messages between two good ones."""
PACE = {
    "joint_states": (8, 0.011), "action_chunk": (20, 0.045), "estop": (50, 0.011), "arm_fault": (20, 0.011),
    "enable_lease": (10, 0.011), "controller_state": (1, 0.011), "/clock": (1, 0.0015), "third_person": (1, 0.0015),
    "instruction": (1, 0.0015), "policy joint_states": (128, 0.0), "ros_discovery_info": (20, 0.005),
    "services": (4, 0.02), "parameters": (7, 1.0),
}  # fmt: skip
"""Topic -> messages at once, and the pause behind them, s: as many as the node keeps until it looks, so that most are
read; faster, and they would only push each other out."""
SLOW = {"parameters": 50}
"""Topic -> it gets the messages divided by this: services that every node has are looked at once a second."""
WARM = 0.1
"""Share of the messages after which memory is first read."""
OF_EVERY_NODE = ("_parameters", "_parameter_types", "_parameters_atomically", "get_type_description")
"""Endings of the services that every node has."""
TO_THE_END = (5, 6, 7)
"""Transitions that end the life of a node, as anybody may ask who may call its services: not sent, as the campaign
would end with it."""
Shot = tuple[Any, Callable[[], bytes]]
"""A publisher of bytes, and what gives a sound message to be broken."""


@dataclass
class Tally:
    """What became of one topic's messages."""

    sent: int = 0
    ends: int = 0
    good: int = 0
    answered: int = 0
    slowest_s: float = 0.0
    kinds: Counter[str] = field(default_factory=Counter)


def shoot(range_: Target, shots: Sequence[Shot], good: Callable[[], bool], pace: tuple[int, float], messages: int,
          rng: np.random.Generator) -> Row:  # fmt: skip
    """`messages` broken ones, and a good one after every `BATCH`, or after each burst where a frame takes one."""
    tally, before_mb, began_s = Tally(), 0.0, time.monotonic()
    burst, pause_s = pace
    batch = BATCH if pause_s else burst
    while tally.sent < messages:
        loaded = itertools.cycle([(publisher, sound()) for publisher, sound in shots])
        for publisher, raw in itertools.islice(loaded, min(batch, messages - tally.sent)):
            how, hostile_ = hostile.broken(rng, raw)
            tally.kinds[how] += 1
            tally.sent += 1
            try:
                publisher.publish(hostile_)
            except RuntimeError:  # longer than the middleware lets out for a type of fixed size
                publisher.publish(hostile_[:8])
            if tally.sent % burst == 0:
                range_.spin()
                time.sleep(pause_s)
        asked_s = time.monotonic()
        tally.good += 1
        tally.answered += good()
        tally.slowest_s = max(tally.slowest_s, time.monotonic() - asked_s)
        if not range_.alive:
            tally.ends += 1
            break
        if not before_mb and tally.sent >= WARM * messages:
            before_mb = range_.memory_mb()
    grown = range_.memory_mb() - before_mb if range_.alive else float("nan")
    return {
        "sent": tally.sent, "unreadable": range_.unreadable, "ends": tally.ends,
        "good": tally.good, "answered": tally.answered,
        "slowest_s": round(tally.slowest_s, 2), "memory_mb": round(grown, 1),
        "seconds": round(time.monotonic() - began_s),
        "kinds": dict(tally.kinds),
        "reached": tally.ends == 0 and tally.answered == tally.good and grown <= MEMORY_MB,
    }  # fmt: skip


def guard(topic: str, messages: int, out: Path, seed: int) -> Row:
    """Hostile messages on one topic of the guard, or at its "services", its "parameters", or the middleware in it."""
    simulated, rng = topic == "/clock", np.random.default_rng([seed, 1])
    lease: dict[str, Any] = {"enable_lease_s": 60.0} if topic == "enable_lease" else {}
    with GuardRange(out, use_sim_time=simulated, **lease) as range_:
        answer = range_.good_by_clock if simulated else range_.good
        row = shoot(range_, aimed(range_, topic), answer, PACE[topic], messages // SLOW.get(topic, 1), rng)
    return {"node": "guard", "topic": topic, **row}


def policy(topic: str, messages: int, out: Path, seed: int) -> Row:
    """As `guard`, for the policy; `third_person/compressed` for compressed pictures."""
    compressed, rng = topic.endswith("/compressed"), np.random.default_rng([seed, 2])
    name = topic.removesuffix("/compressed")
    with PolicyRange(out, compressed) as range_:
        for _ in range(20):
            range_.good()
        answer = range_.good_again if name == "services" else range_.good
        pace = PACE["policy joint_states" if name == "joint_states" else name]
        row = shoot(range_, aimed(range_, name), answer, pace, messages // SLOW.get(name, 1), rng)
    return {"node": "policy", "topic": topic, **row}


def aimed(range_: Target, topic: str) -> list[Shot]:
    """What is shot at for a topic of the campaign."""
    if topic == bare.DISCOVERY:
        publisher = bare.BareTopic(range_.node, ParticipantEntitiesInfo, topic, bare.TRANSIENT_LOCAL)
        publisher.matched(2)  # this process reads it too
        return [(publisher, lambda: serialize_message(_participant()))]
    if topic not in ("services", "parameters"):
        return [(range_.publishers[topic], lambda: serialize_message(range_.sound(topic)))]
    made: list[Shot] = []
    for service, kind in range_.services().items():
        if service.endswith(OF_EVERY_NODE) == (topic == "parameters"):
            request = _imported(kind).Request
            publisher = bare.BareTopic(range_.node, request, bare.requests(service))
            publisher.matched()
            gun = _Spares(publisher) if service.endswith("/change_state") else publisher
            made.append((gun, lambda request=request: serialize_message(filled(request()))))  # type: ignore[misc]
    return made


class _Spares:
    """A publisher of requests for a transition that sends none which ends the node."""

    def __init__(self, publisher: Any) -> None:
        self._publisher = publisher

    def publish(self, raw: bytes) -> None:
        at = hostile.HEAD
        self._publisher.publish(raw[:at] + b"\0" + raw[at + 1 :] if raw[at : at + 1] in map(_byte, TO_THE_END) else raw)


def _byte(value: int) -> bytes:
    return bytes([value])


def _participant() -> ParticipantEntitiesInfo:
    """What the middleware of a process tells of its nodes."""
    node = NodeEntitiesInfo(node_namespace="/", node_name="somebody", reader_gid_seq=[Gid()], writer_gid_seq=[Gid()])
    return ParticipantEntitiesInfo(node_entities_info_seq=[node])


def _imported(kind: str) -> Any:
    """The class of a type as the graph names it: package/srv/Name."""
    package, part, name = kind.split("/")
    return getattr(importlib.import_module(f"{package}.{part}"), name)


def filled(message: Any) -> Any:
    """A message with something in its texts and lists, so that there is something to break."""
    for name, kind in message.get_fields_and_field_types().items():
        if kind == "string":
            setattr(message, name, "joint_1")
        elif kind == "sequence<string>":
            setattr(message, name, ["joint_1", "joint_2"])
        elif kind.startswith("sequence<") and "/" in kind:
            package, _, inner = kind[len("sequence<") : -1].partition("/")
            setattr(message, name, [filled(getattr(importlib.import_module(f"{package}.msg"), inner)())])
        elif "/" in kind and "<" not in kind and "[" not in kind:
            filled(getattr(message, name))
    return message


GUARD_TOPICS: tuple[str, ...] = (
    "joint_states", "action_chunk", "estop", "arm_fault", "enable_lease", "/clock",
    *([] if controller_state.KIND is None else [controller_state.NAME]), "services", "parameters", bare.DISCOVERY,
)  # fmt: skip
"""`controller_state` where its message is installed."""
POLICY_TOPICS = (
    "third_person", "third_person/compressed", "joint_states", "instruction", "services", "parameters", bare.DISCOVERY,
)  # fmt: skip
