"""What the running nodes say of themselves by their parameters: the configuration they read, the topics they use."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rcl_interfaces.srv import GetParameters, ListParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import parameter_value_to_python

READY_S, ANSWER_S = 2.0, 10.0
"""A node has so long to be found, and to answer, s: both look at their parameter services once a second, and a policy
whose processors are busy takes its time."""


@dataclass(frozen=True)
class Running:
    """Parameters of guard and policy, as far as they answer."""

    guard: Mapping[str, Any] = field(default_factory=dict)
    policy: Mapping[str, Any] = field(default_factory=dict)
    silent: tuple[str, ...] = ()
    """Those that are there and did not answer: what they use is not known, only what they are by default."""

    @property
    def config(self) -> tuple[str, list[str]]:
        """Name of the configuration file and keys over it; an empty name when nobody answers."""
        told = self.guard or self.policy
        return str(told.get("config", "")), [text for text in told.get("overrides", ()) if text.strip()]

    @property
    def simulated_time(self) -> bool:
        """Whether they go by /clock, and so must whoever judges the age of what they read."""
        return bool((self.guard or self.policy).get("use_sim_time"))

    def topic(self, name: str) -> str:
        """The full name of one of our topics, as the node that uses it says; empty when it does not say it."""
        camera = name.partition("/")[0]
        return str(self.guard.get(f"topics.{name}") or self.policy.get(f"topics.{camera}") or "")


def ask(node: Node, executor: SingleThreadedExecutor) -> Running:
    """What guard and policy, in the namespace of `node`, say. Spins the executor."""
    told = {name: parameters(node, executor, name) for name in ("guard", "policy")}
    there = {(name, space) for name, space in node.get_node_names_and_namespaces()}
    silent = tuple(name for name, values in told.items() if not values and (name, node.get_namespace()) in there)
    return Running(told["guard"], told["policy"], silent)


def parameters(node: Node, executor: SingleThreadedExecutor, name: str, wanted: Sequence[str] = ()) -> dict[str, Any]:
    """The `wanted` parameters of another node, all without any; {} where it does not answer. Spins the executor."""
    names = list(wanted)
    if not names:
        listing = _call(node, executor, ListParameters, f"{name}/list_parameters", ListParameters.Request())
        names = list(listing.result.names) if listing is not None else []
    if not names:
        return {}
    values = _call(node, executor, GetParameters, f"{name}/get_parameters", GetParameters.Request(names=names))
    return {} if values is None else dict(zip(names, map(parameter_value_to_python, values.values), strict=False))


def _call(node: Node, executor: SingleThreadedExecutor, kind: Any, name: str, request: Any) -> Any:
    """The answer; None when nobody answers in time."""
    client: Any = node.create_client(kind, name)
    try:
        end = time.monotonic() + READY_S
        while not client.service_is_ready():
            if time.monotonic() > end:
                return None
            executor.spin_once(timeout_sec=0.05)
        future, end = client.call_async(request), time.monotonic() + ANSWER_S
        while not future.done() and time.monotonic() < end:
            executor.spin_once(timeout_sec=0.05)
        return future.result() if future.done() else None
    finally:
        node.destroy_client(client)
