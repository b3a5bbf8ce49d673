"""A rosbag2 (MCAP or sqlite3) as messages in time order, without ROS."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from rosbags.highlevel import AnyReader, AnyReaderError
from rosbags.interfaces import Connection
from rosbags.rosbag2 import ReaderError
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, TypesysError, get_typestore

from ecovla_ros.errors import BagError, unknown


class Message(NamedTuple):
    """One message of a bag."""

    topic: str
    time_ns: int
    """When it was recorded, ns of the recorder's clock."""
    value: Any


def topics(path: str | Path) -> dict[str, str]:
    """Topic -> message type. Raises BagError."""
    with closing(_open(path)) as reader:
        return {c.topic: c.msgtype for c in reader.connections}


def messages(path: str | Path, wanted: Collection[str]) -> Iterator[Message]:
    """Messages of the `wanted` topics, in time order, one in memory at a time.

    What lies before a damaged part is yielded, then BagError tells how many messages were read. Raises BagError for a
    bag that cannot be opened, or that lacks a topic.
    """
    with closing(_open(path)) as reader:
        have = {c.topic for c in reader.connections}
        for topic in wanted:
            if topic not in have:
                raise BagError(f"'{path}': " + unknown("topic", topic, have))
        count = 0
        try:
            for connection, time_ns, raw in reader.messages([c for c in reader.connections if c.topic in wanted]):
                yield Message(connection.topic, time_ns, _decode(reader, connection, raw))
                count += 1
        except (ReaderError, AnyReaderError, SerdeError, OSError, ValueError, EOFError) as error:
            raise BagError(f"'{path}' is damaged after {count} messages: {error}") from error


def _decode(reader: AnyReader, connection: Connection, raw: bytes) -> Any:
    try:
        return reader.deserialize(raw, connection.msgtype)
    except (SerdeError, TypesysError, KeyError) as error:
        raise BagError(f"a message of {connection.topic} ({connection.msgtype}) cannot be read: {error}") from error


def _open(path: str | Path) -> AnyReader:
    """An opened reader. A folder with metadata.yaml, an MCAP file, or a db3 file."""
    path = Path(path)
    if not path.exists():
        raise BagError(f"no bag at '{path}'; valid: a rosbag2 folder, an .mcap or a .db3 file")
    reader = AnyReader([path], default_typestore=get_typestore(Stores.ROS2_KILTED))
    try:
        reader.open()
    except (ReaderError, AnyReaderError, OSError, ValueError, EOFError, AssertionError, KeyError) as error:
        raise BagError(f"'{path}' is not a bag that can be read: {error}") from error
    return reader
