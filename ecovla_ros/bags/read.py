"""A rosbag2 (MCAP or sqlite3, compressed or not) as messages in time order, without ROS.

A recording that was cut off or is damaged is read up to the damage, and then a BagError says so.
"""

from __future__ import annotations

import heapq
import struct
from collections.abc import Collection, Iterator
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import apsw
from backports.zstd import ZstdError
from rosbags.highlevel import AnyReader, AnyReaderError
from rosbags.interfaces import QosDurability
from rosbags.rosbag2 import ReaderError
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from ecovla_ros import documents
from ecovla_ros.bags.kinds import UNREADABLE, Kinds
from ecovla_ros.bags.salvage import Raw, Remains
from ecovla_ros.errors import BagError, unknown

BROKEN = (
    ZstdError, ReaderError, AnyReaderError, apsw.Error, struct.error, *UNREADABLE, OSError, EOFError, RuntimeError,
    MemoryError, OverflowError,
)  # fmt: skip
"""What rosbags and the libraries below it raise for a file that is no whole bag."""
ENDINGS = (".mcap", ".db3")
VALID = "a rosbag2 folder, an .mcap or a .db3 file"


class Message(NamedTuple):
    """One message of a bag."""

    topic: str
    time_ns: int
    """When it was recorded, ns of the recorder's clock."""
    value: Any


class Bag:
    """An opened bag; use it in a `with`. `damage` says what is wrong with it, empty for a whole one."""

    def __init__(self, path: str | Path) -> None:
        """Open. Raises BagError for what is not a bag, or a bag of which nothing can be read."""
        self.path, self.damage = Path(path), ""
        self._kinds = Kinds()
        self._own = get_typestore(Stores.EMPTY)  # types as a damaged bag defines them
        self._reader: AnyReader | None = None
        self._remains: list[Remains] = []
        if not self.path.exists():
            raise BagError(f"no bag at '{path}'; valid: {VALID}")
        self._open()

    def _open(self) -> None:
        files = _files(self.path)
        if self.path.is_dir() and not files and not (self.path / "metadata.yaml").is_file():
            raise BagError(f"'{self.path}' holds no {' and no '.join(ENDINGS)} file; valid: {VALID}")
        why = _metadata(self.path / "metadata.yaml")
        for paths in ([self.path], files)[bool(why) :]:
            try:
                self._reader = _reader(paths)
                break
            except BROKEN as error:
                why = why or _first_line(error)
        if self._reader is None:
            self._remains = [Remains(file) for file in files]
            found = [r.why for r in self._remains if r.why]
            self.damage = f"'{self.path}' is damaged: {found[0] if found else why}"
        self.topics = self._topics()
        """Topic -> message type."""
        if self._reader is None and not self.topics:
            raise BagError(f"'{self.path}' is not a bag that can be read: {why}; valid: {VALID}")

    def _topics(self) -> dict[str, str]:
        if self._reader is not None:
            return {c.topic: c.msgtype for c in self._reader.connections}
        texts = {kind: text for r in self._remains for kind, text in r.definitions.items()}
        self._own.register({k: v for kind, text in texts.items() for k, v in get_types_from_msg(text, kind).items()})
        return {topic: kind for r in self._remains for topic, kind in r.topics.items()}

    @property
    def latched(self) -> set[str]:
        """Topics whose last message was offered to late joiners (transient local)."""
        connections = self._reader.connections if self._reader is not None else []
        return {
            c.topic
            for c in connections
            if any(q.durability == QosDurability.TRANSIENT_LOCAL for q in getattr(c.ext, "offered_qos_profiles", ()))
        }

    @property
    def span_ns(self) -> tuple[int, int]:
        """First and last time of the recorder's clock, ns; (0, 0) for an empty or a damaged bag."""
        if self._reader is None or not self._reader.message_count:
            return 0, 0
        return self._reader.start_time, self._reader.end_time - 1

    def counts(self) -> dict[str, int]:
        """Topic -> number of messages, from the bag's index; empty for a damaged bag."""
        counts: dict[str, int] = {}
        for c in self._reader.connections if self._reader is not None else []:
            counts[c.topic] = counts.get(c.topic, 0) + c.msgcount
        return counts

    def need(self, wanted: Collection[str]) -> None:
        """Raises BagError for topics that are not in the bag."""
        if not self.topics:
            raise BagError(f"'{self.path}' is empty: it holds no topic")
        for topic in wanted:
            if topic not in self.topics:
                raise BagError(f"'{self.path}': " + unknown("topic", topic, self.topics))

    def raw(self, wanted: Collection[str], start_ns: int | None = None, stop_ns: int | None = None) -> Iterator[Raw]:
        """Undecoded messages of the `wanted` topics in time order, one in memory at a time.

        `start_ns` and `stop_ns` leave out what was recorded before or from then on. Raises BagError for a topic that is
        not in the bag, and after the last readable message of a damaged one.
        """
        self.need(wanted)
        if not wanted:
            return
        count = 0
        try:
            for raw in self._stream(wanted, start_ns, stop_ns):
                yield raw
                count += 1
        except BROKEN as error:
            self.damage = f"'{self.path}' is damaged: {_first_line(error)}"
        if self.damage:
            raise BagError(f"{self.damage}; {count} messages before that were read")

    def _stream(self, wanted: Collection[str], start_ns: int | None, stop_ns: int | None) -> Iterator[Raw]:
        if self._reader is not None:
            chosen = [c for c in self._reader.connections if c.topic in wanted]
            for connection, time_ns, data in self._reader.messages(chosen, start_ns, stop_ns):
                yield Raw(connection.topic, connection.msgtype, time_ns, data)
            return
        for raw in heapq.merge(*(r.raw(wanted) for r in self._remains), key=lambda r: r.time_ns):
            if (start_ns is None or raw.time_ns >= start_ns) and (stop_ns is None or raw.time_ns < stop_ns):
                yield raw

    def decode(self, raw: Raw) -> Any:
        """The message. Raises BagError when its bytes are none of its type."""
        own = self._reader.typestore if self._reader is not None else self._own
        if raw.kind not in own.fielddefs:
            return self._kinds.decode(raw.kind, raw.data)
        try:
            return own.deserialize_cdr(raw.data, raw.kind)
        except UNREADABLE as error:
            raise BagError(f"a message of {raw.topic} ({raw.kind}) cannot be read: {error}") from error

    def close(self) -> None:
        """Close the files. May be called twice."""
        if self._reader is not None and self._reader.stack is not None:
            self._reader.close()

    def __enter__(self) -> Bag:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def topics(path: str | Path) -> dict[str, str]:
    """Topic -> message type. Raises BagError."""
    with closing(Bag(path)) as bag:
        return dict(bag.topics)


def messages(path: str | Path, wanted: Collection[str]) -> Iterator[Message]:
    """Decoded messages of the `wanted` topics, in time order, one in memory at a time. Raises BagError, see `Bag`."""
    with closing(Bag(path)) as bag:
        for raw in bag.raw(wanted):
            yield Message(raw.topic, raw.time_ns, bag.decode(raw))


def _metadata(path: Path) -> str:
    """Why a bag's metadata must not be parsed; empty when it may, or is not there."""
    try:
        documents.check_yaml(path.read_bytes())
    except OSError:
        return ""
    except ValueError as error:
        return f"{path.name}: {error}"
    return ""


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(p for p in path.iterdir() if p.suffix in ENDINGS)
    return [path] if path.suffix in ENDINGS else []


def _reader(paths: list[Path]) -> AnyReader:
    """An opened reader. Raises one of `BROKEN`."""
    if not paths:
        raise ReaderError("its name ends neither in .mcap nor in .db3")
    reader = AnyReader(paths, default_typestore=Kinds().store)
    reader.open()
    return reader


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0].rstrip(".") if text else type(error).__name__
