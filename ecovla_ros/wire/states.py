"""The arm's state out of everything that is said on `joint_states`: by the arm, its gripper, and whoever else.

ROS merges joints on one topic: a mobile base, a pan-tilt, a second arm publish there too, and arm and gripper may come
in messages of their own. What names none of our joints is passed over; what names some is put together by name.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecovla_ros.errors import ObservationError, short
from ecovla_ros.types import GEN3, ArmJoints, ArmState, Floats
from ecovla_ros.wire.arm import checked_lengths, checked_names, places, state_of
from ecovla_ros.wire.fields import NS, raw_stamp_ns, stamp_ns
from ecovla_ros.wire.joint_names import advice
from ecovla_ros.wire.pairing import REWIND_NS, History

LAYOUTS = 32
"""Kinds of messages (frame and names) that are told apart; what comes with more is read message by message."""
_LITTLE = b"\x00\x01\x00\x00"
_STAMPED = 12
"""Where what follows the stamp begins, bytes."""


@dataclass
class _Layout:
    """One tuple of names, as a publisher sends it every time."""

    names: tuple[str, ...]
    columns: Floats
    """Which of `ArmJoints.wanted` it holds; empty for somebody else's message."""
    places: Floats
    """Where in the message these stand."""
    history: History


@dataclass(frozen=True)
class _Head:
    """Where the numbers stand in a serialized message that begins with these bytes behind its stamp."""

    layout: _Layout
    count: int
    positions: int

    @property
    def behind(self) -> int:
        return self.positions + 8 * self.count

    def numbers(self, raw: bytes) -> tuple[Floats, Floats] | None:
        """Positions and velocities of all its joints; None where their number is not what it was."""
        if len(raw) < self.behind + 4:
            return None
        told = struct.unpack_from("<I", raw, self.behind)[0]
        at = self.behind + 4 + -self.behind % 8
        if told not in (0, self.count) or (told and len(raw) < at + 8 * told):
            return None
        position = np.frombuffer(raw, "<f8", self.count, self.positions)
        return position, np.frombuffer(raw, "<f8", told, at) if told else np.zeros(self.count)


@dataclass
class JointStates:
    """Takes messages, serialized (CDR), and gives whole states. Not thread-safe.

    A driver sends the same frame and names every time, and so the numbers stand at the same place: where they do, no
    message is made of the bytes.
    """

    deserialize: Callable[[bytes], Any]
    joints: ArmJoints = GEN3
    part_age_s: float = 1.0
    """Joints of several messages that lie further apart are not of one time, s."""
    length: int = 512
    """Messages of one kind that are kept."""
    passed_over: int = 0
    """Messages that named none of our joints."""
    _heads: dict[bytes, _Head] = field(default_factory=dict)
    _layouts: dict[tuple[str, ...], _Layout] = field(default_factory=dict)
    _newest_ns: int | None = None
    _fresh: bool = False

    @property
    def others(self) -> list[str]:
        """Joints of messages that were passed over."""
        return sorted({name for layout in self._layouts.values() if not layout.columns.size for name in layout.names})

    def put(self, raw: bytes, admit: Callable[[Collection[int]], str] = lambda columns: "") -> None:
        """Keep a message. Raises ObservationError for one with our joints that is malformed, or that `admit` refuses:
        it gets their places in `joints.wanted` and says what is wrong, or nothing."""
        found = self._known(raw)
        if found is None:
            found = self._learn(raw)
        layout, ns, kept = found
        if not layout.columns.size:
            self.passed_over += 1
            return
        if wrong := admit(layout.columns.tolist()):
            raise ObservationError(wrong)
        if self._newest_ns is not None and ns < self._newest_ns - REWIND_NS:
            self._forget()
        self._newest_ns = ns if self._newest_ns is None else max(self._newest_ns, ns)
        layout.history.put(kept, ns)
        self._fresh = self._fresh or bool(layout.columns[0] < len(self.joints.arm))

    def newest(self, finite: bool = True) -> ArmState | None:
        """The state of now, stamped with the oldest of the arm's joints; None unless one of these came since the last
        call. Raises ObservationError: joints missing, a gripper heard too long ago, not finite."""
        if not self._fresh:
            if self._layouts and not self._own():
                raise ObservationError(self._lacks(list(self.joints.wanted)))
            return None
        self._fresh = False
        parts = [(layout, *layout.history.last) for layout in self._own() if layout.history.last is not None]
        return self._together(sorted(parts, key=lambda part: -part[1]), None, finite)

    def nearest(self, stamp_ns: int, finite: bool = True) -> ArmState:
        """The state of a time, stamped as that of the arm's joints which lies furthest from it. Raises
        ObservationError as `newest`, and where nothing came yet."""
        parts = [(layout, *found) for layout in self._own() if (found := layout.history.found(stamp_ns)) is not None]
        return self._together(sorted(parts, key=lambda part: abs(part[1] - stamp_ns)), stamp_ns, finite)

    def _own(self) -> list[_Layout]:
        return [layout for layout in self._layouts.values() if layout.columns.size]

    def _forget(self) -> None:
        """The clock jumped back: no stamp can be compared any more."""
        self._newest_ns = None
        for layout in self._own():
            layout.history.clear()

    def _together(self, parts: list[tuple[_Layout, int, Any]], near_ns: int | None, finite: bool) -> ArmState:
        """One state of parts, the preferred first."""
        wanted = self.joints.wanted
        position, velocity, stamps = np.zeros(len(wanted)), np.zeros(len(wanted)), np.zeros(len(wanted), np.int64)
        open_ = np.ones(len(wanted), bool)
        for layout, ns, kept in parts:
            new = open_[layout.columns]
            if not new.any():
                continue
            columns, at = layout.columns[new], layout.places[new]
            positions, velocities = kept if isinstance(kept, tuple) else self._numbers(kept)
            position[columns], velocity[columns], stamps[columns] = positions[at], velocities[at], ns
            open_[columns] = False
        if open_.any():
            raise ObservationError(self._lacks([name for name, left in zip(wanted, open_) if left]))
        arm = stamps[: len(self.joints.arm)]
        ns = int(arm.min() if near_ns is None else arm[np.abs(arm - near_ns).argmax()])
        self._check_apart(stamps, parts[0][1])
        return state_of(ns, position, velocity, self.joints, finite)

    def _check_apart(self, stamps: NDArray[np.int64], ns: int) -> None:
        """Raises ObservationError for a joint that is not of the same time as the preferred part."""
        far = int(np.abs(stamps - ns).argmax())
        apart_s, name = abs(int(stamps[far]) - ns) / NS, self.joints.wanted[far]
        if apart_s > self.part_age_s:
            without = ", or arm.gripper_joint=none without a gripper" if name == self.joints.gripper else ""
            raise ObservationError(
                f"{name} on joint_states is {apart_s:.3f} s away from the other joints; valid: up to "
                f"{self.part_age_s:.3f} s (arm.part_age_s){without}"
            )

    def _lacks(self, missing: list[str]) -> str:
        if not self._layouts:
            return "no message on joint_states yet; valid: sensor_msgs/JointState with the arm's joints"
        held = list(dict.fromkeys(name for layout in self._layouts.values() for name in layout.names))
        told = short(", ".join(held[:20])) + (f" and {len(held) - 20} more" if len(held) > 20 else "")
        return f"joint_states lacks {', '.join(missing)}; it holds: {told or 'no joint'}{advice(held, self.joints)}"

    def _numbers(self, raw: bytes) -> tuple[Floats, Floats]:
        head = self._head(raw)
        found = None if head is None else head.numbers(raw)
        assert found is not None, "what is kept as bytes was read before"
        return found

    def _head(self, raw: bytes) -> _Head | None:
        if raw[:4] != _LITTLE:
            return None
        return next((known for head, known in self._heads.items() if raw.startswith(head, _STAMPED)), None)

    def _known(self, raw: bytes) -> tuple[_Layout, int, Any] | None:
        head = self._head(raw)
        if head is None or (head.layout.columns.size and head.numbers(raw) is None):
            return None
        return head.layout, raw_stamp_ns(raw), raw

    def _learn(self, raw: bytes) -> tuple[_Layout, int, Any]:
        """A message of another kind, or a malformed one."""
        msg = self.deserialize(raw)
        checked_names(msg)
        names = tuple(msg.name)
        layout = self._layouts.get(names) or self._layout(names)
        ns, count = stamp_ns(msg.header.stamp), len(names)
        if not layout.columns.size:
            self._remember(raw, msg, layout)
            return layout, ns, None
        checked_lengths(msg)
        kept = (
            np.array(msg.position, float),
            np.array(msg.velocity, float) if len(msg.velocity) else np.zeros(count),
        )
        self._remember(raw, msg, layout)
        return layout, ns, kept

    def _layout(self, names: tuple[str, ...]) -> _Layout:
        columns, at = places(names, self.joints.wanted)
        made = _Layout(names, columns, at, History(self.length))
        if len(self._layouts) >= LAYOUTS:  # somebody invents names: others' are forgotten before ours
            old = next((n for n, known in self._layouts.items() if not known.columns.size), next(iter(self._layouts)))
            del self._layouts[old]
            self._heads = {head: known for head, known in self._heads.items() if known.layout.names != old}
        self._layouts[names] = made
        return made

    def _remember(self, raw: bytes, msg: Any, layout: _Layout) -> None:
        if raw[:4] != _LITTLE or len(self._heads) >= LAYOUTS:
            return
        at = _STAMPED
        for text in (msg.header.frame_id, None, *msg.name):  # None: the number of names
            at += -at % 4 + 4 + (0 if text is None else len(text.encode()) + 1)
        at += -at % 4  # the number of positions
        positions = at + 4 + -at % 8  # eight bytes from the end of the 4 that name the encoding
        self._heads[bytes(raw[_STAMPED : at + 4])] = _Head(layout, len(msg.position), positions)
