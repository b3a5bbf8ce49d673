"""What can still be read of a damaged bag file: from its start to where the damage begins, in the order of the file."""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import apsw
from mcap.exceptions import McapError
from mcap.records import Channel, DataEnd, Message, Schema
from mcap.stream_reader import StreamReader
from zstandard import ZstdError

BROKEN = (McapError, ZstdError, struct.error, OSError, ValueError, RuntimeError, EOFError, MemoryError, OverflowError)
"""What mcap's stream reader raises where a file is damaged."""


class Raw(NamedTuple):
    """One message of a bag, undecoded."""

    topic: str
    kind: str
    """Message type, e.g. "std_msgs/msg/String"."""
    time_ns: int
    """When it was recorded, ns of the recorder's clock."""
    data: bytes
    """CDR."""


class Remains:
    """The readable part of one file (.mcap or .db3). `why` says what is wrong once `raw` has come to the damage."""

    def __init__(self, path: Path) -> None:
        self.path, self.why = path, ""
        self.topics: dict[str, str] = {}
        """Topic -> message type."""
        self.definitions: dict[str, str] = {}
        """Message type -> text of its .msg definition."""
        self._sqlite = path.suffix == ".db3"
        for _ in self.raw(()):  # no topic wanted: reads what there is to know
            pass

    def raw(self, wanted: Collection[str]) -> Iterator[Raw]:
        """Messages of the wanted topics, until the damage."""
        return self._from_sqlite(wanted) if self._sqlite else self._from_mcap(wanted)

    def _from_mcap(self, wanted: Collection[str]) -> Iterator[Raw]:
        schemas: dict[int, Schema] = {}
        channels: dict[int, tuple[str, str]] = {}
        try:
            with self.path.open("rb") as file:
                for record in StreamReader(file, validate_crcs=True).records:
                    if isinstance(record, Schema):
                        schemas[record.id] = record
                        if record.encoding == "ros2msg":
                            self.definitions[record.name] = record.data.decode()
                    elif isinstance(record, Channel) and record.schema_id in schemas:
                        channels[record.id] = record.topic, schemas[record.schema_id].name
                        self.topics[record.topic] = schemas[record.schema_id].name
                    elif isinstance(record, Message) and channels.get(record.channel_id, ("",))[0] in wanted:
                        yield Raw(*channels[record.channel_id], record.log_time, record.data)
                    elif isinstance(record, DataEnd):
                        self.why = "its index is damaged"
                        return
        except BROKEN as error:
            self.why = f"it ends or breaks in the middle of a record ({error or type(error).__name__})"

    def _from_sqlite(self, wanted: Collection[str]) -> Iterator[Raw]:
        try:
            flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
            with closing(apsw.Connection(f"file:{self.path}?immutable=1", flags=flags)) as base:
                base.execute("PRAGMA writable_schema=ON")  # makes sqlite read a file that is shorter than it should be
                kinds = {i: (name, kind) for i, name, kind in base.execute("SELECT id, name, type FROM topics")}
                self.topics.update(kinds.values())
                if not wanted:
                    return
                for i, time_ns, data in base.execute("SELECT topic_id, timestamp, data FROM messages NOT INDEXED"):
                    if kinds[i][0] in wanted:
                        yield Raw(*kinds[i], time_ns, data)
        except (apsw.Error, KeyError, TypeError, ValueError) as error:
            self.why = f"its pages are damaged ({error})"
