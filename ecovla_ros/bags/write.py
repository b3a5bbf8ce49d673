"""Writes a rosbag2 (MCAP or sqlite3) from serialised messages, without the C++ recorder.

Definitions of foreign messages are read from the .msg files of the ROS 2 prefixes at hand (AMENT_PREFIX_PATH).
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

from rosbags.interfaces import (
    Connection,
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer, WriterError
from rosbags.typesys import TypesysError

from ecovla_ros.bags.kinds import Kinds
from ecovla_ros.errors import BagError, unknown

STORAGES = {"mcap": StoragePlugin.MCAP, "sqlite3": StoragePlugin.SQLITE3}
_FOREVER = QosTime(2147483647, 4294967295)


class BagWriter:
    """One bag, open from construction until `close`. Not thread-safe: one owner calls it."""

    def __init__(self, path: str | Path, storage: str = "mcap", compressed: bool = False) -> None:
        """Create the bag's folder. `storage`: mcap or sqlite3. Raises BagError when it exists or cannot be made."""
        if storage not in STORAGES:
            raise BagError(unknown("storage", storage, STORAGES))
        self.path = Path(path)
        self.kinds = Kinds()
        self._closed = False
        self._connections: dict[str, Connection] = {}
        self.counts: dict[str, int] = {}
        """Topic -> messages written."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = Writer(self.path, version=9, storage_plugin=STORAGES[storage])
            if compressed:
                mode = CompressionMode.STORAGE if storage == "mcap" else CompressionMode.MESSAGE
                self._writer.set_compression(mode, CompressionFormat.ZSTD)
            self._writer.open()
        except (OSError, WriterError) as error:
            raise BagError(
                f"cannot record to '{self.path}': {error}; valid: a folder that does not exist yet"
            ) from error

    def add(self, topic: str, kind: str, latched: bool = False, reliable: bool = True) -> None:
        """Announce a topic of message type `kind`, e.g. "std_msgs/msg/String". Raises BagError for an unknown type."""
        self.kinds.learn(kind)
        try:
            self._connections[topic] = self._writer.add_connection(
                topic, kind, typestore=self.kinds.store, offered_qos_profiles=[_profile(latched, reliable)]
            )
        except (WriterError, TypesysError) as error:
            raise BagError(f"topic {topic} ({kind}) cannot be recorded: {error}") from error
        self.counts[topic] = 0

    def write(self, topic: str, time_ns: int, raw: bytes) -> None:
        """Append one CDR message of an announced topic."""
        self._writer.write(self._connections[topic], time_ns, raw)
        self.counts[topic] += 1

    def put(self, topic: str, time_ns: int, message: Any) -> None:
        """Append one message of an announced topic."""
        self.write(topic, time_ns, self.kinds.encode(self._connections[topic].msgtype, message))

    def close(self) -> None:
        """Write index and metadata: from now on the bag can be read. May be called twice."""
        if not self._closed:
            self._writer.close()
            self._closed = True

    def __enter__(self) -> BagWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


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
