"""Laws about bags that are changed in known ways: what the replay and the guard make of them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.small_bag import SAMPLE, STILL, Stay, answers, of, settings, shifted, written

from ecovla_ros import config
from ecovla_ros.bags import read, replay, sample
from ecovla_ros.bags.guarded import Guarded
from ecovla_ros.bags.inputs import Feed, choose
from ecovla_ros.bags.read import Bag
from ecovla_ros.bags.sample import Sample
from ecovla_ros.config import Config, ControlConfig, NodeConfig
from ecovla_ros.control import playback
from ecovla_ros.errors import ControlError
from ecovla_ros.types import CAMERAS, Observation

PICTURES = tuple(f"/{camera}/image" for camera in CAMERAS)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return settings(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def dense(small: Config) -> Config:
    return config.override(small, **{"prune.method": "dense"})


def chunks(found: list[dict[str, Any]]) -> dict[int, Any]:
    return {row["stamp_ns"]: row["joints"] for row in found if "joints" in row}


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
        listen = replay.listener(bag, topics["joint_states"], None, guard)
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
    stamped = [
        e if e.topic == "/instruction" or e.time_ns < sample.START_NS + 1_200_000_000 else shifted(e, 5.0)
        for e in events
    ]
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


@pytest.mark.parametrize("hz", [1, 10, 50])
def test_other_words_start_an_episode_and_the_same_words_again_change_nothing(tmp_path: Path, hz: int) -> None:
    """`ros2 topic pub` and web clients repeat a message for as long as they run."""
    events = list(SAMPLE.events())
    said = [events[0]._replace(time_ns=sample.START_NS + round(k * 1e9 / hz)) for k in range(2 * hz)]
    other = copy.deepcopy(events[0]._replace(time_ns=sample.START_NS + 950_000_000))
    other.message.data = "dance"
    engine = Stay()
    answers(written(tmp_path, sorted([*events[1:], *said], key=lambda e: e.time_ns)), engine)
    assert engine.resets == [0]
    engine = Stay()
    answers(written(tmp_path, sorted([*events, other], key=lambda e: e.time_ns), "other"), engine)
    assert engine.resets == [0, 10]


def test_a_default_instruction_holds_until_another_comes(tmp_path: Path) -> None:
    events = list(SAMPLE.events())
    late = events[0]._replace(time_ns=sample.START_NS + 950_000_000)
    engine = Stay()
    with Bag(written(tmp_path, sorted([*events[1:], late], key=lambda e: e.time_ns))) as bag:
        feed = Feed(bag, choose(bag, {}, default="tidy up"), NodeConfig(), "tidy up")
        assert len(list(replay.answers(bag, engine, feed, 0))) == 20
    assert [seen.instruction for seen in engine.seen] == ["tidy up"] * 10 + [SAMPLE.instruction] * 10
    with Bag(written(tmp_path, events[1:], "none")) as bag:
        assert "instruction" not in choose(bag, {}, default="tidy up")


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
    late[wrist[6]], late[wrist[7]] = (
        events[wrist[7]]._replace(time_ns=events[wrist[6]].time_ns),
        events[wrist[6]]._replace(time_ns=events[wrist[7]].time_ns),
    )
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
    assert "is damaged" in cut.damage and len(list(read.messages(tmp_path / "kept", ["/action_chunk"]))) == len(
        cut.rows
    )
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
