"""What is said over the websocket: a message of a client in, the answer out. No sockets here, and no threads.

vla-eval: typed messages, an action for every observation. openpi: an observation in, a chunk out, text where something
was wrong. Every action and chunk says which session it belongs to and the stamp of the observation that it answers, so
that a client can see that no answer was lost or swapped.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ecovla_ros.errors import EcovlaError, short
from ecovla_ros.serve.codec import pack, unpack
from ecovla_ros.serve.lerobot.pickled import timed_actions
from ecovla_ros.serve.session import Session
from ecovla_ros.types import FrameReport

log = logging.getLogger(__name__)

VERSION = 1
"""Of vla-eval's protocol."""
MOST_TEXT = 500
"""Characters of an answer that says what is wrong, at most."""
NAMES = ("vla-eval", "openpi", "lerobot")


@dataclass(frozen=True)
class Reply:
    """An answer as it goes over the wire, and what is told about it on the way."""

    data: bytes | str
    report: FrameReport | None = None
    """Of the frame that was computed for it; None where none was."""
    error: str = ""
    """The kind of error that it tells; empty: none."""


@dataclass(frozen=True)
class LeRobotRequest:
    """An observation of a LeRobot client, and what its answer needs to know."""

    message: Mapping[str, Any]
    """As `session.LEROBOT` names things."""
    module: str
    """Where the client has lerobot's message classes."""
    began_s: float
    """When the observation was made, s since 1970 by the client's clock."""
    step: int
    order: tuple[int, ...]
    """Columns of the actions in the order of the client's; empty: all as they are."""
    actions: int
    """Actions that it wants at most."""


def greeting(protocol: str, asks: Mapping[str, Any]) -> bytes | None:
    """What a client is sent before it asks: openpi's metadata; None in vla-eval's protocol, where the client begins."""
    return pack(dict(asks), "openpi") if protocol == "openpi" else None


def reply(session: Session, protocol: str, asks: Mapping[str, Any], data: Any) -> Reply:
    """Answer one message; whatever it raises is told to its sender. Belongs to the inference thread."""
    session.report = None
    if protocol == "lerobot":
        return _lerobot(session, data)
    return _openpi(session, data) if protocol == "openpi" else _vla_eval(session, asks, data)


def refusal(protocol: str, data: Any, error: Exception) -> Reply:
    """The answer to a message that no session could be asked: an error, in the words of the protocol."""
    if protocol == "openpi":
        return Reply(_told(error), error=type(error).__name__)
    try:
        number = _envelope(unpack(data))[2]
    except EcovlaError:
        number = 0
    return Reply(_typed("error", {"error": _told(error)}, number), error=type(error).__name__)


def _openpi(session: Session, data: Any) -> Reply:
    """An observation in, a chunk out; text tells what was wrong."""
    began = time.monotonic()
    try:
        chunk = session.answer(unpack(data))
    except Exception as error:  # whatever a message raises, its sender is told, and the next is answered
        return Reply(_told(error), session.report, type(error).__name__)
    if chunk is None:
        return Reply(pack({"reset": True}, "openpi"))
    timing = {"infer_ms": (time.monotonic() - began) * 1e3}
    answer = {"actions": chunk, "server_timing": timing, **session.origin()}
    return Reply(pack(answer, "openpi"), session.report)


def _lerobot(session: Session, request: LeRobotRequest) -> Reply:
    """An observation in, a pickled list of actions with times out; text tells what was wrong."""
    try:
        rows = session.chunk(request.message)[: request.actions]
        if request.order:
            rows = rows[:, list(request.order)]
        period_s = session.engine.policy.spec.period_s
        data = timed_actions(request.module, request.began_s, request.step, period_s, rows)
    except Exception as error:  # whatever a message raises, its sender is told, and the next is answered
        return Reply(_told(error), session.report, type(error).__name__)
    return Reply(data, session.report)


def _vla_eval(session: Session, asks: Mapping[str, Any], data: Any) -> Reply:
    """Typed messages; an observation is answered with one action, whatever is wrong with an error."""
    number = 0
    try:
        kind, payload, number = _envelope(unpack(data))
        if kind == "hello":
            told = {"harness_version": "", "protocol_version": VERSION, "model_server": "ecovla_ros",
                    "capabilities": {}, "observation_params": dict(asks)}  # fmt: skip
            return Reply(_typed("hello", told, number))
        if kind == "observation":
            action = {"actions": session.action(payload), **session.origin()}
            return Reply(_typed("action", action, number), session.report)
        if kind in ("episode_start", "episode_end"):
            session.start()
            return Reply(b"")
        told = {"error": f"a message of type '{kind}'; valid: hello, episode_start, observation, episode_end"}
        return Reply(_typed("error", told, number), error="ObservationError")
    except Exception as error:  # whatever a message raises, its sender is told, and the next is answered
        return Reply(_typed("error", {"error": _told(error)}, number), session.report, type(error).__name__)


def _envelope(message: Any) -> tuple[str, Any, int]:
    """Type, payload and number of a message of vla-eval."""
    if not isinstance(message, Mapping):
        return short(type(message).__name__), None, 0
    number = message.get("seq", 0)
    return short(message.get("type"), 40), message.get("payload"), number if isinstance(number, int) else 0


def _told(error: Exception) -> str:
    """What a client is told. What nobody expected is logged with its place."""
    if not isinstance(error, (EcovlaError, RuntimeError, MemoryError)):  # torch raises RuntimeError
        log.error("a message broke the session", exc_info=error)
    return f"{type(error).__name__}: {short(error, MOST_TEXT)}"


def _typed(kind: str, payload: Mapping[str, Any], number: int) -> bytes:
    message = {"type": kind, "payload": dict(payload), "seq": number, "timestamp": time.time()}
    return pack(message, "vla-eval")
