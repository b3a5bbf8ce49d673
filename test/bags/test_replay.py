"""Replay: a bag is the same as the frames it holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.small_bag import SAMPLE, Stay, settings, written

from ecovla_ros import build, cli, config, wire
from ecovla_ros.bags import read, replay, sample
from ecovla_ros.bags.inputs import Feed, choose, mapping
from ecovla_ros.bags.read import Bag
from ecovla_ros.bags.sample import Sample
from ecovla_ros.config import Config, NodeConfig
from ecovla_ros.engine.streams import Deferred, Inline
from ecovla_ros.errors import BagError
from ecovla_ros.types import CAMERAS, Observation

PICTURES = tuple(f"/{camera}/image" for camera in CAMERAS)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return settings(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def dense(small: Config) -> Config:
    return config.override(small, **{"prune.method": "dense"})


def observations(events: list[sample.TimedMessage]) -> list[Observation]:
    """The frames of the sample, by hand: both pictures, and the joint state of the same stamp."""
    states = {e.time_ns: wire.arm_state(e.message) for e in events if e.topic == "/joint_states"}
    found = []
    pairs = [e for e in events if e.topic in PICTURES]
    for a, b in zip(pairs[::2], pairs[1::2], strict=True):
        state = states[a.time_ns]
        images = {name: wire.decode_image(e.message) for name, e in zip(CAMERAS, (a, b))}
        found.append(Observation(a.time_ns, images, state.joints, state.gripper, SAMPLE.instruction))
    return found


def chunks(found: list[dict[str, Any]]) -> dict[int, Any]:
    return {row["stamp_ns"]: row["joints"] for row in found if "joints" in row}


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@pytest.mark.parametrize("streams", [Inline, Deferred])
def test_a_bag_gives_the_chunks_of_the_frames_it_holds(
    small: Config, tmp_path: Path, storage: str, streams: Any
) -> None:
    events = list(SAMPLE.events())
    rows = replay.run(small, sample.write(tmp_path / "bag", events, storage)).rows
    engine = build.engine(small, streams())
    frames = observations(events)
    for row, obs in zip(rows, frames, strict=True):
        step = engine.step(obs)
        assert row["joints"] == step.chunk.joints.tolist() and row["grippers"] == step.chunk.gripper.tolist()
        assert (row["kind"], row["triggered"], row["swaps"]) == (
            step.report.kind,
            step.report.triggered,
            step.report.swaps,
        )
    engine.close()
    assert len(rows) == 20 and {"sparse", "refresh"} == {r["kind"] for r in rows}
    assert len({r["pattern"] for r in rows}) > 1, "the pattern changes with the scene"


@pytest.mark.parametrize("encoding", ["rgb8", "png"])
def test_how_pictures_are_packed_does_not_matter_where_nothing_is_lost(
    small: Config, tmp_path: Path, encoding: str
) -> None:
    packed = Sample(**{**vars(SAMPLE), "encoding": encoding})
    assert chunks(replay.run(small, written(tmp_path, list(packed.events()), "a")).rows) == chunks(
        replay.run(small, written(tmp_path, list(SAMPLE.events()), "b")).rows
    )


def test_every_message_is_heard_once_and_in_order_with_few_in_memory(tmp_path: Path) -> None:
    """Also where one camera is silent for most of the bag, so that no frame comes."""
    events = [e for e in SAMPLE.events() if e.topic != "/wrist/image" or e.time_ns < sample.START_NS + 300_000_000]
    bag = written(tmp_path, events)
    with Bag(bag) as source:
        feed = Feed(source, choose(source, {}), NodeConfig())
        whole = [(raw.topic, raw.time_ns) for raw in source.raw(feed.topics)]
        batches = [(len(messages), found) for messages, found, _ in replay._found(source, feed, lambda: 0.0)]
        assert max(size for size, _ in batches) <= replay.BATCH and sum(size for size, _ in batches) == len(whole)
        heard: list[tuple[str, int]] = []
        again = Feed(source, choose(source, {}), NodeConfig())
        tell = lambda raw: heard.append((raw.topic, raw.time_ns))  # noqa: E731
        assert len(list(replay.answers(source, Stay(), again, 0, heard=tell))) == 4  # three frames, and one hold
    assert heard == whole and len(whole) > 1.5 * replay.BATCH


def test_replay_twice_is_the_same_and_pace_changes_nothing(small: Config, tmp_path: Path) -> None:
    bag = written(tmp_path, list(SAMPLE.events()))
    first = replay.run(small, bag).rows
    paced: list[int] = []
    second = replay.run(small, bag, replay.Options(pace=paced.append)).rows
    same = ("time_ns", "stamp_ns", "joints", "grippers", "kind", "similarity", "threshold", "pattern", "pattern_age")
    assert [[r[k] for k in same] for r in first] == [[r[k] for k in same] for r in second]
    assert paced == [r["time_ns"] for r in first]


def test_topics_of_any_name_and_a_task_from_the_command_line(dense: Config, tmp_path: Path) -> None:
    names = {"/wrist/image": "/hand/rgb", "/joint_states": "/gen3/joint_states"}
    events = [e._replace(topic=names.get(e.topic, e.topic)) for e in SAMPLE.events() if e.topic != "/instruction"]
    bag = written(tmp_path, events)
    mapped = mapping(["wrist=/hand/rgb", "joint_states=/gen3/joint_states"])
    rows = replay.run(dense, bag, replay.Options(mapped, instruction=SAMPLE.instruction)).rows
    assert chunks(rows) == chunks(replay.run(dense, written(tmp_path, list(SAMPLE.events()), "plain")).rows)
    for topics, says in (
        ({}, "Name the topic of 'wrist': --map wrist=TOPIC"),
        (mapped, "--instruction 'the task in words'"),
        (
            {**mapped, "instruction": "/hand/rgb"},
            "holds sensor_msgs/msg/Image; valid for instruction: std_msgs/msg/String",
        ),
        ({**mapped, "third_person": "/hand/rgb"}, "named for two inputs"),
    ):
        with pytest.raises(BagError, match=says):
            replay.run(dense, bag, replay.Options(topics))
    with pytest.raises(BagError, match="Did you mean 'wrist'.*Write input=topic"):
        mapping(["wirst=/x"])


def test_the_policys_rate_takes_every_third_of_thirty_pictures_a_second(dense: Config, tmp_path: Path) -> None:
    fast = Sample(**{**vars(SAMPLE), "image_hz": 30.0})
    bag = written(tmp_path, list(fast.events()))
    every = replay.run(dense, bag).rows
    some = replay.run(dense, bag, replay.Options(rate="policy")).rows
    assert len(every) == 60 and len(some) == 20
    assert chunks(some).items() <= chunks(every).items(), "a dense chunk does not depend on the frames left out"
    assert len(replay.run(dense, bag, replay.Options(rate=5.0)).rows) == 10


def test_a_new_bag_holds_inputs_and_answers_and_replays_the_same(small: Config, tmp_path: Path) -> None:
    bag = written(tmp_path, list(SAMPLE.events()))
    rows = replay.run(small, bag, out=tmp_path / "new").rows
    said = {m.topic: [] for m in read.messages(tmp_path / "new", ["/action_chunk", "/latency", "/pruning"])}
    for message in read.messages(tmp_path / "new", list(said)):
        said[message.topic].append(message.value)
    for row, chunk, latency, pruning in zip(
        rows, *(said[t] for t in ("/action_chunk", "/latency", "/pruning")), strict=True
    ):
        assert (
            wire.chunk(chunk).joints.tolist() == row["joints"] and wire.stamp_ns(chunk.header.stamp) == row["stamp_ns"]
        )
        assert latency.policy_ms == row["policy_ms"] and latency.camera_to_chunk_ms >= row["policy_ms"]
        assert (pruning.kind, pruning.triggered, pruning.pattern_id) == (
            row["kind"],
            row["triggered"],
            row["pattern_id"],
        )
    assert chunks(replay.run(small, tmp_path / "new").rows) == chunks(rows)
    with pytest.raises(BagError, match="valid: a folder that does not exist yet"):
        replay.run(small, bag, out=tmp_path / "new")


def test_a_bag_that_gives_no_answer_says_why(small: Config, tmp_path: Path) -> None:
    other = Sample(**{**vars(SAMPLE), "instruction": "dance"})
    with pytest.raises(
        BagError, match="no frame could be answered: unknown instruction 'dance'; valid: place the apple"
    ):
        replay.run(small, written(tmp_path, list(other.events())))
    blind = [e for e in SAMPLE.events() if e.topic != "/wrist/image"] + [
        next(e for e in SAMPLE.events() if e.topic == "/wrist/image")
    ]
    deaf = [e for e in SAMPLE.events() if e.topic != "/joint_states"]
    with pytest.raises(BagError, match="--map joint_states=TOPIC"):
        replay.run(small, written(tmp_path, deaf, "deaf"))
    del blind[-1]
    with pytest.raises(BagError, match="--map wrist=TOPIC"):
        replay.run(small, written(tmp_path, blind, "blind"))


def test_the_command_writes_rows_and_a_bag_and_says_what_it_held(
    small: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = written(tmp_path, list(SAMPLE.events()))
    common = [
        "replay",
        str(bag),
        "--set",
        f"policy.checkpoint={small.policy.checkpoint}",
        "--method",
        "static",
        "--ratio",
        "0.5",
    ]
    arguments = [
        *common,
        "--json",
        str(tmp_path / "rows.json"),
        "--out",
        str(tmp_path / "new"),
        "--guard",
        "--rate",
        "policy",
    ]
    assert cli.main(arguments) == 0  # this checkpoint has no calibration: the first frames give the fixed pattern
    kinds = [row["kind"] for row in json.loads((tmp_path / "rows.json").read_text())["rows"]]
    first = config.Config().prune.cold_frames
    assert kinds == ["dense"] * (first - 1) + ["refresh"] + ["sparse"] * (20 - first)
    capsys.readouterr()
    arguments = [a if a != "static" else "ecovla" for a in arguments]
    arguments[arguments.index(str(tmp_path / "new"))] = str(tmp_path / "newer")
    assert cli.main(arguments) == 0
    document = json.loads((tmp_path / "rows.json").read_text())
    assert len(document["rows"]) == 20 and {"guard", "pattern", "policy_ms", "joints"} <= set(document["rows"][0])
    assert "20 frames answered" in capsys.readouterr().out
    for wrong, says in (
        (["--rate", "fast"], "valid: policy"),
        (["--regenerate"], "--golden"),
        (["--ratio", "2"], "outside"),
    ):
        assert cli.main([*common, *wrong]) == 2 and says in capsys.readouterr().err


def test_real_time_waits_until_the_bag_has_come_so_far() -> None:
    from ecovla_ros.cli.replay import real_time

    now, slept = [100.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    pace = real_time(lambda: now[0], sleep)
    for time_ns in (5_000_000_000, 5_100_000_000, 5_300_000_000):
        pace(time_ns)
        now[0] += 0.03  # the frame
    assert slept == pytest.approx([0.0, 0.07, 0.17])
    pace(1_000_000_000)  # the clock jumped back: begin anew
    assert slept[-1] == 0.0


def test_where_no_frame_is_answered_the_cause_is_what_held_most_of_them() -> None:
    late = [f"joint_states is {0.1 * i:.3f} s away; valid: up to 0.080 s" for i in range(1, 6)]
    assert replay.commonest([*late, "no image for 0.3 s on /wrist/image"]) == late[-1]
    assert replay.commonest(["a", "b", "b"]) == "b" and "no frame" in replay.commonest([])
