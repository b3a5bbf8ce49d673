"""Replay: a bag is the same as the frames it holds, and laws about bags that are changed in known ways."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_bag import SAMPLE, STILL, Stay, answers, of, settings, shifted, written

from ecovla_ros import build, cli, config, wire
from ecovla_ros.bags import read, replay, sample
from ecovla_ros.bags.guarded import Guarded
from ecovla_ros.bags.inputs import Feed, choose, mapping
from ecovla_ros.bags.read import Bag
from ecovla_ros.bags.sample import Sample
from ecovla_ros.config import Config, ControlConfig, NodeConfig
from ecovla_ros.control import playback
from ecovla_ros.engine.streams import Deferred, Inline
from ecovla_ros.errors import BagError, ControlError
from ecovla_ros.types import CAMERAS, Observation

PICTURES = tuple(f"/{camera}/image" for camera in CAMERAS)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return settings(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def dense(small: Config) -> Config:
    return config.override(small, **{"prune.method": "dense"})


def observations(events: list[sample.Event]) -> list[Observation]:
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
def test_a_bag_gives_the_chunks_of_the_frames_it_holds(small: Config, tmp_path: Path, storage: str, streams: Any) -> None:
    events = list(SAMPLE.events())
    rows = replay.run(small, sample.write(tmp_path / "bag", events, storage)).rows
    engine = build.engine(small, streams())
    frames = observations(events)
    for row, obs in zip(rows, frames, strict=True):
        step = engine.step(obs)
        assert row["joints"] == step.chunk.joints.tolist() and row["grippers"] == step.chunk.gripper.tolist()
        assert (row["kind"], row["triggered"], row["swaps"]) == (step.report.kind, step.report.triggered, step.report.swaps)
    engine.close()
    assert len(rows) == 20 and {"sparse", "refresh"} == {r["kind"] for r in rows}
    assert len({r["pattern"] for r in rows}) > 1, "the pattern changes with the scene"


@pytest.mark.parametrize("encoding", ["rgb8", "png"])
def test_how_pictures_are_packed_does_not_matter_where_nothing_is_lost(small: Config, tmp_path: Path, encoding: str) -> None:
    packed = Sample(**{**vars(SAMPLE), "encoding": encoding})
    assert chunks(replay.run(small, written(tmp_path, list(packed.events()), "a")).rows) == chunks(
        replay.run(small, written(tmp_path, list(SAMPLE.events()), "b")).rows)


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
        ({**mapped, "instruction": "/hand/rgb"}, "holds sensor_msgs/msg/Image; valid for instruction: std_msgs/msg/String"),
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
    for row, chunk, latency, pruning in zip(rows, *(said[t] for t in ("/action_chunk", "/latency", "/pruning")), strict=True):
        assert wire.chunk(chunk).joints.tolist() == row["joints"] and wire.stamp_ns(chunk.header.stamp) == row["stamp_ns"]
        assert latency.policy_ms == row["policy_ms"] and latency.camera_to_chunk_ms >= row["policy_ms"]
        assert (pruning.kind, pruning.triggered, pruning.pattern_id) == (row["kind"], row["triggered"], row["pattern_id"])
    assert chunks(replay.run(small, tmp_path / "new").rows) == chunks(rows)
    with pytest.raises(BagError, match="valid: a folder that does not exist yet"):
        replay.run(small, bag, out=tmp_path / "new")


def test_a_camera_that_is_silent_for_half_a_second_holds(dense: Config, tmp_path: Path) -> None:
    events = list(SAMPLE.events())
    gone = [i for i in of(events, "/wrist/image") if 0.55 < (events[i].time_ns - sample.START_NS) / 1e9 < 1.05]
    rows = replay.run(dense, written(tmp_path, [e for i, e in enumerate(events) if i not in gone])).rows
    held = [row["held"] for row in rows if "held" in row]
    assert held == ["no image for 0.3 s on /wrist/image"] and len(rows) == 20 - len(gone) + 1
    whole = chunks(replay.run(dense, written(tmp_path, events, "whole")).rows)
    assert chunks(rows).items() <= whole.items() and len(chunks(rows)) == 15


def guarded(path: Path, engine: Any) -> list[tuple[float, str, str]]:
    """When, state and reason of everything the guard said about a bag."""
    said = []
    with Bag(path) as bag:
        topics = choose(bag, {})
        guard = Guarded(ControlConfig())
        listen = replay._listener(bag, topics["joint_states"], None, guard)
        feed = Feed(bag, topics, NodeConfig())

        def heard(raw: Any) -> None:
            guard.until(raw.time_ns)
            said.extend(guard.news())
            listen(raw)

        for answer in replay.answers(bag, engine, feed, 0, heard=heard):
            if answer.chunk is not None:
                guard.chunk(answer.chunk, answer.time_ns)
        said.extend(guard.news())
    return [((n.time_ns - sample.START_NS) / 1e9, n.status.state, n.status.reason) for n in said]


def test_the_guard_runs_holds_in_a_gap_and_runs_again(tmp_path: Path) -> None:
    events = list(STILL.events())
    states = guarded(written(tmp_path, events), Stay())
    assert {"ARMED", "RUNNING"} <= {s for _, s, _ in states} and not {"HOLD", "LATCHED"} & {s for _, s, _ in states}
    gone = [i for i in of(events, "/wrist/image") if 1.65 < (events[i].time_ns - sample.START_NS) / 1e9 < 2.85]
    states = guarded(written(tmp_path, [e for i, e in enumerate(events) if i not in gone], "gap"), Stay())
    holds = [t for t, state, _ in states if state == "HOLD"]
    assert holds and 1.65 < holds[0] < 2.85 and states[-1][1] in ("ARMED", "RUNNING")


def test_a_joint_state_that_is_not_a_number_latches_and_gives_no_chunk(tmp_path: Path) -> None:
    events = list(STILL.events())
    broken = next(i for i in of(events, "/joint_states") if events[i].time_ns - sample.START_NS == 2_000_000_000)
    message = Sample(**vars(STILL))._state(sample.Kinds(), 2_000_000_000)
    message.position[3] = np.nan
    events[broken] = events[broken]._replace(message=message)
    bag = written(tmp_path, events)
    states = guarded(bag, Stay())
    when, _, why = next(s for s in states if s[1] == "LATCHED")
    assert states[-1][1] == "LATCHED" and "NaN" in why and abs(when - 2.0) < 0.05
    held = [a for a in answers(bag, Stay()) if a.held]
    assert len(held) == 1 and held[0].stamp_ns == events[broken].time_ns and "not finite for joint_4" in held[0].held


def test_a_policy_that_gives_no_number_holds_and_the_rest_is_answered(tmp_path: Path) -> None:
    class Broken(Stay):
        def step(self, obs: Observation) -> Any:
            made = super().step(obs)
            if len(self.seen) == 5:
                raise ControlError("the policy's actions are not finite; no chunk is sent")
            return made

    found = answers(written(tmp_path, list(SAMPLE.events())), Broken())
    assert [i for i, a in enumerate(found) if a.held] == [4] and found[4].chunk is None and len(found) == 20


def test_a_clock_that_jumps_back_starts_over(small: Config, tmp_path: Path) -> None:
    events = list(SAMPLE.events())
    stamped = [e if e.topic == "/instruction" or e.time_ns < sample.START_NS + 1_200_000_000 else shifted(e, 5.0) for e in events]
    bag = written(tmp_path, stamped)
    rows = replay.run(small, bag).rows
    assert rows[12]["similarity"] is None and rows[11]["similarity"] is not None and len(rows) == 20
    engine = Stay()
    answers(bag, engine)
    assert engine.resets == [0, 12], "the first frame, and the first after the jump"
    late = [shifted(e, 0.2) if i == of(events, "/wrist/image")[9] else e for i, e in enumerate(events)]
    engine = Stay()
    answers(written(tmp_path, late, "late"), engine)
    assert engine.resets == [0], "a picture that is a little late is no jump"


def test_an_instruction_starts_an_episode_also_when_it_is_the_same(tmp_path: Path) -> None:
    events = list(SAMPLE.events())
    again = events[0]._replace(time_ns=sample.START_NS + 950_000_000)
    bag = written(tmp_path, sorted([*events, again], key=lambda e: e.time_ns))
    engine = Stay()
    answers(bag, engine)
    assert engine.resets == [0, 10]


@pytest.mark.parametrize("period_s, rows", [(0.025, 2), (0.05, 1), (0.1, 0)])
def test_stamps_that_are_50_ms_late_cost_the_chunk_that_many_points(tmp_path: Path, period_s: float, rows: int) -> None:
    events = list(SAMPLE.events())
    late = [shifted(e, 0.05) if e.topic in PICTURES else e for e in events]
    plain, delayed = (answers(written(tmp_path, e, n), Stay(16, period_s)) for e, n in ((events, "a"), (late, "b")))
    assert len(plain) == len(delayed) == 20
    for a, b in zip(plain, delayed):
        assert a.chunk is not None and b.chunk is not None and a.time_ns == b.time_ns
        now_ns = a.time_ns + 30_000_000  # what the policy and the way to the guard take
        assert playback.due(b.chunk, now_ns) - playback.due(a.chunk, now_ns) == rows
        assert playback.due(b.chunk, now_ns) == playback.due(a.chunk, now_ns + 50_000_000)


def test_doubled_frames_give_the_same_chunks_again(dense: Config, tmp_path: Path) -> None:
    events = [copy for e in SAMPLE.events() for copy in ([e, e] if e.topic in PICTURES else [e])]
    rows = replay.run(dense, written(tmp_path, events)).rows
    assert chunks(rows) == chunks(replay.run(dense, written(tmp_path, list(SAMPLE.events()), "plain")).rows)


def test_cameras_in_either_order_and_late_pictures(dense: Config, tmp_path: Path) -> None:
    events = list(SAMPLE.events())
    plain = chunks(replay.run(dense, written(tmp_path, events)).rows)
    swapped = list(events)
    for a, b in zip(of(events, PICTURES[0]), of(events, PICTURES[1])):
        swapped[a], swapped[b] = events[b], events[a]
    assert chunks(replay.run(dense, written(tmp_path, swapped, "swapped")).rows) == plain
    wrist = of(events, "/wrist/image")
    late = list(events)
    late[wrist[6]], late[wrist[7]] = (events[wrist[7]]._replace(time_ns=events[wrist[6]].time_ns),
                                      events[wrist[6]]._replace(time_ns=events[wrist[7]].time_ns))
    found = replay.run(dense, written(tmp_path, late, "late"))
    assert chunks(found.rows).items() <= plain.items(), "no frame is made of pictures of two instants"
    assert len(chunks(found.rows)) >= 18 and found.dropped > 0


def test_what_is_answered_of_a_shorter_bag_is_the_beginning(small: Config, tmp_path: Path) -> None:
    """By events, and by cutting the file off: what could be read is answered, and the damage is told."""
    events = list(SAMPLE.events())
    whole = replay.run(small, written(tmp_path, events)).rows
    part = replay.run(small, written(tmp_path, events[: len(events) // 2], "part")).rows
    assert list(chunks(part).items()) == list(chunks(whole).items())[: len(chunks(part))] and 5 < len(part) < 15
    bag = written(tmp_path, events, "sqlite")
    file = next(sample.write(tmp_path / "cut", events, "sqlite3").glob("*.db3"))
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * 0.6)])
    cut = replay.run(small, file, out=tmp_path / "kept")
    assert list(chunks(cut.rows).items()) == list(chunks(whole).items())[: len(cut.rows)] and 5 < len(cut.rows) < 18
    assert "is damaged" in cut.damage and len(list(read.messages(tmp_path / "kept", ["/action_chunk"]))) == len(cut.rows)
    assert not replay.run(small, bag).damage


def test_cameras_of_different_rates_are_paired_by_stamp(dense: Config, tmp_path: Path) -> None:
    slow = list(SAMPLE.events())
    fast = Sample(**{**vars(SAMPLE), "image_hz": 30.0})
    events = [e for e in slow if e.topic != "/wrist/image"] + [e for e in fast.events() if e.topic == "/wrist/image"]
    events.sort(key=lambda e: (e.time_ns, e.topic == "/wrist/image"))
    found = replay.run(dense, written(tmp_path, events))
    assert len(chunks(found.rows)) == 20 and found.dropped >= 38
    slow_stamps = {e.time_ns for e in slow if e.topic == PICTURES[0]}
    assert all(min(abs(stamp - s) for s in slow_stamps) <= 80_000_000 for stamp in chunks(found.rows))


def test_a_bag_that_gives_no_answer_says_why(small: Config, tmp_path: Path) -> None:
    other = Sample(**{**vars(SAMPLE), "instruction": "dance"})
    with pytest.raises(BagError, match="no frame could be answered: unknown instruction 'dance'; valid: place the apple"):
        replay.run(small, written(tmp_path, list(other.events())))
    blind = [e for e in SAMPLE.events() if e.topic != "/wrist/image"] + [next(e for e in SAMPLE.events() if e.topic == "/wrist/image")]
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
    common = ["replay", str(bag), "--set", f"policy.checkpoint={small.policy.checkpoint}", "--method", "static", "--ratio", "0.5"]
    arguments = [*common, "--json", str(tmp_path / "rows.json"), "--out", str(tmp_path / "new"), "--guard", "--rate", "policy"]
    assert cli.main(arguments) == 2 and "calibration" in capsys.readouterr().err  # this checkpoint has none
    arguments = [a if a != "static" else "ecovla" for a in arguments]
    arguments[arguments.index(str(tmp_path / "new"))] = str(tmp_path / "newer")
    assert cli.main(arguments) == 0
    document = json.loads((tmp_path / "rows.json").read_text())
    assert len(document["rows"]) == 20 and {"guard", "pattern", "policy_ms", "joints"} <= set(document["rows"][0])
    assert "20 frames answered" in capsys.readouterr().out
    for wrong, says in ((["--rate", "fast"], "valid: policy"), (["--regenerate"], "--golden"), (["--ratio", "2"], "outside")):
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
