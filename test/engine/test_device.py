"""What a device asks of the schedule that a CPU does not: work that has been issued and has not ended."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support import all_models as models
from support.engine_runs import BOTH, CONFIG, SCENES, Clock, chunks, energies
from support.toy import Toy

from ecovla_ros.config import PruneConfig
from ecovla_ros.engine import outcome, streams
from ecovla_ros.engine.engine import Engine
from ecovla_ros.engine.streams import Deferred, Inline, Worker
from ecovla_ros.engine.timing import HostJobTimer
from ecovla_ros.errors import PruningError
from ecovla_ros.models.data.affine import Affine, Statistics
from ecovla_ros.models.data.statistics import OtherArmUnits
from ecovla_ros.models.data.tool_motion import ToolMotion


class Device(Inline):
    """Jobs are issued at once and end when the host waits for them, or is told that they have: a stand-in for CUDA."""

    def __init__(self):
        super().__init__()
        self.issued = self.ended = 0

    def finish(self):
        self.ended = self.issued

    def timer(self, device, clock):
        return DeviceJobTimer(self, clock)


class DeviceJobTimer(HostJobTimer):
    """The time of one job on a `Device`: job number n takes n ms."""

    def __init__(self, device, clock):
        super().__init__(clock)
        self._device, self._job = device, 0

    def end(self):
        self._device.issued += 1
        self._job = self._device.issued

    def done(self):
        return self._job <= self._device.ended

    def ms(self):
        return float(self._job)


@pytest.fixture
def device(monkeypatch):
    made = Device()
    monkeypatch.setattr(outcome, "job_timer", made.timer)
    return made


def test_settled_means_that_the_refresh_has_ended(device):
    engine = Engine(Toy(), CONFIG, device)
    engine.step(SCENES[0])
    assert engine._refresh.state.pattern_id == 0, "issued, and not ended"
    engine.settle()
    assert device.ended == device.issued == 2 and engine._refresh.state.pattern_id == 1
    engine.close()


EVERY = replace(CONFIG, method="every")


def late(device, engine, observations):
    """Frames whose joins find the refresh of the frame before still at work."""
    steps = []
    for obs in observations:
        device.ended = max(0, device.issued - 2)
        steps.append(engine.step(obs))
    return steps


def started(streams):
    """An engine whose first frame is as any other: a cold start waits until its first pattern is known."""
    engine = Engine(Toy(), EVERY, streams)
    engine.calibrate(energies(engine.policy))
    return engine


@pytest.fixture
def plain():
    engine = started(Inline())
    steps = [engine.step(obs) for obs in SCENES[:15]]
    engine.close()
    return steps


def test_a_refresh_that_ends_late_is_reported_once_and_one_frame_later(plain, device):
    steps = late(device, started(device), SCENES[:15])
    assert np.array_equal(chunks(plain), chunks(steps)), "the pattern itself is not late"
    for name in ("swaps", "pattern_id"):
        expected = [0, *(getattr(s.report, name) for s in plain[:-1])]
        assert [getattr(s.report, name) for s in steps] == expected
    assert [s.report.refresh_ms for s in steps[2:]] == [4.0 * i + 3.0 for i in range(13)], "two jobs each, none twice"


def test_a_late_fault_is_reported_once(device):
    engine = started(device)
    prefill = engine.policy.prefill
    late(device, engine, SCENES[:3])

    def spoiled(seen, plan):
        out = prefill(seen, plan)
        plan.record["lm.0.mlp"].energy[0] = torch.nan
        return out

    engine.policy.prefill = spoiled
    steps = late(device, engine, SCENES[3:4])
    engine.policy.prefill = prefill
    steps += late(device, engine, SCENES[4:9])
    assert ["not finite" in s.report.fault for s in steps] == [False, False, True, False, False, False]


def test_no_refresh_is_lost_where_settling_finds_two(device):
    engine = started(device)
    steps = late(device, engine, SCENES[:5])
    engine.settle()
    steps += [engine.step(obs) for obs in SCENES[5:7]]
    assert [s.report.refresh_ms for s in steps] == [0.0, 0.0, 3.0, 7.0, 11.0, 15.0, 19.0]


def test_the_actions_are_under_way_before_the_refresh_is_issued_and_waited_for_after():
    order = []

    class Noted(Inline):
        def release(self, later=False):
            order.append("release")

    engine = Engine(Toy(), EVERY, Noted())
    host_copy, to_chunk = engine._host_copy, engine.policy.to_chunk
    start, take = host_copy.start, host_copy.take
    host_copy.start = lambda actions: (order.append("start"), start(actions))[1]
    host_copy.take = lambda: (order.append("take"), take())[1]
    engine.policy.to_chunk = lambda seen, actions: (order.append("to_chunk"), to_chunk(seen, actions))[1]
    engine.step(SCENES[0])
    assert order == ["start", "release", "take", "to_chunk"]


@pytest.mark.parametrize("family", models.FAMILIES)
def test_a_chunk_keeps_nothing_of_the_memory_its_actions_landed_in(family):
    policy = models.policy(family)
    seen, actions = policy.encode(models.observation(policy)), models.noise(policy)
    chunk = policy.to_chunk(seen, actions)
    joints, gripper = chunk.joints.copy(), chunk.gripper.copy()
    actions.fill_(7.0)
    assert np.array_equal(chunk.joints, joints) and np.array_equal(chunk.gripper, gripper)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", ["foreign", "tool"])
def test_neither_does_that_of_other_actions(kind, dtype):
    of = Statistics(None, Affine(np.zeros(7), np.ones(7)), "mean_std", "made up")
    normaliser = OtherArmUnits(of, 4) if kind == "foreign" else ToolMotion(of, 4, (0.0, 1.0), "base")
    actions = np.full((4, 7), 1e-3, dtype)
    chunk = normaliser.chunk(actions, SCENES[0], 0.1)
    parts = [part for part in (chunk.joints, chunk.gripper, chunk.raw) if part is not None]
    assert not any(np.shares_memory(part, actions) for part in parts)


class Waiting(Inline):
    """A device that stands still for some time behind every join, of which the host sees nothing."""

    ms = 0.0

    def waited_ms(self):
        return self.ms


def test_a_frame_waits_as_long_as_its_device_does():
    side = Waiting()
    engine = Engine(Toy(), EVERY, side, clock=Clock())
    for side.ms in (0.0, 2.5):
        assert engine.step(SCENES[0]).report.exposed_ms == side.ms
    assert Inline().waited_ms() is None, "then the host's own lap counts"


def test_the_deadline_does_not_take_the_device_s_wait_for_a_slow_model():
    clock, side, policy = Clock(), Waiting(), Toy()
    act = policy.act

    def slow(*args):
        clock.now += 1e-3 * (50.0 + side.ms)
        return act(*args)

    policy.act = slow
    config = PruneConfig(method="static", ratio=0.5, sites=BOTH, tiers=(0.25,), deadline_ms=60.0)
    engine = Engine(policy, config, side, clock=clock)
    engine.calibrate(energies(policy))
    engine.warm_up()
    side.ms = 100.0
    for obs in SCENES[:5]:
        engine.step(obs)
    assert engine._deadline.expected_ms == pytest.approx([50.0, 50.0])


class Event:
    """A timing event whose clock goes on by a second at each record."""

    now = 0.0

    def __init__(self, **_):
        self.at = None

    def record(self, *_):
        Event.now += 1e3
        self.at = Event.now

    def elapsed_time(self, other):
        return other.at - self.at


def test_the_side_stream_says_what_was_waited_for_since_it_was_asked(monkeypatch):
    """torch.cuda by a stand-in: every join that orders something takes a second."""
    side = SimpleNamespace(wait_event=lambda event: None, synchronize=lambda: None)
    monkeypatch.setattr(Event, "now", 0.0)
    cuda = SimpleNamespace(
        Stream=lambda *_, **__: side, Event=Event, stream=lambda _: nullcontext(), current_stream=lambda: side
    )
    cuda.Stream.priority_range = lambda: (0, -1)
    monkeypatch.setattr(streams.torch, "cuda", cuda)
    made = streams.CudaSide(torch.device("cpu"), graphs=False)

    def joined():
        made.aside(lambda: lambda: None)
        made.join()

    assert made.waited_ms() == 0.0
    made.join()
    assert made.waited_ms() == 0.0, "nothing was set aside"
    joined()
    made.join()
    assert made.waited_ms() == 1e3, "the second join had nothing to wait for"
    joined()
    joined()
    assert made.waited_ms() == 2e3
    joined()
    made.finish()
    assert made.waited_ms() == 0.0, "between frames"


def state_of(engine):
    """All that a refresh writes, and what it goes by."""
    refresh = engine._refresh
    buffers = [w for site in engine.policy.sites for w in (*site.producers, site.consumer, *site.extra)]
    for stack in refresh.stacks:
        buffers += [stack.history, stack.factor, stack.partition.channel, *sum(stack.bias.values(), [])]
        buffers += [] if stack.mean is None else [stack.mean]
    known = [(stack.seen, stack.mean_known) for stack in refresh.stacks]
    return [b.clone() for b in buffers], (known, engine.cold_frames, refresh.state, refresh.torn)


@pytest.mark.parametrize("streams", [Inline, Deferred, Worker])
@pytest.mark.parametrize("known", [False, True], ids=["unknown", "calibrated"])
@pytest.mark.parametrize("refresh", ["dense", "probe"])
def test_warming_up_runs_every_refresh_and_leaves_everything_as_it_was(streams, known, refresh):
    config = replace(EVERY, refresh=refresh, compensate=True, tiers=(0.25,), probe_tokens=4)
    engine, ran = Engine(Toy(), config, streams()), []
    if known:
        engine.calibrate(energies(engine.policy))
    buffers, facts = state_of(engine)
    for stack in engine._refresh.stacks:
        apply = stack.apply
        stack.apply = lambda change, apply=apply: (ran.append(len(change.swaps)), apply(change))[1]
    engine.warm_up()
    after, facts_after = state_of(engine)
    assert facts_after == facts and all(torch.equal(a, b) for a, b in zip(buffers, after))
    assert ran == [2] * 6, "two phases of three plans that record, and two borders"
    engine.close()


def test_rehearsals_draw_nothing():
    drawn = []
    for rehearse in (True, False):
        engine = Engine(Toy(), replace(EVERY, refresh="probe", probe_tokens=4), Inline())
        if not rehearse:
            engine._rehearse = lambda plan: None
        engine.warm_up()
        drawn.append(engine._refresh._generator.get_state())
    assert torch.equal(*drawn)


def test_a_refresh_that_cannot_run_is_found_in_warm_up():
    engine = Engine(Toy(), EVERY, Inline())
    engine._refresh.stacks[0].exchanges = None
    with pytest.raises(PruningError, match="the refresh failed"):
        engine.warm_up()


@pytest.mark.parametrize("behind_frame", [False, True])
def test_a_refresh_begins_where_it_was_set_aside_or_behind_the_whole_frame(monkeypatch, behind_frame):
    """torch.cuda by a stand-in: what a job waited for was recorded before the action head, or after it.

    Behind the frame it is issued only once its chunk is on its way, if somebody will say so.
    """
    waited = []
    side = SimpleNamespace(wait_event=lambda event: waited.append(event.at), synchronize=lambda: None)
    monkeypatch.setattr(Event, "now", 0.0)
    cuda = SimpleNamespace(
        Stream=lambda *_, **__: side, Event=Event, stream=lambda _: nullcontext(), current_stream=lambda: side
    )
    cuda.Stream.priority_range = lambda: (0, -1)
    monkeypatch.setattr(streams.torch, "cuda", cuda)
    made = streams.CudaSide(torch.device("cpu"), graphs=False, behind_frame=behind_frame)
    jobs = []
    for turn in range(3):
        jobs.clear()
        waited.clear()
        prefill = made.mark()
        made.aside(lambda: lambda: jobs.append(1), prefill)
        head = made.mark()
        made.aside(lambda: lambda: jobs.append(2), head)
        last = head.at
        made.release(later=turn > 0)
        assert jobs == ([] if behind_frame and turn > 0 else [1, 2])
        made.rest()
        assert jobs == [1, 2]
        assert all(at > last for at in waited) if behind_frame else waited == [prefill.at, head.at]
        made.join()
