"""Runs the guard over a bag: it ticks by the clock of the bag and gets its joint states and the answers of the policy.

Open loop: the recorded arm does not follow what is commanded here, so a guard that watches for that may latch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from ecovla_ros import wire
from ecovla_ros.bags.stamps import clock_offset
from ecovla_ros.bags.storage import Raw
from ecovla_ros.config import GEN3_ARM, ArmConfig, ControlConfig
from ecovla_ros.control import limits
from ecovla_ros.control.guard import Guard
from ecovla_ros.control.states import State
from ecovla_ros.control.status import GuardStatus
from ecovla_ros.errors import BagError, ObservationError
from ecovla_ros.types import ActionChunk, ControllerState, Trajectory


class News(NamedTuple):
    """What the guard sent, or a state it entered."""

    time_ns: int
    status: GuardStatus
    trajectory: Trajectory | None
    begin_ns: int = 0
    """When the trajectory begins, by the clock of the stamps."""


class Guarded:
    """A guard that is enabled once, as soon as it allows it. Times are ns of the recorder's clock."""

    def __init__(self, config: ControlConfig, arm: ArmConfig = GEN3_ARM) -> None:
        """Raises ConfigError for limits that cannot be read."""
        self._arm = arm
        self._states: wire.JointStates | None = None
        one_clock = dataclasses.replace(config, stamp_commands="always")
        self._guard = Guard(one_clock, limits.load(config.profile))
        self._period_ns = round(1e9 / config.rate_hz)
        self._next_ns: int | None = None
        self._enabled = False
        self._said: tuple[str, str, str] | None = None
        self._news: list[News] = []
        self._offset_ns: int | None = None
        self.state = State.DISARMED.value
        """Name of the state the guard is in."""

    def hear(self, raw: Raw, decode: Callable[[Raw], Any] | None) -> None:
        """Tick until this message was recorded, then hand it over if it is a joint state (`decode` given)."""
        self.until(raw.time_ns)
        if decode is None:
            return
        if self._states is None:
            self._states = wire.JointStates(
                lambda data: decode(raw._replace(data=data)), self._arm.joints, self._arm.part_age_s, 1
            )
        try:
            self._states.put(raw.data)
            state = self._states.newest(finite=False)
        except (ObservationError, BagError):
            return  # as in the node: the guard holds once the last good one is too old
        if state is None:
            return
        if self._offset_ns is None:
            self._offset_ns = clock_offset(state.stamp_ns, raw.time_ns)
        now_ns = raw.time_ns - self._offset_ns
        self._guard.on_joint_state(state, now_ns)
        if not self._enabled:  # the controller is taken to hold the arm where it was recorded to stand
            self._guard.on_controller_state(ControllerState(now_ns, state.joints, np.zeros(len(state.joints))), now_ns)

    def chunk(self, chunk: ActionChunk, time_ns: int, changed: bool = False) -> None:
        """A chunk that was ready at `time_ns`. `changed`: its frame saw another scene."""
        if changed:
            self._guard.on_scene_change(chunk.stamp_ns, self._now(time_ns))
        self._guard.on_chunk(chunk, self._now(time_ns))

    def until(self, time_ns: int) -> None:
        """Tick at the guard's rate up to this time."""
        if self._next_ns is None or time_ns < self._next_ns - 100 * self._period_ns:
            self._next_ns = time_ns
        while self._next_ns <= time_ns:
            self._tick(self._next_ns)
            self._next_ns += self._period_ns

    def news(self) -> Iterator[News]:
        """What happened since the last call."""
        news, self._news = self._news, []
        yield from news

    def _tick(self, time_ns: int) -> None:
        if not self._enabled and self._offset_ns is not None:
            self._enabled = self._guard.enable(True, self._now(time_ns))[0]
        command = self._guard.tick(self._now(time_ns))
        status = command.status
        self.state = status.state
        said = status.state, status.reason, status.refusal
        if command.trajectory is not None or said != self._said:
            self._news.append(News(time_ns, status, command.trajectory, command.begin_ns))
            self._said = said

    def _now(self, time_ns: int) -> int:
        """The clock of the stamps at a time of the recorder's."""
        return time_ns - (self._offset_ns or 0)
