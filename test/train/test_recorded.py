"""Recorded episodes: what is written to a LeRobot data set or read from a bag is what was seen and done."""

from __future__ import annotations

import gc
import json
import weakref

import numpy as np
import pytest

from ecovla_ros import wire
from ecovla_ros.bags import sample
from ecovla_ros.bags.demonstrations import GRIPPER, GRIPPER_KIND, GRIPPER_TOPIC, _frames, demonstrations, told
from ecovla_ros.bags.inputs import Frame
from ecovla_ros.bags.kinds import Kinds
from ecovla_ros.bags.sample import START_NS, Sample, TimedMessage
from ecovla_ros.config import ArmConfig, NodeConfig
from ecovla_ros.errors import BagError, CheckpointError, ConfigError
from ecovla_ros.train import demos, lerobot
from ecovla_ros.train.dataset import Dataset, import_demonstrations
from ecovla_ros.train.frames import DemoSettings
from ecovla_ros.types import CAMERAS, GEN3, Demonstration, Observation

TEXTS = ("place the apple in the basket", "place the banana in the basket")


def demonstration(seed, frames=12, size=24, text=TEXTS[0]):
    rng = np.random.default_rng(seed)
    joints = np.cumsum(rng.uniform(-0.05, 0.05, (frames + 1, 7)), 0).astype(np.float32).astype(float)
    seen = tuple(
        Observation(
            1 + i * 10**8,
            {c: rng.integers(0, 256, (size, size, 3), np.uint8) for c in CAMERAS},
            joints[i],
            float(np.float32(rng.random())),
            text,
        )
        for i in range(frames)
    )
    return Demonstration(seen, joints[1:], rng.random(frames), 0.1)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    pytest.importorskip("pyarrow")
    folder = tmp_path_factory.mktemp("lerobot") / "set"
    episodes = [demonstration(0), demonstration(1, 15, text=TEXTS[1]), demonstration(2, 11)]
    assert lerobot.write(folder, iter(episodes)) == 3
    return folder, episodes


def test_a_lerobot_data_set_reads_back_as_it_was_written(written):
    folder, episodes = written
    back = list(lerobot.read(folder))
    assert len(back) == 3
    for before, after in zip(episodes, back):
        assert np.allclose(before.joints, after.joints, atol=1e-6)
        assert np.allclose(before.gripper, after.gripper, atol=1e-6)
        assert after.period_s == pytest.approx(0.1) and len(before.observations) == len(after.observations)
        for a, b in zip(before.observations, after.observations):
            assert a.instruction == b.instruction and np.allclose(a.joints, b.joints) and a.gripper == b.gripper
            assert abs(a.stamp_ns - b.stamp_ns) < 1000
            assert all(np.array_equal(a.images[c], b.images[c]) for c in CAMERAS)  # PNG loses nothing


def test_its_files_are_those_of_the_format(written):
    """Names and columns as lerobot 0.4 to 0.6 reads them (LeRobotDatasetMetadata, load_tasks, load_episodes)."""
    import pyarrow.parquet as parquet

    folder, episodes = written
    info = json.loads((folder / "meta/info.json").read_text())
    assert info["codebase_version"] == "v3.0" and info["fps"] == 10 and info["total_frames"] == 38
    table = parquet.read_table(folder / info["data_path"].format(chunk_index=0, file_index=0))
    assert set(table.column_names) == set(info["features"])
    assert table["index"].to_pylist() == list(range(38))
    rows = parquet.read_table(folder / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert [(r["dataset_from_index"], r["dataset_to_index"], r["tasks"]) for r in rows] == [
        (0, 12, [TEXTS[0]]),
        (12, 27, [TEXTS[1]]),
        (27, 38, [TEXTS[0]]),
    ]
    assert {"data/chunk_index", "data/file_index", "length", "stats/action/mean"} <= set(rows[0])
    tasks = parquet.read_table(folder / "meta/tasks.parquet")
    assert json.loads(tasks.schema.metadata[b"pandas"])["index_columns"] == ["task"]
    stats = json.loads((folder / "meta/stats.json").read_text())
    actions = np.concatenate([np.column_stack((e.joints, e.gripper)) for e in episodes]).astype(np.float32)
    assert np.allclose(stats["action"]["mean"], actions.mean(0), atol=1e-5)
    assert np.allclose(stats["action"]["q99"], np.quantile(actions.astype(float), 0.99, axis=0), atol=1e-5)


def test_what_is_no_lerobot_data_set_is_named(written, tmp_path):
    folder, episodes = written
    with pytest.raises(CheckpointError, match="not empty"):
        lerobot.write(folder, episodes)
    with pytest.raises(ConfigError, match="no episode"):
        lerobot.write(tmp_path / "none", [])
    with pytest.raises(ConfigError, match="episode 1 has other cameras"):
        lerobot.write(tmp_path / "mixed", [demonstration(0), demonstration(1, size=16)])
    with pytest.raises(CheckpointError, match="no LeRobot data set"):
        list(lerobot.read(tmp_path))
    (tmp_path / "meta").mkdir()
    info = json.loads((folder / "meta/info.json").read_text())
    for change, match in (
        ({"codebase_version": "v1.6"}, "format v1.6"),
        ({"features": {"observation.state": {"shape": [6]}}}, "6 columns and 0 names"),
    ):
        (tmp_path / "meta/info.json").write_text(json.dumps({**info, **change}))
        with pytest.raises(CheckpointError, match=match):
            list(lerobot.read(tmp_path))


META = {**demos.meta_of(DemoSettings(size=24, horizon=4)), "instructions": list(TEXTS)}


def test_recorded_episodes_become_frames_without_labels(tmp_path):
    episodes = [demonstration(0), demonstration(1, text=TEXTS[1])]
    assert import_demonstrations(tmp_path / "shard-000", iter(episodes), META) == 2
    assert import_demonstrations(tmp_path / "shard-000", iter([]), META) == 2  # kept
    data = Dataset(tmp_path)
    assert len(data) == 24 and not data.labelled
    first = data.rows("actions", np.array([0, 11]))
    assert np.allclose(first[0, :, :7], episodes[0].joints[:4], atol=1e-6)
    assert np.allclose(first[1, :, :7], episodes[0].joints[-1], atol=1e-6)  # at the end the arm stays
    again = list(data.demonstrations())
    assert [len(d.gripper) for d in again] == [12, 12] and again[1].observations[0].instruction == TEXTS[1]
    assert np.array_equal(again[0].observations[3].images["wrist"], episodes[0].observations[3].images["wrist"])


def test_an_import_holds_one_episode_at_a_time_and_gives_back_what_it_reserved(tmp_path):
    born = []

    def episodes():
        for i in range(9):
            made = demonstration(i)
            born.extend(weakref.ref(seen) for seen in made.observations)
            yield made
            del made
            gc.collect()
            assert sum(seen() is not None for seen in born) <= 24, "of two episodes at most"

    assert import_demonstrations(tmp_path / "shard-000", episodes(), META) == 9
    assert len(np.load(tmp_path / "shard-000/images.npy", mmap_mode="r")) == len(Dataset(tmp_path)) == 9 * 12
    for i, again in enumerate(Dataset(tmp_path).demonstrations()):
        assert np.allclose(again.joints, demonstration(i).joints, atol=1e-6)


def test_what_was_imported_before_an_episode_that_is_broken_is_not_taken_for_all(tmp_path):
    def episodes(stop):
        yield demonstration(0)
        if stop:
            raise CheckpointError("episode 1 is cut")
        yield demonstration(1)

    with pytest.raises(CheckpointError, match="is cut"):
        import_demonstrations(tmp_path / "shard-000", episodes(True), META)
    with pytest.raises(CheckpointError, match="no demonstrations"):
        Dataset(tmp_path)
    assert import_demonstrations(tmp_path / "shard-000", episodes(False), META) == 2 and len(Dataset(tmp_path)) == 24


def test_an_episode_that_does_not_fit_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="'dance'"):
        import_demonstrations(tmp_path / "a", [demonstration(0, text="dance")], META)
    slow = demonstration(0)
    with pytest.raises(CheckpointError, match="period of 0.2 s"):
        import_demonstrations(tmp_path / "b", [Demonstration(slow.observations, slow.joints, slow.gripper, 0.2)], META)


def test_a_bag_of_teleoperation_is_a_demonstration(tmp_path):
    events = list(Sample(seconds=3.0, size=32, encoding="rgb8", instruction=TEXTS[0]).events())
    bag = sample.write(tmp_path / "bag", events)
    (episode,) = demonstrations(bag, {}, NodeConfig())
    frames = [f.observation for f, _ in _frames(bag, {}, NodeConfig(), 0.1, "") if isinstance(f, Frame)]
    assert len(episode.gripper) == len(frames) - 1 == len(episode.observations) and len(frames) > 25
    wrapped = (episode.joints - np.array([f.joints for f in frames[1:]]) + np.pi) % (2 * np.pi) - np.pi
    assert np.abs(wrapped).max() < 1e-9  # where it was one period later is where it was sent
    assert np.array_equal(episode.observations[5].images["wrist"], frames[5].images["wrist"])
    assert episode.observations[0].instruction == TEXTS[0]
    (slow,) = demonstrations(bag, {}, NodeConfig(), 0.2)
    assert abs(len(slow.gripper) - len(frames) // 2) <= 1 and slow.period_s == 0.2
    with pytest.raises(BagError, match="no demonstration"):
        list(demonstrations(sample.write(tmp_path / "short", events[:60]), {}, NodeConfig()))


def test_a_second_instruction_begins_another_episode(tmp_path):
    first = list(Sample(seconds=2.0, size=32, encoding="rgb8", instruction=TEXTS[0]).events())
    second = list(Sample(seconds=2.0, size=32, encoding="rgb8", instruction=TEXTS[1], seed=1).events())
    shift = 2_000_000_000
    for event in second:
        if hasattr(event.message, "header"):
            wire.set_stamp(event.message.header.stamp, wire.stamp_ns(event.message.header.stamp) + shift)
    second = [event._replace(time_ns=event.time_ns + shift) for event in second]
    found = list(demonstrations(sample.write(tmp_path / "bag", [*first, *second]), {}, NodeConfig()))
    assert [d.observations[0].instruction for d in found] == list(TEXTS)
    assert all(len({o.instruction for o in d.observations}) == 1 for d in found)


def with_jaws(tmp_path, name, jaws, commands=(), topic=GRIPPER_TOPIC):
    """A bag of 3 s whose jaws are where `jaws` (by seconds) says; commands: (seconds, target)."""
    events = []
    for event in Sample(seconds=3.0, size=32, encoding="rgb8", instruction=TEXTS[0]).events():
        if event.topic == "/joint_states":
            seconds = (event.time_ns - START_NS) / 1e9
            event.message.position[list(event.message.name).index(GEN3.gripper)] = jaws(seconds) * GEN3.closed_rad
        events.append(event)
    for seconds, target in commands:
        msg = wire.fill_gripper(
            Kinds().blank(GRIPPER_KIND), target, 0.5, lambda: Kinds().blank("trajectory_msgs/msg/JointTrajectoryPoint")
        )
        events.append(TimedMessage(topic, GRIPPER_KIND, START_NS + round(seconds * 1e9), msg))
    return sample.write(tmp_path / name, sorted(events, key=lambda event: event.time_ns))


def grasp(seconds):
    """Closes at 1 s, is stopped by something at 0.4 of its stroke, opens at 2 s."""
    return min(max(2.0 * (seconds - 1.0), 0.0), 0.4) if seconds < 2.0 else max(0.4 - 2.0 * (seconds - 2.0), 0.0)


def test_jaws_that_something_stops_are_told_to_close_and_not_to_stand_where_they_stand(tmp_path):
    """Else a policy trained on them would hold what it grasps with no force."""
    (guessed,) = demonstrations(with_jaws(tmp_path, "guessed", grasp), {}, NodeConfig())
    assert set(guessed.gripper[11:19]) == {1.0} and set(guessed.gripper[:9]) == {0.0} and guessed.gripper[-1] == 0.0
    commands = [(1.0, 1.0), (2.0, 0.0)]
    (known,) = demonstrations(with_jaws(tmp_path, "known", grasp, commands), {}, NodeConfig())
    assert set(known.gripper[10:19]) == {1.0} and set(known.gripper[21:]) == {0.0} and set(known.gripper[:9]) == {0.0}
    half = [(1.0, 0.6), (2.0, 0.0)]
    (told_half,) = demonstrations(with_jaws(tmp_path, "half", grasp, half), {}, NodeConfig())
    assert told_half.gripper[15] == pytest.approx(0.6), "what was commanded counts, whatever the jaws did"


def test_the_grippers_command_may_be_on_a_topic_of_any_name_and_must_be_one(tmp_path):
    commands = [(1.0, 0.7)]
    bag = with_jaws(tmp_path, "bag", grasp, commands, "/hand/command")
    (episode,) = demonstrations(bag, {GRIPPER: "/hand/command"}, NodeConfig())
    assert episode.gripper[15] == pytest.approx(0.7)
    for topic, words in (("/wrist/image", "valid for gripper"), ("/nowhere", "/nowhere")):
        with pytest.raises(BagError, match=words):
            list(demonstrations(bag, {GRIPPER: topic}, NodeConfig()))
    with pytest.raises(BagError, match="--map gripper=TOPIC"):
        list(demonstrations(bag, {GRIPPER: "/hand/command"}, NodeConfig(), arm=ArmConfig(gripper_joint="thumb")))


def test_an_arm_without_a_gripper_has_no_command_of_one(tmp_path):
    bag = with_jaws(tmp_path, "bag", grasp, [(1.0, 1.0)])
    (episode,) = demonstrations(bag, {}, NodeConfig(), arm=ArmConfig(gripper_joint="none"))
    assert not episode.gripper.any()


def test_jaws_are_told_where_they_go_when_they_open(tmp_path):
    measured = np.array([1.0, 1.0, 0.7, 0.4, 0.3, 0.3, 0.31, 0.3])
    assert told(measured) == pytest.approx(measured[1:])
    assert told(np.array([0.0, 0.1, 0.2, 0.2, 0.2, 0.1, 0.0])) == pytest.approx([1.0, 1.0, 1.0, 1.0, 0.1, 0.0])
