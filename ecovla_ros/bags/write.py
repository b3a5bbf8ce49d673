"""Writes a rosbag2 (MCAP) from serialised messages, without the C++ recorder.

Definitions of foreign messages are read from the .msg files of the ROS 2 prefixes at hand (AMENT_PREFIX_PATH).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import TracebackType

from rosbags.interfaces import (
    Connection,
    Nodetype,
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import StoragePlugin, Writer, WriterError
from rosbags.typesys import Stores, TypesysError, get_types_from_msg, get_typestore

from ecovla_ros.errors import BagError

_SOURCE = Path(__file__).resolve().parents[2]
_FOREVER = QosTime(2147483647, 4294967295)


class BagWriter:
    """One bag, open from construction until `close`. Not thread-safe: one owner calls it."""

    def __init__(self, path: str | Path) -> None:
        """Create the bag's folder. Raises BagError when it exists or cannot be made."""
        self.path = Path(path)
        self._types = get_typestore(Stores.ROS2_KILTED)
        self._connections: dict[str, Connection] = {}
        self.counts: dict[str, int] = {}
        """Topic -> messages written."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = Writer(self.path, version=9, storage_plugin=StoragePlugin.MCAP)
            self._writer.open()
        except (OSError, WriterError) as error:
            raise BagError(
                f"cannot record to '{self.path}': {error}; valid: a folder that does not exist yet"
            ) from error

    def add(self, topic: str, kind: str, latched: bool = False, reliable: bool = True) -> None:
        """Announce a topic of message type `kind`, e.g. "std_msgs/msg/String". Raises BagError for an unknown type."""
        self._learn(kind)
        try:
            self._connections[topic] = self._writer.add_connection(
                topic, kind, typestore=self._types, offered_qos_profiles=[_profile(latched, reliable)]
            )
        except (WriterError, TypesysError) as error:
            raise BagError(f"topic {topic} ({kind}) cannot be recorded: {error}") from error
        self.counts[topic] = 0

    def write(self, topic: str, time_ns: int, raw: bytes) -> None:
        """Append one CDR message of an announced topic."""
        self._writer.write(self._connections[topic], time_ns, raw)
        self.counts[topic] += 1

    def close(self) -> None:
        """Write index and metadata: from now on the bag can be read. May be called twice."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def __enter__(self) -> BagWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _learn(self, kind: str) -> None:
        """Register `kind` and what it is made of, where the store does not know them."""
        if kind in self._types.fielddefs:
            return
        try:
            found = get_types_from_msg(definition(kind), kind)
        except TypesysError as error:
            raise BagError(f"the definition of {kind} cannot be read: {error}") from error
        for _, fields in found.values():
            for _, (node, detail) in fields:
                inner = detail if node == Nodetype.NAME else detail[0]
                if node in (Nodetype.ARRAY, Nodetype.SEQUENCE):
                    node, inner = inner
                if node == Nodetype.NAME and inner not in found:
                    self._learn(inner)
        self._types.register(found)


def definition(kind: str) -> str:
    """Text of the .msg file of a type. Raises BagError, saying where it was looked for."""
    package, _, name = kind.replace("/msg/", "/").partition("/")
    prefixes = [p for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    folders = [_SOURCE] if package == "ecovla_ros" else []
    folders += [Path(p) / "share" / package for p in (*prefixes, sys.prefix)]
    for folder in folders:
        file = folder / "msg" / f"{name}.msg"
        if file.is_file():
            return file.read_text(encoding="utf-8")
    raise BagError(f"no definition of {kind}; looked in {', '.join(map(str, folders))}")


def _profile(latched: bool, reliable: bool) -> Qos:
    return Qos(
        QosHistory.KEEP_LAST,
        1 if latched else 10,
        QosReliability.RELIABLE if reliable else QosReliability.BEST_EFFORT,
        QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE,
        _FOREVER,
        _FOREVER,
        QosLiveliness.AUTOMATIC,
        _FOREVER,
        False,
    )
