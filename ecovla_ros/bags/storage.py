"""One storage file of a rosbag2, whole and with an index: what it holds, and its messages in time order.

MCAP is read with Foxglove's mcap, sqlite3 with apsw: channels that are none of ours (JSON, protobuf, a definition that
nobody can parse) are none of our business. What is torn goes to `salvage`.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

import apsw
import zstandard
from mcap.reader import SeekingReader
from mcap.summary import Summary

from ecovla_ros.bags.causes import ZSTD, kind_of

CDR = "cdr"
LARGEST = 1 << 30
"""A message that unpacks to more bytes is taken for damage."""
LARGEST_RECORD = 1 << 32
_LATCHED = re.compile(r"durability:\s*(1\b|transient_local)")
_NO_INDEX = "it has no index"


class Raw(NamedTuple):
    """One message of a bag, undecoded."""

    topic: str
    kind: str
    """Message type, e.g. "std_msgs/msg/String"."""
    time_ns: int
    """When it was recorded, ns of the recorder's clock."""
    data: bytes
    """CDR."""


class Unindexed(ValueError):
    """A file that has to be read from its start to know what it holds."""


@dataclass
class Contents:
    """What a file says it holds."""

    topics: dict[str, str] = field(default_factory=dict)
    """Topic -> message type."""
    foreign: dict[str, str] = field(default_factory=dict)
    """Topic -> encoding of its messages, where that is not CDR."""
    definitions: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Message type -> "msg" or "idl", and the text of its definition."""
    counts: dict[str, int] = field(default_factory=dict)
    latched: set[str] = field(default_factory=set)
    """Topics whose last message was offered to late joiners (transient local)."""
    span_ns: tuple[int, int] = (0, 0)
    """First and last time of the recorder's clock, ns; (0, 0): no message."""

    def add(self, topic: str, kind: str, encoding: str, qos: str, count: int) -> None:
        """One channel."""
        if encoding != CDR:
            self.foreign[topic] = encoding or "an unnamed encoding"
            return
        self.topics.setdefault(topic, kind)
        self.counts[topic] = self.counts.get(topic, 0) + count
        if _LATCHED.search(qos):
            self.latched.add(topic)

    def define(self, kind: str, encoding: str, text: str | bytes) -> None:
        """The definition of a type; others than ROS 2's are left out."""
        form = {"ros2msg": "msg", "ros2idl": "idl"}.get(encoding)
        if form and kind not in self.definitions:
            self.definitions[kind] = form, text if isinstance(text, str) else text.decode("utf-8", "replace")


class StorageFile(Protocol):
    """An opened file."""

    path: Path
    contents: Contents

    def raw(self, wanted: Collection[str], start_ns: int | None, stop_ns: int | None) -> Iterator[Raw]:
        """Messages of the wanted topics in time order, from `start_ns` and before `stop_ns`."""
        ...

    def close(self) -> None:
        """Close it. May be called twice."""
        ...


class McapFile:
    """An MCAP file with an index."""

    def __init__(self, path: Path) -> None:
        """Raises Unindexed, or what the library raises for damage."""
        self.path, self.contents = path, Contents()
        self._file = path.open("rb")
        try:
            self._reader = SeekingReader(self._file, validate_crcs=True, record_size_limit=LARGEST_RECORD)
            summary = self._reader.get_summary()
            if summary is None or not _indexed(summary):
                raise Unindexed(_NO_INDEX)
            statistics = summary.statistics
            counts = statistics.channel_message_counts if statistics is not None else {}
            for number, channel in summary.channels.items():
                schema = summary.schemas.get(channel.schema_id)
                kind = schema.name if schema is not None else ""
                qos = channel.metadata.get("offered_qos_profiles", "")
                self.contents.add(channel.topic, kind, channel.message_encoding, qos, counts.get(number, 0))
                if schema is not None and channel.message_encoding == CDR:
                    self.contents.define(schema.name, schema.encoding, schema.data)
            if statistics is not None and statistics.message_count:
                self.contents.span_ns = statistics.message_start_time, statistics.message_end_time
        except BaseException:
            self._file.close()
            raise

    def raw(self, wanted: Collection[str], start_ns: int | None, stop_ns: int | None) -> Iterator[Raw]:
        """As `StorageFile.raw`."""
        topics = [topic for topic in wanted if topic in self.contents.topics]
        if not topics:
            return
        found = self._reader.iter_messages(topics, starting_at=start_ns, ending_before=stop_ns)
        for schema, channel, message in found:
            if channel.message_encoding == CDR and schema is not None:
                yield Raw(channel.topic, schema.name, message.log_time, unpacked(message.data))

    def close(self) -> None:
        """As `StorageFile.close`."""
        self._file.close()


def _indexed(summary: Summary) -> bool:
    """Whether the summary names every channel, and where its messages lie."""
    if not summary.chunk_indexes:
        return summary.statistics is not None and summary.statistics.message_count == 0
    used = {number for chunk in summary.chunk_indexes for number in chunk.message_index_offsets}
    return bool(used) and used <= summary.channels.keys()


def address(path: Path) -> str:
    """The URI under which sqlite opens a file that nobody writes; ?, # and % in its name stay what they are."""
    return f"{path.absolute().as_uri()}?immutable=1"


class SqliteFile:
    """An sqlite3 file."""

    def __init__(self, path: Path) -> None:
        """Raises apsw.Error for damage."""
        self.path, self.contents = path, Contents()
        self._base = apsw.Connection(address(path), apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
        try:
            self._topics: dict[int, tuple[str, str]] = {}
            self._read()
        except BaseException:
            self._base.close()
            raise

    def _read(self) -> None:
        tables = {name for (name,) in self._base.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not {"topics", "messages"} <= tables:
            raise apsw.CorruptError(f"it has no tables topics and messages; it has: {', '.join(sorted(tables))}")
        columns = [row[1] for row in self._base.execute("PRAGMA table_info(topics)")]
        qos = "offered_qos_profiles" if "offered_qos_profiles" in columns else "''"
        counts = dict(self._base.execute("SELECT topic_id, COUNT(*) FROM messages GROUP BY topic_id"))
        query = f"SELECT id, name, type, serialization_format, {qos} FROM topics ORDER BY id"
        for number, topic, kind, encoding, profile in self._base.execute(query):
            self.contents.add(str(topic), str(kind), str(encoding), str(profile), counts.get(number, 0))
            if encoding == CDR:
                self._topics[number] = str(topic), str(kind)
        if "message_definitions" in tables:
            query = "SELECT topic_type, encoding, encoded_message_definition FROM message_definitions"
            for kind, encoding, text in self._base.execute(query):
                self.contents.define(str(kind), str(encoding), text if isinstance(text, (str, bytes)) else "")
        ((first, last),) = self._base.execute("SELECT MIN(timestamp), MAX(timestamp) FROM messages")
        self.contents.span_ns = (int(first), int(last)) if first is not None else (0, 0)

    def raw(self, wanted: Collection[str], start_ns: int | None, stop_ns: int | None) -> Iterator[Raw]:
        """As `StorageFile.raw`."""
        numbers = [number for number, (topic, _) in self._topics.items() if topic in wanted]
        if not numbers:
            return
        limits = [(">= ?", start_ns), ("< ?", stop_ns)]
        bounds = "".join(f" AND timestamp {text}" for text, value in limits if value is not None)
        query = f"SELECT topic_id, timestamp, data FROM messages WHERE topic_id IN ({', '.join('?' * len(numbers))})"
        values = [*numbers, *(value for _, value in limits if value is not None)]
        for number, time_ns, data in self._base.execute(f"{query}{bounds} ORDER BY timestamp", values):
            if isinstance(data, bytes) and isinstance(time_ns, int):
                yield Raw(*self._topics[number], time_ns, unpacked(data))

    def close(self) -> None:
        """As `StorageFile.close`."""
        self._base.close()


def opened(path: Path) -> StorageFile:
    """A file by what it holds, whatever it is called. Raises Unindexed, or what the libraries raise for damage."""
    return SqliteFile(path) if kind_of(path) == "sqlite" else McapFile(path)


def unpacked(data: bytes) -> bytes:
    """A message as it was before it was compressed by itself (rosbag2's mode "message"); others are CDR as they are."""
    if data[:4] != ZSTD:
        return data
    if zstandard.frame_content_size(data) > LARGEST:
        raise zstandard.ZstdError(f"a message unpacks to more than {LARGEST} bytes")
    return zstandard.ZstdDecompressor().decompress(data, max_output_size=LARGEST)


def on_disk(path: Path, stack: ExitStack) -> tuple[Path, str]:
    """The file to open, and what is wrong with it: unpacked, or with what its recorder had not yet written into it.

    Both are made in a temporary folder that lives as long as `stack`. Raises OSError where there is no room.
    """
    if kind_of(path) == "zstd":
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ecovla_bag_")))
        return _decompressed(path, folder / path.stem)
    beside = [p for suffix in ("-wal", "-journal") if (p := Path(f"{path}{suffix}")).is_file() and p.stat().st_size]
    if kind_of(path) != "sqlite" or not beside:
        return path, ""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ecovla_bag_")))
    for source in (path, *beside):
        shutil.copyfile(source, folder / source.name)
    copy = folder / path.name
    try:
        base = apsw.Connection(str(copy))  # takes in what lies beside it
        base.pragma("wal_checkpoint(TRUNCATE)")
        base.pragma("journal_mode", "DELETE")
        base.close()
    except apsw.Error as error:
        return path, f"what lies beside it ({', '.join(p.name for p in beside)}) cannot be taken in: {error}"
    return copy, ""


def _decompressed(path: Path, to: Path) -> tuple[Path, str]:
    try:
        with path.open("rb") as source, to.open("wb") as sink:
            zstandard.ZstdDecompressor().copy_stream(source, sink)
    except zstandard.ZstdError as error:
        return to, f"it does not unpack: {error}"
    return to, ""
