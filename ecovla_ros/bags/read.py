"""A rosbag2 (MCAP or sqlite3, compressed or not) as messages in time order, without ROS.

A recording that was cut off or is damaged, or of which a file is missing, is read as far as it goes, and then a
BagError says so: part of a bag is never taken for the whole.
"""

from __future__ import annotations

import heapq
import re
import struct
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, closing
from pathlib import Path, PurePath
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

import apsw
from mcap.exceptions import McapError
from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore
from zstandard import ZstdError

from ecovla_ros import documents
from ecovla_ros.bags import causes
from ecovla_ros.bags.causes import VALID
from ecovla_ros.bags.kinds import UNREADABLE, Kinds
from ecovla_ros.bags.salvage import Remains
from ecovla_ros.bags.storage import Contents, Raw, StorageFile, Unindexed, on_disk, opened
from ecovla_ros.errors import BagError, short, unknown

BROKEN = (
    McapError, ZstdError, apsw.Error, struct.error, *UNREADABLE, OSError, EOFError, RuntimeError, MemoryError,
    OverflowError,
)  # fmt: skip
"""What the libraries raise for a file that is no whole bag, and for definitions that are none."""
METADATA = "metadata.yaml"
OVERLAP_NS = 100_000_000
"""Files of one split recording overlap by less, ns."""
_NUMBER = re.compile(r"_(\d{1,6})\.")  # longer ones are dates
_RULE = "=" * 80 + "\n"
Value = TypeVar("Value")


class Message(NamedTuple):
    """One message of a bag."""

    topic: str
    time_ns: int
    """When it was recorded, ns of the recorder's clock."""
    value: Any


class Bag:
    """An opened bag; use it in a `with`. `damage` says what is wrong with it, empty for a whole one."""

    def __init__(self, path: str | Path) -> None:
        """Open. Raises BagError, naming the cause, for what is not a bag, or a bag of which nothing can be read."""
        self.path, self.damage = Path(path), ""
        self._kinds = Kinds()
        self._stores: dict[str, Any] = {}
        self._files: list[StorageFile] = []
        self._unlisted: set[str] = set()  # recordings of a folder without metadata
        self._stack = ExitStack()
        try:
            if not _exists(self.path):
                raise BagError(f"no bag at '{path}'; valid: {VALID}")
            self._open()
        except BaseException:
            self.close()
            raise
        contents = [file.contents for file in self._files]
        self.topics: dict[str, str] = _joined(contents, lambda c: c.topics)
        """Topic -> message type."""
        self._foreign: dict[str, str] = _joined(contents, lambda c: c.foreign)
        self._definitions: dict[str, tuple[str, str]] = _joined(contents, lambda c: c.definitions)

    def _open(self) -> None:
        whole = True
        for file in self._paths():
            path, why = self._on_disk(file)
            try:
                self._files.append(opened(path))
            except (Unindexed, *BROKEN):
                remains = Remains(path)
                self._files.append(remains)
                whole, why = whole and not remains.why, why or remains.why
            self._files[-1].path = file
            if why:
                self._note(f"is damaged: {why}" if len(self._files) == 1 else f"is damaged: {file.name}: {why}")
        known = any(file.contents.topics or file.contents.foreign for file in self._files)
        if not known and not (whole and self._files):
            raise BagError(f"{self.damage}: nothing of it can be read; valid: {VALID}")

    def _on_disk(self, file: Path) -> tuple[Path, str]:
        try:
            return on_disk(file, self._stack)
        except OSError as error:
            raise BagError(f"'{file}' cannot be unpacked or copied: {error.strerror or error}") from error

    def _paths(self) -> list[Path]:
        """Files to be read. Raises BagError, with its cause, for one that is no storage file."""
        if self.path.is_file():
            found = [self.path]
        else:
            found = self._listed(causes.stored(self.path))
            if not found and not self.damage:
                raise BagError(f"'{self.path}' {causes.of_folder(self.path)}; valid: {VALID}")
        good = []
        for file in found:
            if causes.kind_of(file):
                good.append(file)
            elif why := causes.of_file(file):
                self._note(f"cannot be read: {file.name} {why}" if self.path.is_dir() else why)
            elif file.name.endswith(causes.ENDINGS):
                good.append(file)
            else:
                raise BagError(f"'{file}' is no bag: its name does not end in .mcap or .db3; valid: {VALID}")
        if not good:
            raise BagError(f"{self.damage or self.path}; valid: {VALID}")
        return good

    def _listed(self, files: list[Path]) -> list[Path]:
        """Those of a folder that belong to the bag. What its metadata names and what is not there is noted; of the
        rest of metadata.yaml nothing is needed: what a bag holds, its files say themselves."""
        names = _names(self.path / METADATA)
        have = {file.name for file in files}
        there = {name for name in names if {name, name.removesuffix(".zstd"), f"{name}.zstd"} & have}
        if missing := [name for name in names if name not in there]:
            self._note(f"is not whole: {', '.join(missing)} is named by {METADATA} and not there")
        if not names and (gap := _gap(files)):
            self._note(f"is not whole: {gap}")
        if not there:
            self._unlisted = {_recording(file) for file in files}
            return files
        named = [f for f in files if {f.name, f.stem, f"{f.name}.zstd"} & there]
        own = {
            _recording(file) for file in named if _NUMBER.search(file.name)
        }  # of a recorder that died later than it last wrote its metadata
        return [f for f in files if f in named or (_NUMBER.search(f.name) and _recording(f) in own)]

    def _check_one_recording(self, wanted: Collection[str]) -> None:
        """Raises BagError where files of several recordings lie in one folder, nothing says that they belong together,
        and they tell of the same topic at the same time: read as one they would be nonsense."""
        for topic in wanted if len(self._unlisted) > 1 else ():
            files = [f for f in self._files if topic in f.contents.topics and f.contents.span_ns != (0, 0)]
            files.sort(key=lambda file: file.contents.span_ns)
            for one, other in zip(files, files[1:]):
                over_ns = one.contents.span_ns[1] - other.contents.span_ns[0]
                if over_ns > OVERLAP_NS and _recording(one.path) != _recording(other.path):
                    raise BagError(
                        f"'{self.path}' holds several recordings: {one.path.name} and {other.path.name} have {topic} "
                        f"at the same time, and no {METADATA} says that they belong together; valid: one of them"
                    )

    def _note(self, what: str) -> None:
        self.damage = f"{self.damage}; {what}" if self.damage else f"'{self.path}' {what}"

    @property
    def latched(self) -> set[str]:
        """Topics whose last message was offered to late joiners (transient local)."""
        return {topic for file in self._files for topic in file.contents.latched}

    @property
    def span_ns(self) -> tuple[int, int]:
        """First and last time of the recorder's clock, ns; (0, 0) for an empty bag, or where no index tells."""
        spans = [file.contents.span_ns for file in self._files if file.contents.span_ns != (0, 0)]
        return (min(first for first, _ in spans), max(last for _, last in spans)) if spans else (0, 0)

    def counts(self) -> dict[str, int]:
        """Topic -> number of messages, from the bag's index; zero where none tells."""
        counts = dict.fromkeys(self.topics, 0)
        for file in self._files:
            for topic, count in file.contents.counts.items():
                counts[topic] += count
        return counts if any(counts.values()) else {}

    def need(self, wanted: Collection[str]) -> None:
        """Raises BagError for topics that are not in the bag, or whose messages are none of ROS 2."""
        for topic in wanted:
            if topic not in self.topics and topic in self._foreign:
                raise BagError(
                    f"'{self.path}': messages of {topic} are encoded as {self._foreign[topic]}; valid: ROS 2's (cdr)"
                )
        if not self.topics:
            raise BagError(f"'{self.path}' is empty: it holds no topic")
        for topic in wanted:
            if topic not in self.topics:
                said = f"{self.damage}; " if self.damage else f"'{self.path}': "  # the topic may be in what is lost
                raise BagError(said + unknown("topic", topic, self.topics))

    def raw(self, wanted: Collection[str], start_ns: int | None = None, stop_ns: int | None = None) -> Iterator[Raw]:
        """Undecoded messages of the `wanted` topics in time order, one in memory at a time.

        `start_ns` and `stop_ns` leave out what was recorded before or from then on. Raises BagError for a topic that is
        not in the bag, and after the last readable message of a damaged one or of one that lacks a file.
        """
        self.need(wanted)
        if not wanted:
            return
        self._check_one_recording(wanted)
        count = 0
        parts = [self._guarded(file, wanted, start_ns, stop_ns) for file in self._files]
        for raw in heapq.merge(*parts, key=lambda raw: raw.time_ns):
            yield raw
            count += 1
        if self.damage:
            raise BagError(f"{self.damage}; {count} messages were read")

    def _guarded(
        self, file: StorageFile, wanted: Collection[str], start_ns: int | None, stop_ns: int | None
    ) -> Iterator[Raw]:
        """Messages of one file until it breaks; the others go on."""
        try:
            yield from file.raw(wanted, start_ns, stop_ns)
        except BROKEN as error:
            where = f"{file.path.name}: " if len(self._files) > 1 else ""
            text = f"is damaged: {where}{_first_line(error)}"
            if text not in self.damage:
                self._note(text)

    def decode(self, raw: Raw) -> Any:
        """The message. Raises BagError when its bytes are none of its type, or nobody knows the type."""
        store = self._store(raw.kind)
        if store is None:
            return self._kinds.decode(raw.kind, raw.data)
        try:
            return store.deserialize_cdr(raw.data, raw.kind)
        except (*UNREADABLE, RecursionError) as error:
            raise BagError(f"a message of {raw.topic} ({raw.kind}) cannot be read: {error}") from error

    def _store(self, kind: str) -> Any:
        """Types as the bag defines them; None where it does not, or not in a way that can be read: then the type of
        that name which is known here holds."""
        if kind not in self._stores:
            store = get_typestore(Stores.EMPTY)
            form, text = self._definitions.get(kind, ("", ""))
            try:
                store.register(_idl(text) if form == "idl" else get_types_from_msg(text, kind) if form else {})
            except (*UNREADABLE, RecursionError, StopIteration):
                store = get_typestore(Stores.EMPTY)
            self._stores[kind] = store if kind in store.fielddefs else None
        return self._stores[kind]

    def close(self) -> None:
        """Close the files. May be called twice."""
        for file in self._files:
            file.close()
        self._stack.close()

    def __enter__(self) -> Bag:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _exists(path: Path) -> bool:
    """Raises BagError for a name that the system does not take, and for a link to what is not there."""
    try:
        if path.is_symlink() and not path.exists():
            raise BagError(f"'{path}' {documents.instead(path)}")
        return path.exists()
    except (OSError, ValueError) as error:
        raise BagError(
            f"no bag at '{short(path)}' ({getattr(error, 'strerror', '') or error}); valid: {VALID}"
        ) from error


def topics(path: str | Path) -> dict[str, str]:
    """Topic -> message type. Raises BagError."""
    with closing(Bag(path)) as bag:
        return dict(bag.topics)


def messages(path: str | Path, wanted: Collection[str]) -> Iterator[Message]:
    """Decoded messages of the `wanted` topics, in time order, one in memory at a time. Raises BagError, see `Bag`."""
    with closing(Bag(path)) as bag:
        for raw in bag.raw(wanted):
            yield Message(raw.topic, raw.time_ns, bag.decode(raw))


def _names(metadata: Path) -> list[str]:
    """Names of the files of a bag as its metadata.yaml has them; none where it has none, or is no metadata."""
    try:
        found = documents.from_yaml(metadata.read_bytes())
        listed = found["rosbag2_bagfile_information"]["relative_file_paths"]
        return [PurePath(str(name)).name for name in listed]
    except (OSError, KeyError, TypeError, ValueError, RecursionError):
        return []


def _recording(file: Path) -> str:
    """What the files of one split recording have in common: their name without its number."""
    return _NUMBER.sub(".", file.name)


def _gap(files: list[Path]) -> str:
    """Which of the numbered files of a split bag are not there; empty: none is missing, or they are not numbered."""
    numbers = [int(match[1]) for file in files if (match := _NUMBER.search(file.name))]
    if len(files) < 2 or len(numbers) < len(files):
        return ""
    missing = sorted(set(range(max(numbers) + 1)) - set(numbers))
    return f"of its files those numbered {', '.join(map(str, missing[:10]))} are not there" if missing else ""


def _joined(contents: list[Contents], part: Callable[[Contents], dict[str, Value]]) -> dict[str, Value]:
    """What the first file says of each name."""
    return {name: value for one in reversed(contents) for name, value in part(one).items()}


def _idl(text: str) -> Any:
    """Types of IDL text; rosbag2 sets several files one after the other."""
    if not text.startswith(f"{_RULE}IDL: "):
        return get_types_from_idl(text)
    return {k: v for part in text.split(_RULE)[1:] for k, v in get_types_from_idl(part.partition("\n")[2]).items()}


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0].rstrip(".") if text else type(error).__name__
