"""What can still be read of a damaged bag file: from its start to where the damage begins, in the order of the file."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Collection, Iterator
from contextlib import closing
from pathlib import Path

import apsw
from mcap.exceptions import McapError
from mcap.records import Channel, DataEnd, Footer, Message, Schema
from mcap.stream_reader import StreamReader
from zstandard import ZstdError

from ecovla_ros.bags import pages
from ecovla_ros.bags.causes import kind_of
from ecovla_ros.bags.storage import CDR, Contents, Raw, address, unpacked

BROKEN = (McapError, ZstdError, struct.error, OSError, ValueError, RuntimeError, EOFError, MemoryError, OverflowError)
"""What mcap's stream reader raises where a file is damaged."""


BEHIND_NS = 1_000_000_000
"""Without an index messages come in the order of the file, which may differ from that of time by so much, ns."""


class Remains:
    """The readable part of one file (MCAP or sqlite3), or a whole one without an index. `why` says what is wrong once
    `raw` has come to the damage; empty: nothing."""

    def __init__(self, path: Path) -> None:
        self.path, self.why, self.contents = path, "", Contents()
        self._sqlite = kind_of(path) == "sqlite"
        for _ in self.raw(()):  # no topic wanted: reads what there is to know
            pass

    def raw(self, wanted: Collection[str], start_ns: int | None = None, stop_ns: int | None = None) -> Iterator[Raw]:
        """Messages of the wanted topics, until the damage."""
        first, stop = 0 if start_ns is None else start_ns, float("inf") if stop_ns is None else stop_ns
        for raw in self._from_sqlite(wanted) if self._sqlite else self._from_mcap(wanted):
            if first <= raw.time_ns < stop:
                yield raw

    def close(self) -> None:
        """Nothing stays open."""

    def _from_mcap(self, wanted: Collection[str]) -> Iterator[Raw]:
        self.why, newest_ns = "it ends before its index", 0
        schemas: dict[int, Schema] = {}
        channels: dict[int, tuple[str, str]] = {}
        try:
            with self.path.open("rb") as file:
                for record in StreamReader(file, validate_crcs=True).records:
                    if isinstance(record, Schema):
                        schemas[record.id] = record
                    elif isinstance(record, Channel):
                        self._learn(record, schemas.get(record.schema_id), channels)
                    elif isinstance(record, Message):
                        newest_ns = max(newest_ns, record.log_time)
                        if record.log_time < newest_ns - BEHIND_NS:
                            self.why = "its messages are not in the order of time; mend it: mcap recover"
                            return
                        if channels.get(record.channel_id, ("",))[0] in wanted:
                            yield Raw(*channels[record.channel_id], record.log_time, unpacked(record.data))
                    elif isinstance(record, DataEnd):
                        self.why = "its index is damaged"
                    elif isinstance(record, Footer):
                        self.why = ""
        except BROKEN as error:
            broken = f"it ends or breaks in the middle of a record ({str(error) or type(error).__name__})"
            self.why = self.why if self.why == "its index is damaged" else broken

    def _learn(self, channel: Channel, schema: Schema | None, channels: dict[int, tuple[str, str]]) -> None:
        kind = schema.name if schema is not None else ""
        if channel.message_encoding == CDR and schema is not None:
            channels[channel.id] = channel.topic, kind
            self.contents.define(kind, schema.encoding, schema.data)
        qos = channel.metadata.get("offered_qos_profiles", "")
        self.contents.add(channel.topic, kind, channel.message_encoding, qos, 0)

    def _from_sqlite(self, wanted: Collection[str]) -> Iterator[Raw]:
        try:
            kinds = self._sqlite_topics()
            self.why = "pages of it are missing"
            if not wanted:
                return
            with (
                self.path.open("rb") as file,
                mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
                memoryview(data) as view,
            ):
                for _, (_, topic, time_ns, message) in pages.rows(view, columns=4):
                    if topic not in kinds or not isinstance(time_ns, int) or not isinstance(message, bytes):
                        continue  # a row of another table
                    if kinds[topic][0] in wanted:
                        yield Raw(*kinds[topic], time_ns, unpacked(message))
        except (apsw.Error, ZstdError, KeyError, TypeError, ValueError, OverflowError, MemoryError, OSError) as error:
            self.why = f"its pages are damaged ({error})"

    def _sqlite_topics(self) -> dict[object, tuple[str, str]]:
        vfs = _WholePages(self.path)
        flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
        with closing(apsw.Connection(address(self.path), flags=flags, vfs=vfs.vfs_name)) as base:
            found = base.execute("SELECT id, name, type FROM topics")
            kinds = {i: (n, kind) for i, n, kind in found if isinstance(n, str) and isinstance(kind, str)}
            self.contents.topics.update(kinds.values())
            return kinds


class _WholePages(apsw.VFS):
    """Lets sqlite open a file that is shorter than its header says, and fails when it asks for what is not there:
    sqlite itself would take missing pages for zeros."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            head = file.read(100)
        page = int.from_bytes(head[16:18], "big") or 1
        page = 65_536 if page == 1 else page
        self.said = page * int.from_bytes(head[28:32], "big")
        self.have = path.stat().st_size // page * page
        self.vfs_name = f"ecovla_{id(self)}"
        super().__init__(self.vfs_name, "")

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802  sqlite's name
        return _CutFile(self, name, flags)


class _CutFile(apsw.VFSFile):
    def __init__(self, vfs: _WholePages, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        self._vfs = vfs
        super().__init__("", name, flags)

    def xFileSize(self) -> int:  # noqa: N802
        return max(self._vfs.said, self._vfs.have)

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802
        if offset + amount > self._vfs.have:
            raise apsw.IOError(f"page at byte {offset} of {self._vfs.said} is missing")
        return super().xRead(amount, offset)
