"""A simulator's bag is read by the simulator's clock, however fast that was beside the recorder's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.small_bag import SAMPLE, Stay

from ecovla_ros import wire
from ecovla_ros.bags import replay, sample
from ecovla_ros.bags.clock import KIND, TOPIC, timed
from ecovla_ros.bags.demonstrations import demonstrations
from ecovla_ros.bags.inputs import Feed, choose
from ecovla_ros.bags.kinds import Kinds
from ecovla_ros.bags.read import Bag
from ecovla_ros.bags.sample import START_NS, TimedMessage
from ecovla_ros.config import NodeConfig

OFTEN_NS = 10_000_000


def simulated(pace: float, behind_ns: int = 0, again_s: float = 0.0) -> list[TimedMessage]:
    """The sample, as if recorded of a simulator at `pace` whose clock is `behind_ns` behind the stamps. `again_s`: when
    its clock begins anew, with the stamps."""
    events: list[TimedMessage] = []
    for after_ns in range(0, round(SAMPLE.seconds * 1e9), OFTEN_NS):
        tick = Kinds().blank(KIND)
        wire.set_stamp(tick.clock, START_NS + after_ns - behind_ns)
        events.append(TimedMessage(TOPIC, KIND, START_NS + after_ns, tick))
    events = sorted([*events, *SAMPLE.events()], key=lambda event: (event.time_ns, event.topic != TOPIC))
    made = []
    for event in events:
        back_ns = round(again_s * 1e9) if again_s and event.time_ns - START_NS >= again_s * 1e9 else 0
        stamp = event.message.clock if event.topic == TOPIC else getattr(event.message, "header", None)
        if stamp is not None:
            stamp = getattr(stamp, "stamp", stamp)
            wire.set_stamp(stamp, wire.stamp_ns(stamp) - back_ns)
        made.append(event._replace(time_ns=START_NS + 40 * 10**9 + round((event.time_ns - START_NS) / pace)))
    return made


def answered(path: Path) -> list[Any]:
    engine = Stay()
    with Bag(path) as bag:
        feed = Feed(bag, choose(bag, {}), NodeConfig())
        return [(a.stamp_ns, a.held) for a in replay.answers(bag, engine, feed, 0)]


@pytest.mark.parametrize("pace", [0.1, 0.5, 1.0, 4.0])
def test_a_frame_is_as_fresh_as_it_was_live_at_any_pace(tmp_path: Path, pace: float) -> None:
    plain = answered(sample.write(tmp_path / "plain", SAMPLE.events()))
    found = answered(sample.write(tmp_path / "bag", simulated(pace)))
    assert found == plain and len(found) == 20 and not any(held for _, held in found)


@pytest.mark.parametrize("late_s", [0.05, 0.5, 1.5])
@pytest.mark.parametrize("pace", [0.25, 0.5, 4.0])
def test_a_recorder_may_hear_the_clock_later_than_the_rest(tmp_path: Path, pace: float, late_s: float) -> None:
    """As one did in Gazebo: stamps tell the time until then."""
    events = simulated(pace)
    from_ns = events[0].time_ns + round(late_s * 1e9 / pace)
    heard = [event for event in events if event.topic != TOPIC or event.time_ns >= from_ns]
    plain = answered(sample.write(tmp_path / "plain", SAMPLE.events()))
    path = sample.write(tmp_path / "bag", heard)
    found = answered(path)
    assert found == plain and not any(held for _, held in found)
    with Bag(path) as bag:
        times = [raw.time_ns for raw in timed(bag, list(choose(bag, {}).values()))]
    assert np.diff(times).min() >= 0 and (times[-1] - times[0]) / 1e9 == pytest.approx(SAMPLE.seconds, abs=0.15)


def test_a_stamp_of_another_clock_before_the_first_tick_moves_no_time(tmp_path: Path) -> None:
    events = simulated(0.5)
    late = [e for e in events if e.topic != TOPIC or e.time_ns >= events[0].time_ns + 10**9]
    stamped = [e for e in late if e.topic.endswith("joint_states")]
    assert stamped
    wire.set_stamp(stamped[3].message.header.stamp, START_NS + 10**9 * 10**6)
    with Bag(sample.write(tmp_path / "bag", late)) as bag:
        times = [raw.time_ns for raw in timed(bag, list(choose(bag, {}).values()))]
    assert np.diff(times).min() >= 0 and (times[-1] - times[0]) / 1e9 == pytest.approx(SAMPLE.seconds, abs=0.15)


@pytest.mark.parametrize("pace", [0.25, 1.0])
def test_demonstrations_of_a_slow_simulator_are_those_of_a_fast_one(tmp_path: Path, pace: float) -> None:
    (plain,) = demonstrations(sample.write(tmp_path / "plain", SAMPLE.events()), {}, NodeConfig())
    (found,) = demonstrations(sample.write(tmp_path / "bag", simulated(pace)), {}, NodeConfig())
    assert np.array_equal(found.joints, plain.joints) and np.array_equal(found.gripper, plain.gripper)


def test_a_clock_that_the_stamps_do_not_follow_is_nobodys(tmp_path: Path) -> None:
    """A simulator elsewhere on the network publishes one beside a real arm."""
    path = sample.write(tmp_path / "bag", simulated(1.0, behind_ns=30 * 10**9))
    with Bag(path) as bag:
        topics = list(choose(bag, {}).values())
        assert list(timed(bag, topics)) == list(bag.raw(topics))


def test_time_never_goes_back_and_every_message_is_there_also_when_the_simulation_begins_anew(tmp_path: Path) -> None:
    path = sample.write(tmp_path / "bag", simulated(0.5, again_s=1.0))
    with Bag(path) as bag:
        topics = list(choose(bag, {}).values())
        found, plain = list(timed(bag, topics)), list(bag.raw(topics))
        assert [(raw.topic, raw.data) for raw in found] == [(raw.topic, raw.data) for raw in plain]
        steps = np.diff([raw.time_ns for raw in found])
        assert steps.min() >= 0 and steps.max() <= 2 * OFTEN_NS
        span_s = (found[-1].time_ns - found[0].time_ns) / 1e9
        assert span_s == pytest.approx(SAMPLE.seconds, abs=0.15), "simulated seconds"
        with_clock = list(timed(bag, [*topics, TOPIC]))
        assert sum(raw.topic == TOPIC for raw in with_clock) > 100
    assert not any(held for _, held in answered(path))


def test_a_broken_tick_is_none(tmp_path: Path) -> None:
    good = simulated(0.5)
    path = sample.write(tmp_path / "bag", good)
    with Bag(path) as bag:
        topics = list(choose(bag, {}).values())
        whole = list(timed(bag, topics))

        class Broken:
            topics = bag.topics

            def raw(self, wanted: Any) -> Any:
                for i, raw in enumerate(bag.raw(wanted)):
                    yield raw._replace(data=raw.data[:5]) if raw.topic == TOPIC and i % 7 == 0 else raw

        found = list(timed(Broken(), topics))
        late = np.abs(np.array([a.time_ns - b.time_ns for a, b in zip(found, whole, strict=True)]))
        assert late.max() <= 3 * OFTEN_NS
