"""The arm has one owner: chunks from one node, commands from nobody but this one, and no second guard."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy

from ecovla_ros.errors import ControlError
from ecovla_ros.nodes.ros.intake import LOOK_S, NOBODY, PublisherNames, peers, sender
from ecovla_ros.nodes.ros.polling import NeverWakes

OVERHEARD = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
"""Any publisher's commands, whatever its quality of service."""
CLAIM_S = 1.0
"""Another guard has this long to be discovered before a new one takes the arm, s."""


class Source:
    """The one publisher that a topic is taken from: of the node that was told, or the first that is heard."""

    def __init__(self, node: Any, topic: str, told: str, silence_s: float, alone: bool = False) -> None:
        """`told`: name of the node, with its namespace; empty: the first. Another publisher of a node of the same name
        takes the place of one that said nothing for `silence_s`: a node that was started anew.

        `alone`: where rclpy does not say who sent a message, nothing is taken while anybody else publishes.
        """
        self._topic, self._told, self._silence_s, self._alone = topic, told, silence_s, alone
        self._crowd, self._looked_s = "", -LOOK_S
        self._node, self._names = node, PublisherNames(node, topic)
        self._gid: bytes | None = None
        self._name, self._heard_s = "", 0.0
        self.refused = 0
        """Messages of others that were not taken."""
        self.stranger = ""
        """Whom the last refused message was from."""

    @property
    def name(self) -> str:
        """The node it takes messages from; empty when it has heard none."""
        return self._name

    def admit(self, gid: bytes, now_s: float) -> str:
        """Empty for a message of the owner; else what is wrong. `now_s`: of a steady clock."""
        if gid == self._gid:
            self._heard_s = now_s
            return ""
        if gid == NOBODY:
            return self._unnamed(now_s)
        name = self._names.of(gid)
        if self._told and name != self._told:
            return self._refuse(name, f"taken from {self._told} only (parameter chunks_from)")
        silent = now_s - self._heard_s > self._silence_s
        if self._gid is None or (silent and (name == self._name or not self._living())):
            self._gid, self._name, self._heard_s = gid, name, now_s
            return ""
        return self._refuse(name, f"taken from {self._name}, which came first")

    def release(self) -> None:
        """Nobody owns the topic: the next one heard does. For while the arm is disarmed."""
        self._gid, self._name = None, ""

    def several(self) -> str:
        """Why it cannot be told who should be taken: several nodes publish, and none was named. Empty when it can."""
        names = sorted(peer.name or "somebody" for peer in peers(self._node, self._topic))
        if self._told or len(names) < 2:
            return ""
        return f"{len(names)} publishers on {self._topic}: {', '.join(names)}; end all but one, or set chunks_from"

    def _unnamed(self, now_s: float) -> str:
        """Empty where only the owner can have sent it: it is the only publisher."""
        if self._alone and now_s - self._looked_s >= LOOK_S:
            self._looked_s = now_s
            names = sorted(peer.name or "somebody" for peer in peers(self._node, self._topic))
            others = [name for name in names if name != self._told]
            self._crowd = ", ".join(others) if len(others) > (not self._told) else ""
            self._name = names[0] if len(names) == 1 else self._name
        if self._crowd:
            return self._refuse(self._crowd, "not told apart from the owner by this release of rclpy")
        self._heard_s = now_s
        return ""

    def _living(self) -> bool:
        return any(peer.gid == self._gid for peer in peers(self._node, self._topic))

    def _refuse(self, name: str, why: str) -> str:
        self.refused += 1
        self.stranger = name
        return f"{self._topic}: {name} publishes too, and is not heard: it is {why}"


class Commands:
    """The topics that this node commands: who else could write to them, and who did."""

    def __init__(self, node: Any, topics: Sequence[tuple[Any, str]]) -> None:
        """`topics`: message type and name of each; the first moves the arm, and is overheard. Create it before the
        publishers, and call `own` behind them.
        """
        self._node, self._topics = node, [topic for _, topic in topics]
        self._names = PublisherNames(node, self._topics[0])
        self._before = self._publishers()
        self._own: set[bytes] = set()
        self._kind, topic = topics[0]
        self._overheard = node.create_subscription(
            self._kind, topic, lambda _raw: None, OVERHEARD, callback_group=NeverWakes(), raw=True
        )

    def own(self) -> None:
        """The publishers that came since this was made are this node's. Raises ControlError where others came too."""
        came = [after - before for after, before in zip(self._publishers(), self._before)]
        if any(len(gids) > 1 for gids in came):
            raise ControlError("somebody else began to command the arm while this guard started; valid: one guard")
        self._own = set().union(*came)

    def _publishers(self) -> list[set[bytes]]:
        return [{peer.gid for peer in peers(self._node, topic)} for topic in self._topics]

    def others(self) -> list[str]:
        """Who else publishes: "/node to /topic"."""
        return [
            f"{peer.name or 'somebody'} to {self._node.resolve_topic_name(topic)}"
            for topic in self._topics
            for peer in peers(self._node, topic)
            if peer.gid not in self._own
        ]

    def by_action(self) -> list[str]:
        """Nodes that can command the same controller by its action, whose goals nobody else can see."""
        place = self._node.resolve_topic_name(self._topics[0]).rpartition("/")[0]
        goal, found = f"{place}/follow_joint_trajectory/_action/send_goal", []
        for name, namespace in self._node.get_node_names_and_namespaces():
            try:
                asked = self._node.get_client_names_and_types_by_node(name, namespace)
            except RuntimeError:  # it has just gone
                continue
            if any(service == goal for service, _ in asked):
                found.append(f"{namespace.rstrip('/')}/{name}")
        return found

    def intruder(self) -> str:
        """Who else has commanded the arm since the last look; empty when nobody did."""
        who, unnamed = "", False
        with self._overheard.handle:
            for _ in range(OVERHEARD.depth):
                taken = self._overheard.handle.take_message(self._kind, True)
                if taken is None:
                    break
                gid = sender(taken[1])
                unnamed = unnamed or gid == NOBODY
                if gid not in self._own and gid != NOBODY:
                    who = self._names.of(gid)
        if unnamed and not who:  # it may be this guard's own; with somebody else there, nobody knows
            who = ", ".join(other.partition(" to ")[0] for other in self.others())
        topic = self._node.resolve_topic_name(self._topics[0])
        return f"{who} commands the arm by {topic}, beside this guard" if who else ""

    def claim(self, spin: Callable[[float], None], seconds: float = CLAIM_S) -> None:
        """Take the arm. `spin` lets the graph be discovered. Raises ControlError where another guard has it."""
        end = time.monotonic() + seconds
        while (left_s := end - time.monotonic()) > 0.0:
            spin(left_s)
            for topic in self._topics:
                for peer in peers(self._node, topic):
                    if peer.gid not in self._own and is_guard(self._node, peer.name):
                        raise ControlError(
                            f"{peer.name} is a guard on {self._node.resolve_topic_name(topic)} already; valid: one "
                            "guard for one controller: end that one first"
                        )


def is_guard(node: Any, name: str) -> bool:
    """Whether the node of this full name offers what only a guard does."""
    namespace, _, short = name.rpartition("/")
    if not short:
        return False
    try:
        offered = dict(node.get_service_names_and_types_by_node(short, namespace or "/"))
    except (RuntimeError, ValueError):  # it has just gone, or is not known by name yet
        return False
    return f"{name}/enable" in offered and f"{name}/forget" in offered
