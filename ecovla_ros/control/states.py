"""The guard's states and what leads from one to another: the whole table. What is not in it does not happen."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass


class State(str, enum.Enum):
    """States of the guard."""

    DISARMED = "DISARMED"
    """Silent. Left by enable."""
    ARMED = "ARMED"
    """Enabled; the velocity limit ramps up with the first motion."""
    RUNNING = "RUNNING"
    """Chunks move the arm."""
    DEGRADED = "DEGRADED"
    """Chunks move the arm, slower: they come late."""
    HOLD = "HOLD"
    """At rest because an input is missing; goes on by itself when it is back."""
    HELD = "HELD"
    """At rest because somebody asked for it, or because the arm may be another one now; goes on by enable."""
    LATCHED = "LATCHED"
    """At rest: what must not happen has happened. Left by reset, then enable."""


class Cause(enum.Enum):
    """What can change the state of the guard."""

    ENABLE = enum.auto()
    DISABLE = enum.auto()
    ASK = enum.auto()
    """Hold was called, or what only a person can judge has happened."""
    MISS = enum.auto()
    """An input is missing, or the last chunk has ended."""
    RAMP = enum.auto()
    """A chunk was accepted during the first motion."""
    RUN = enum.auto()
    """A chunk was accepted."""
    SLOW = enum.auto()
    """A chunk was accepted that came late."""
    LATCH = enum.auto()
    RESET = enum.auto()


def _moving() -> Mapping[Cause, State]:
    return {
        Cause.DISABLE: State.DISARMED, Cause.ASK: State.HELD, Cause.MISS: State.HOLD, Cause.LATCH: State.LATCHED,
        Cause.RAMP: State.ARMED, Cause.RUN: State.RUNNING, Cause.SLOW: State.DEGRADED,
    }  # fmt: skip


@dataclass(frozen=True)
class Rule:
    """What one state means."""

    to: Mapping[Cause, State]
    """What happened -> the state after it. What is not here changes nothing."""
    listens: bool = False
    """Chunks are taken; the first that is accepted moves the arm."""
    watched: bool = False
    """Joint states and chunks must come, and the arm be where it is commanded."""
    moves: bool = False
    """Chunks may be moving the arm now."""


TABLE: Mapping[State, Rule] = {
    State.DISARMED: Rule({Cause.ENABLE: State.ARMED, Cause.DISABLE: State.DISARMED, Cause.LATCH: State.LATCHED}),
    State.ARMED: Rule(_moving(), listens=True, watched=True, moves=True),
    State.RUNNING: Rule(_moving(), listens=True, watched=True, moves=True),
    State.DEGRADED: Rule(_moving(), listens=True, watched=True, moves=True),
    State.HOLD: Rule({**_moving(), Cause.ENABLE: State.ARMED}, listens=True, watched=True),
    State.HELD: Rule(
        {
            Cause.ENABLE: State.ARMED, Cause.DISABLE: State.DISARMED, Cause.ASK: State.HELD,
            Cause.LATCH: State.LATCHED,
        },
        watched=True,
    ),
    State.LATCHED: Rule({Cause.RESET: State.DISARMED}),
}  # fmt: skip
