"""Bags: every storage reads alike, and of a damaged one what lies before the damage is kept."""

from __future__ import annotations

import random
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from mcap.writer import CompressionType
from mcap.writer import Writer as McapWriter
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from ecovla_ros import wire
from ecovla_ros.bags import read, sample
from ecovla_ros.bags.kinds import Kinds
from ecovla_ros.bags.read import Bag
from ecovla_ros.bags.sample import Sample
from ecovla_ros.bags.write import BagWriter
from ecovla_ros.errors import BagError, ObservationError

SHORT = Sample(seconds=2.0, size=48, encoding="rgb8")
RAW = Sample(seconds=8.0, size=96, encoding="rgb8")
"""Several chunks of an MCAP file."""


def heard(path: Path) -> list[tuple[str, int, bytes]]:
    """Every message, in an order that does not depend on the storage."""
    with Bag(path) as bag:
        return sorted((raw.topic, raw.time_ns, raw.data) for raw in bag.raw(list(bag.topics)))


def until_damage(path: Path) -> tuple[list[tuple[str, int, bytes]], str]:
    """What can be read of a damaged bag, and the one error at its end."""
    found, said = [], ""
    try:
        with Bag(path) as bag:
            for raw in bag.raw(list(bag.topics)):
                bag.decode(raw)
                found.append((raw.topic, raw.time_ns, raw.data))
    except BagError as error:
        said = str(error)
    return found, said


def written_by_hand(path: Path, storage: StoragePlugin, mode: CompressionMode | None) -> Path:
    """The sample as another program writes it: rosbags' own writer, with its compression modes."""
    kinds = Kinds()
    with_writer = Writer(path, version=8, storage_plugin=storage)
    if mode is not None:
        with_writer.set_compression(mode, CompressionFormat.ZSTD)
    with with_writer as writer:
        connections = {}
        for event in SHORT.events():
            if event.topic not in connections:
                connections[event.topic] = writer.add_connection(event.topic, event.kind, typestore=kinds.store)
            writer.write(connections[event.topic], event.time_ns, kinds.encode(event.kind, event.message))
    return path


@pytest.mark.reads("storage", "{storage}, compression {mode}")
@pytest.mark.parametrize("storage", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
@pytest.mark.parametrize("mode", [None, CompressionMode.FILE, CompressionMode.MESSAGE, CompressionMode.STORAGE])
def test_every_storage_and_compression_reads_alike(
    tmp_path: Path, storage: StoragePlugin, mode: CompressionMode | None
) -> None:
    if (storage, mode) == (StoragePlugin.SQLITE3, CompressionMode.STORAGE):
        pytest.skip("sqlite3 has no compression of its own")
    ours = sample.write(tmp_path / "ours", SHORT.events())
    assert heard(written_by_hand(tmp_path / "theirs", storage, mode)) == heard(ours)


def test_messages_come_back_as_they_were(tmp_path: Path) -> None:
    events = list(SHORT.events())
    with Bag(sample.write(tmp_path / "bag", events)) as bag:
        assert bag.latched == {"/instruction"}
        assert bag.counts()["/wrist/image"] == 20 and bag.span_ns[0] == sample.START_NS
        pictures = [bag.decode(raw) for raw in bag.raw(["/wrist/image"])]
    sent = [e.message for e in events if e.topic == "/wrist/image"]
    for a, b in zip(pictures, sent, strict=True):
        np.testing.assert_array_equal(wire.decode_image(a), wire.decode_image(b))
        assert wire.stamp_ns(a.header.stamp) == wire.stamp_ns(b.header.stamp)


def test_a_window_of_time_leaves_out_the_rest(tmp_path: Path) -> None:
    with Bag(sample.write(tmp_path / "bag", SHORT.events())) as bag:
        start, stop = sample.START_NS + 500_000_000, sample.START_NS + 1_000_000_000
        times = [raw.time_ns for raw in bag.raw(["/wrist/image"], start, stop)]
    assert times == [start + i * 100_000_000 for i in range(5)]


def test_messages_of_this_package_are_read_where_the_bag_does_not_define_them(tmp_path: Path) -> None:
    kinds = Kinds()
    kind = "ecovla_ros/msg/PruningState"
    with BagWriter(tmp_path / "bag", "sqlite3") as bag:
        bag.add("/pruning", kind)
        message = kinds.blank(kind)
        message.similarity, message.kind = 0.25, "sparse"
        bag.put("/pruning", 1, message)
    found = [message.value for message in read.messages(tmp_path / "bag", ["/pruning"])]
    assert found[0].similarity == 0.25 and found[0].kind == "sparse"


def test_a_sqlite_bag_with_a_deep_tree_is_read_up_to_the_cut(tmp_path: Path) -> None:
    """The tree's inner pages lie behind the first rows: without them sqlite itself finds nothing."""
    bag = sample.write(tmp_path / "bag", Sample(seconds=60.0, size=64, image_hz=20.0).events(), "sqlite3")
    whole, file = heard(bag), next(bag.glob("*.db3"))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    found, said = until_damage(file)
    assert 0.4 * len(whole) < len(found) < 0.6 * len(whole) and set(found) <= set(whole) and "is damaged" in said
    assert found == sorted(found, key=lambda m: m[1])


@pytest.mark.reads("storage", "{storage} that was cut off: up to the cut, then exit code 2")
@pytest.mark.parametrize("storage, ending", [("mcap", ".mcap"), ("sqlite3", ".db3")])
@pytest.mark.parametrize("folder", [True, False])
@pytest.mark.parametrize("metadata", [True, False])
def test_a_truncated_bag_gives_what_came_before_and_one_error(
    tmp_path: Path, storage: str, ending: str, folder: bool, metadata: bool
) -> None:
    bag = sample.write(tmp_path / "bag", RAW.events(), storage)
    whole = heard(bag)
    file = next(bag.glob(f"*{ending}"))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    if not metadata:  # a recorder that was killed has written none
        (bag / "metadata.yaml").unlink()
    found, said = until_damage(bag if folder else file)
    assert 0.3 * len(whole) < len(found) < 0.7 * len(whole) and set(found) <= set(whole)
    assert "is damaged" in said and f"{len(found)} messages were read" in said and "\n" not in said


def written_by_mcap(path: Path, compression: CompressionType) -> Path:
    """The sample as the mcap package writes it, with checksums, as the C++ recorder does."""
    kinds, channels = Kinds(), {}
    with path.open("wb") as file:
        writer = McapWriter(file, chunk_size=100_000, compression=compression)
        writer.start("ros2", "test")
        for event in RAW.events():
            if event.topic not in channels:
                text = kinds.store.generate_msgdef(event.kind, ros_version=2)[0]
                schema = writer.register_schema(event.kind, "ros2msg", text.encode())
                channels[event.topic] = writer.register_channel(event.topic, "cdr", schema)
            data = kinds.encode(event.kind, event.message)
            writer.add_message(channels[event.topic], event.time_ns, data, event.time_ns)
        writer.finish()
    return path


@pytest.mark.parametrize("compression", [CompressionType.NONE, CompressionType.LZ4, CompressionType.ZSTD])
def test_a_foreign_mcap_reads_alike_and_a_flipped_bit_ends_it_there(
    tmp_path: Path, compression: CompressionType
) -> None:
    whole = heard(sample.write(tmp_path / "ours", RAW.events()))
    file = written_by_mcap(tmp_path / "theirs.mcap", compression)
    assert heard(file) == whole
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0xFF
    file.write_bytes(bytes(data))
    found, said = until_damage(file)
    assert 0 < len(found) < len(whole) and set(found) <= set(whole) and "is damaged" in said


def test_a_whole_file_without_its_metadata_is_a_whole_bag(tmp_path: Path) -> None:
    bag = sample.write(tmp_path / "bag", SHORT.events())
    whole = heard(bag)
    (bag / "metadata.yaml").unlink()
    assert until_damage(bag) == (sorted(whole, key=lambda m: m[1]), "") or heard(bag) == whole
    (bag / "metadata.yaml").write_text("rosbag2_bagfile_information: [")
    assert heard(bag) == whole


def test_a_bag_in_several_files_is_one(tmp_path: Path) -> None:
    """As `ros2 bag record --max-bag-size` leaves it when it is killed: files, the last cut off, no metadata."""
    events = list(SHORT.events())
    half = len(events) // 2
    (tmp_path / "bag").mkdir()
    for i, part in enumerate((events[:half], events[half:])):
        made = sample.write(tmp_path / f"part{i}", part)
        shutil.copy(next(made.glob("*.mcap")), tmp_path / "bag" / f"bag_{i}.mcap")
    assert heard(tmp_path / "bag") == heard(sample.write(tmp_path / "whole", events))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_whatever_is_broken_only_a_bag_error_comes_out(tmp_path: Path, storage: str, seed: int) -> None:
    bag = sample.write(tmp_path / "bag", SHORT.events(), storage)
    file = next(p for p in bag.iterdir() if p.suffix in (".mcap", ".db3"))
    data, rng = file.read_bytes(), random.Random(seed)
    for _ in range(12):
        broken = bytearray(data[: rng.choice([len(data), rng.randrange(len(data))])])
        for _ in range(rng.choice([0, 1, 8, 64])):
            if broken:
                broken[
                    rng.choice([rng.randrange(len(broken)), len(broken) - 1 - rng.randrange(min(len(broken), 500))])
                ] = rng.randrange(256)
        file.write_bytes(bytes(broken))
        until_damage(bag)  # any other exception fails the test


def test_missing_empty_and_foreign_bags_say_what_a_bag_is(tmp_path: Path) -> None:
    cases = {"no bag at": tmp_path / "none"}
    (tmp_path / "folder").mkdir()
    cases["holds no .mcap and no .db3"] = tmp_path / "folder"
    (tmp_path / "text.txt").write_text("not a bag")
    cases["text.txt' is no bag: its name does not end in"] = tmp_path / "text.txt"
    for ending in ("mcap", "db3"):
        (tmp_path / f"foreign.{ending}").write_bytes(b"not a bag at all" * 10)
        (tmp_path / f"empty.{ending}").write_bytes(b"")
        cases[f"foreign.{ending}' is damaged: .*nothing of it can be read"] = tmp_path / f"foreign.{ending}"
        cases[f"empty.{ending}' is an empty file (0 bytes)"] = tmp_path / f"empty.{ending}"
    for says, path in cases.items():
        with pytest.raises(BagError, match=says.replace("(", r"\(").replace(")", r"\)")) as raised:
            read.topics(path)
        assert "\n" not in str(raised.value) and "a rosbag2 folder" in str(raised.value)
    BagWriter(tmp_path / "nothing").close()
    assert read.topics(tmp_path / "nothing") == {}
    with pytest.raises(BagError, match="is empty: it holds no topic"):
        list(read.messages(tmp_path / "nothing", ["/wrist/image"]))
    with pytest.raises(BagError, match="Did you mean '/wrist/image'"):
        list(read.messages(sample.write(tmp_path / "bag", SHORT.events()), ["/wrist/imgae"]))


def test_a_bag_that_exists_is_not_written_over(tmp_path: Path) -> None:
    with pytest.raises(BagError, match="valid: a folder that does not exist yet"):
        BagWriter(tmp_path)
    with pytest.raises(BagError, match="Did you mean 'mcap'"):
        BagWriter(tmp_path / "bag", "mcpa")


def test_the_sample_is_the_same_every_time_and_small(tmp_path: Path) -> None:
    a, b = (sample.write(tmp_path / name, Sample().events()) for name in "ab")
    assert heard(a) == heard(b) != heard(sample.write(tmp_path / "c", Sample(seed=1).events()))
    assert sum(p.stat().st_size for p in a.iterdir()) < 1_000_000
    with pytest.raises(BagError, match="unknown encoding 'gif'"):
        list(Sample(encoding="gif").events())


def test_memory_does_not_grow_with_the_bag(tmp_path: Path) -> None:
    """Peak of a stream through 24 MB and through 96 MB; bench/speed/bags has the figure for 2 GB."""
    import subprocess

    program = (
        "import sys\n"
        "from ecovla_ros.bags.read import Bag\n"
        "with Bag(sys.argv[1]) as bag:\n"
        "    n = sum(len(raw.data) for raw in bag.raw(list(bag.topics)))\n"
        "print(n, next(l.split()[1] for l in open('/proc/self/status') if l.startswith('VmHWM')))\n"
    )
    peaks = []
    for seconds in (2, 8):
        events = Sample(seconds=seconds, size=448, encoding="rgb8").events()
        bag = sample.write(tmp_path / f"bag{seconds}", events)
        run = subprocess.run([sys.executable, "-c", program, str(bag)], capture_output=True, text=True, check=True)
        size, peak = map(int, run.stdout.split())
        peaks.append(peak * 1024)
    assert size > 90e6 and peaks[1] - peaks[0] < 20e6


def test_a_message_that_is_none_is_named(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "bag") as bag:
        bag.add("/joint_states", "sensor_msgs/msg/JointState")
        bag.write("/joint_states", 1, b"\0\1\0\0junk")
    with pytest.raises(BagError, match="a message of /joint_states"):
        list(read.messages(tmp_path / "bag", ["/joint_states"]))
    from ecovla_ros.bags.stamps import stamp_of
    from ecovla_ros.bags.storage import Raw

    with pytest.raises(ObservationError, match="valid: a header and more"):
        stamp_of(Raw("/x", "", 0, b"\0\1"))
