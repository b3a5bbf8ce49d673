"""Bags as people have them: foreign channels, files that are missing or are something else, metadata that is not right.

What holds our topics is read whole; part of it is never taken for the whole; what is no bag is told by its cause.
"""

from __future__ import annotations

import gzip
import io
import shutil
import sqlite3
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from mcap.writer import CompressionType
from mcap.writer import Writer as McapWriter
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from ecovla_ros.bags import sample
from ecovla_ros.bags.kinds import Kinds
from ecovla_ros.bags.read import Bag
from ecovla_ros.bags.sample import Sample
from ecovla_ros.errors import BagError

EVENTS = list(Sample(seconds=1.0, size=32, encoding="rgb8").events())
TOPICS = sorted({event.topic for event in EVENTS})
KINDS = Kinds()
SENT = sorted((event.topic, event.time_ns, KINDS.encode(event.kind, event.message)) for event in EVENTS)


def heard(path: Path) -> tuple[list[Any], str]:
    """Every message of our topics, as far as they are there, and what is said at the end."""
    found = []
    try:
        with Bag(path) as bag:
            for raw in bag.raw([topic for topic in TOPICS if topic in bag.topics]):
                bag.decode(raw)
                found.append((raw.topic, raw.time_ns, raw.data))
    except BagError as error:
        assert "\n" not in str(error)
        return sorted(found), str(error)
    return sorted(found), ""


def mcap(path: Path, *channels: tuple[str, str, bytes, str], index: bool = True, chunks: bool = True) -> Path:
    """The sample as Foxglove's writer makes it, beside others' channels: topic, schema encoding, schema, encoding."""
    path.mkdir()
    with (path / "b_0.mcap").open("wb") as file:
        writer = McapWriter(file, compression=CompressionType.NONE, use_chunking=chunks, use_statistics=index,
                            use_summary_offsets=index, repeat_schemas=index, repeat_channels=index)  # fmt: skip
        writer.start(profile="ros2", library="test")
        for topic, encoding, text, messages in channels:
            schema = writer.register_schema(f"vendor_msgs/msg/{topic.strip('/').title()}", encoding, text)
            channel = writer.register_channel(topic, messages, schema if encoding else 0)
            writer.add_message(channel, EVENTS[0].time_ns, b"\x00\x01\x00\x00{}", EVENTS[0].time_ns)
        known: dict[str, int] = {}
        for event in EVENTS:
            if event.topic not in known:
                text = KINDS.store.generate_msgdef(event.kind, ros_version=2)[0]
                schema = writer.register_schema(event.kind, "ros2msg", text.encode())
                known[event.topic] = writer.register_channel(event.topic, "cdr", schema)
            data = KINDS.encode(event.kind, event.message)
            writer.add_message(known[event.topic], event.time_ns, data, event.time_ns)
        writer.finish()
    return path


FOREIGN = {
    "a definition that does not parse": ("/state", "ros2msg", b"A/B[] c\n<definition left out>\n", "cdr"),
    "a definition that is no text": ("/blob", "ros2msg", b"\xff\xfe\x00\x80", "cdr"),
    "an empty definition": ("/none", "ros2msg", b"", "cdr"),
    "JSON": ("/json", "jsonschema", b'{"type": "object"}', "json"),
    "protobuf": ("/proto", "protobuf", b"\x0a\x03\xff\xfeabc", "protobuf"),
    "flatbuffer": ("/flat", "flatbuffer", b"\x18\x00\x00\xff", "flatbuffer"),
    "ROS 1": ("/ros1", "ros1msg", b"uint8 a", "ros1"),
    "no schema": ("/bare", "", b"", "json"),
    "IDL": ("/idl", "ros2idl", b"module x { struct Y { long z; }; };", "cdr"),
}


@pytest.mark.parametrize("index, chunks", [(True, True), (True, False), (False, True), (False, False)])
def test_other_channels_are_none_of_our_business(tmp_path: Path, index: bool, chunks: bool) -> None:
    path = mcap(tmp_path / "bag", *FOREIGN.values(), index=index, chunks=chunks)
    assert heard(path) == (SENT, "")
    with Bag(path) as bag:
        assert set(TOPICS) <= set(bag.topics) and "/json" not in bag.topics
        if index and chunks:
            assert bag.counts()["/joint_states"] == 50 and bag.span_ns[0] == EVENTS[0].time_ns
        for topic, encoding in (("/json", "json"), ("/proto", "protobuf"), ("/flat", "flatbuffer")):
            with pytest.raises(BagError, match=f"encoded as {encoding}; valid: ROS 2's"):
                bag.need([topic])
        with pytest.raises(BagError):
            bag.decode(next(iter(bag.raw(["/state"]))))


@pytest.mark.reads("storage", "MCAP beside a channel of others: {what}")
@pytest.mark.parametrize("what", FOREIGN)
def test_each_foreign_channel_alone_leaves_ours_whole(tmp_path: Path, what: str) -> None:
    assert heard(mcap(tmp_path / "bag", FOREIGN[what])) == (SENT, "")


@pytest.mark.reads("storage", "sqlite3 with definitions encoded as '{encoding}'")
@pytest.mark.parametrize("encoding", ["unknown", "", "jsonschema"])
def test_an_sqlite_bag_with_definitions_nobody_reads_is_whole(tmp_path: Path, encoding: str) -> None:
    bag = sample.write(tmp_path / "bag", EVENTS, "sqlite3")
    base = sqlite3.connect(next(bag.glob("*.db3")))
    base.execute("UPDATE message_definitions SET encoding = ?", (encoding,))
    base.execute(
        "INSERT INTO topics (id, name, type, serialization_format, offered_qos_profiles, type_description_hash) "
        "VALUES (99, '/vendor', 'a/msg/B', 'protobuf', '', '')"
    )
    base.commit()
    base.close()
    assert heard(bag) == (SENT, "")


@pytest.mark.reads("storage", "{storage} with a metadata.yaml that is wrong")
@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_metadata_that_says_otherwise_or_nothing_changes_no_message(tmp_path: Path, storage: str) -> None:
    """QoS that people empty so that an older ros2 bag plays the bag; counts of before; no YAML at all."""
    bag = sample.write(tmp_path / "bag", EVENTS, storage)
    said = yaml.safe_load((bag / "metadata.yaml").read_text())
    topics = said["rosbag2_bagfile_information"]["topics_with_message_count"]
    for topic in topics:
        topic["topic_metadata"]["offered_qos_profiles"] = (
            "- history: 3\n  depth: 0\n  reliability: 1\n  durability: 2\n"
        )
        topic["message_count"] = 7
    for text in (yaml.safe_dump(said), "rosbag2_bagfile_information: 5", "\tx: [", "", "a: &a [*a]"):
        (bag / "metadata.yaml").write_text(text)
        assert heard(bag) == (SENT, "")


def split(tmp_path: Path, storage: str) -> Path:
    bag, files = tmp_path / "split", []
    bag.mkdir()
    for k in range(3):
        part = EVENTS[k * len(EVENTS) // 3 : (k + 1) * len(EVENTS) // 3]
        made = sample.write(tmp_path / f"part{k}", part, storage)
        source = next(p for p in made.iterdir() if p.name != "metadata.yaml")
        files.append(f"split_{k}{source.suffix}")
        shutil.copy(source, bag / files[-1])
    said = yaml.safe_load((made / "metadata.yaml").read_text())
    said["rosbag2_bagfile_information"] |= {"relative_file_paths": files}
    (bag / "metadata.yaml").write_text(yaml.safe_dump(said))
    return bag


@pytest.mark.reads("storage", "split {storage}, a file lost: the rest, then exit code 2")
@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@pytest.mark.parametrize("lost", [0, 1, 2])
@pytest.mark.parametrize("metadata", [True, False])
def test_a_lost_file_of_a_split_bag_is_named_after_what_is_there(
    tmp_path: Path, storage: str, lost: int, metadata: bool
) -> None:
    bag = split(tmp_path, storage)
    assert heard(bag) == (SENT, "")
    gone = next(bag.glob(f"split_{lost}.*"))
    gone.unlink()
    if not metadata:
        (bag / "metadata.yaml").unlink()
    found, said = heard(bag)
    assert len(found) == len(SENT) - len(EVENTS[lost * len(EVENTS) // 3 : (lost + 1) * len(EVENTS) // 3])
    if metadata:
        assert gone.name in said and "messages were read" in said
    elif lost < 2:  # that a last one is missing nothing tells
        assert f"numbered {lost} are not there" in said


def test_files_that_belong_to_another_bag_are_not_read(tmp_path: Path) -> None:
    bag = sample.write(tmp_path / "bag", EVENTS)
    other = sample.write(tmp_path / "other", list(Sample(seconds=1.0, size=32, seed=3, encoding="rgb8").events()))
    shutil.copy(next(other.glob("*.mcap")), bag / "copy_of_another.mcap")
    assert heard(bag) == (SENT, "")


@pytest.mark.reads("storage", "sqlite3 with a -wal beside it")
def test_what_the_recorder_had_not_yet_written_into_an_sqlite_file_is_read(tmp_path: Path) -> None:
    bag = sample.write(tmp_path / "bag", EVENTS, "sqlite3")
    file = next(bag.glob("*.db3"))
    base = sqlite3.connect(file)
    late = base.execute("SELECT * FROM messages ORDER BY timestamp").fetchall()[40:]
    base.execute("PRAGMA journal_mode = WAL")
    base.execute("PRAGMA wal_autocheckpoint = 0")
    base.executemany("DELETE FROM messages WHERE id = ?", [(row[0],) for row in late])
    base.commit()
    base.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    base.executemany("INSERT INTO messages VALUES (?, ?, ?, ?)", late)
    base.commit()
    kept = tmp_path / "kept"
    shutil.copytree(bag, kept)  # the power went: the file, and what lies beside it
    base.close()
    assert (kept / f"{file.name}-wal").stat().st_size
    before = {p.name: p.read_bytes() for p in kept.iterdir()}
    assert heard(kept) == (SENT, "")
    assert before == {p.name: p.read_bytes() for p in kept.iterdir()}, "somebody's recording is not written to"
    (kept / f"{file.name}-wal").write_bytes(b"\xff" * 100)
    found, _ = heard(kept)
    assert len(found) == 40


@pytest.mark.reads("storage", "{storage}, compression {mode}, with and without metadata.yaml")
@pytest.mark.parametrize("storage", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
@pytest.mark.parametrize("mode", [CompressionMode.FILE, CompressionMode.MESSAGE])
@pytest.mark.parametrize("metadata", [True, False])
def test_compressed_bags_are_read_with_and_without_metadata(
    tmp_path: Path, storage: StoragePlugin, mode: CompressionMode, metadata: bool
) -> None:
    writer = Writer(tmp_path / "bag", version=8, storage_plugin=storage)
    writer.set_compression(mode, CompressionFormat.ZSTD)
    with writer:
        known: dict[str, Any] = {}
        for event in EVENTS:
            if event.topic not in known:
                known[event.topic] = writer.add_connection(event.topic, event.kind, typestore=KINDS.store)
            writer.write(known[event.topic], event.time_ns, KINDS.encode(event.kind, event.message))
    if not metadata:
        (tmp_path / "bag" / "metadata.yaml").unlink()
    assert heard(tmp_path / "bag") == (SENT, "")
    file = next(p for p in (tmp_path / "bag").iterdir() if p.name != "metadata.yaml")
    assert heard(file) == (SENT, "")
    if mode == CompressionMode.FILE:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        found, said = heard(tmp_path / "bag")
        assert "is damaged" in said and set(found) <= set(SENT)


def test_a_file_is_what_it_holds_whatever_it_is_called(tmp_path: Path) -> None:
    bag = sample.write(tmp_path / "bag", EVENTS, "sqlite3")
    shutil.copy(next(bag.glob("*.db3")), tmp_path / "x.mcap")
    assert heard(tmp_path / "x.mcap") == (SENT, "")


def zipped(path: Path) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        archive.write(path, path.name)
    return held.getvalue()


def tarred(path: Path) -> bytes:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as archive:
        archive.add(path, path.name)
    return held.getvalue()


CAUSES: dict[str, Callable[[Path], bytes]] = {
    "git-lfs pointer.*git lfs pull": lambda _: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    "empty file": lambda _: b"",
    "zeros alone": lambda _: bytes(5000),
    "web page": lambda _: b"<!doctype html><html><body>404</body></html>",
    "ROS 1 bag.*rosbags-convert": lambda _: b"#ROSBAG V2.0\nE\x00\x00\x00" + bytes(100),
    "gzip": lambda path: gzip.compress(path.read_bytes()),
    "zip archive": zipped,
    "tar archive": tarred,
    "another version": lambda path: b"\x89MCAP1\r\n" + path.read_bytes()[8:],
}


@pytest.mark.reads("refused as a bag, by its cause", "{says}")
@pytest.mark.parametrize("says", CAUSES)
@pytest.mark.parametrize("folder", [True, False])
def test_what_is_no_bag_is_told_by_its_cause(tmp_path: Path, says: str, folder: bool) -> None:
    bag = sample.write(tmp_path / "bag", EVENTS)
    file = next(bag.glob("*.mcap"))
    file.write_bytes(CAUSES[says](file))
    with pytest.raises(BagError, match=says) as raised:
        Bag(bag if folder else file)
    assert "\n" not in str(raised.value)


def test_a_folder_that_holds_something_else_says_what(tmp_path: Path) -> None:
    bag = sample.write(tmp_path / "takes" / "one", EVENTS)
    cases: dict[str, Path] = {f"name one: {bag}": tmp_path / "takes"}
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "take.bag").write_bytes(b"#ROSBAG V2.0\n")
    cases["ROS 1 bag"] = tmp_path / "one"
    (tmp_path / "set" / "meta").mkdir(parents=True)
    (tmp_path / "set" / "meta" / "info.json").write_text("{}")
    cases["LeRobot data set"] = tmp_path / "set"
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    cases["is a checkpoint, not a bag"] = tmp_path / "model"
    (tmp_path / "half").mkdir()
    shutil.copy(bag / "metadata.yaml", tmp_path / "half")
    cases["one.mcap is named by metadata.yaml and not there"] = tmp_path / "half"
    for says, path in cases.items():
        with pytest.raises(BagError, match=says):
            Bag(path)


@pytest.mark.reads("storage", "{storage} in a folder or file whose name has #, ?, % or a blank in it")
@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@pytest.mark.parametrize("name", ["run #3", "what?", "50%20", "caf\u00e9"])
def test_names_may_hold_what_an_address_may_not(tmp_path: Path, name: str, storage: str) -> None:
    """sqlite3 is opened by an address, in which these would mean something."""
    bag = sample.write(tmp_path / "bag", EVENTS, storage)
    (tmp_path / name).mkdir()
    for file in bag.glob("bag*"):
        file.rename(tmp_path / name / f"{name}{file.suffix}")
    assert heard(tmp_path / name) == (SENT, "")
    file = next((tmp_path / name).iterdir())
    file.write_bytes(file.read_bytes()[: int(0.8 * file.stat().st_size)])
    if storage == "sqlite3":
        assert "pages of it are missing" in heard(file)[1]


def numbered(path: Path, *parts: list[Any], storage: str = "mcap", name: str = "rec_{}") -> list[str]:
    """Several files in one folder; gives their names. No metadata.yaml."""
    path.mkdir()
    for number, events in enumerate(parts):
        made = sample.write(path.parent / f"part_{number}_{name[:1]}", events, storage)
        file = next(made.glob("part*"))
        shutil.move(file, path / f"{name.format(number)}{file.suffix}")
    return sorted(file.name for file in path.iterdir())


def names(path: Path, *files: str) -> None:
    (path / "metadata.yaml").write_text(yaml.safe_dump({"rosbag2_bagfile_information":
                                                        {"relative_file_paths": list(files)}}))  # fmt: skip


@pytest.mark.reads("storage", "split {storage} whose last file metadata.yaml does not name yet")
@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_a_split_that_metadata_does_not_name_yet_belongs_to_the_bag(tmp_path: Path, storage: str) -> None:
    """The recorder writes metadata at every split, and died in the next one."""
    third = len(EVENTS) // 3
    files = numbered(tmp_path / "bag", EVENTS[:third], EVENTS[third : 2 * third], EVENTS[2 * third :], storage=storage)
    names(tmp_path / "bag", *files[:2])
    (tmp_path / "bag" / f"other{Path(files[0]).suffix}").write_bytes((tmp_path / "bag" / files[0]).read_bytes())
    assert heard(tmp_path / "bag") == (SENT, "")
    for stranger in ("rec_20260101", "rec"):
        shutil.copy(tmp_path / "bag" / files[0], tmp_path / "bag" / f"{stranger}{Path(files[0]).suffix}")
    assert heard(tmp_path / "bag") == (SENT, ""), "no part of the split recording"
    last = tmp_path / "bag" / files[2]
    last.write_bytes(last.read_bytes()[: int(0.7 * last.stat().st_size)])
    found, said = heard(tmp_path / "bag")
    assert len(found) >= 2 * third and f"{files[2]}: " in said and "is damaged" in said
    (tmp_path / "bag" / files[0]).unlink()
    with (
        Bag(tmp_path / "bag") as bag,
        pytest.raises(BagError, match="is not whole: rec_0.*unknown topic '/instruction'"),
    ):
        bag.need(["/instruction"])


def test_recordings_of_the_same_time_are_not_read_as_one(tmp_path: Path) -> None:
    numbered(tmp_path / "twice", EVENTS, EVENTS[10:], name="run{}")
    assert "run0.mcap and run1.mcap have" in heard(tmp_path / "twice")[1]
    names(tmp_path / "twice", "lost.mcap")
    assert "run0.mcap and run1.mcap have" in heard(tmp_path / "twice")[1]
    names(tmp_path / "twice", "run0.mcap")
    assert heard(tmp_path / "twice") == (SENT, "")
    pictures = [event for event in EVENTS if "image" in event.topic]
    rest = [event for event in EVENTS if "image" not in event.topic]
    numbered(tmp_path / "apart", pictures, rest, name="machine{}")
    assert heard(tmp_path / "apart") == (SENT, ""), "two machines that recorded what each of them saw"


def test_names_that_lead_to_nothing_are_bags_that_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "lost").symlink_to(tmp_path / "none")
    for path, says in ((tmp_path / "lost", "is a link to"), (tmp_path / ("a" * 300), "File name too long")):
        with pytest.raises(BagError, match=says):
            Bag(path)
