"""Laws of episodes: what an engine answers in one does not depend on those before it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from support import all_models
from support.engine_runs import CONFIG, PROBE, energies
from support.toy import Toy, frames

from ecovla_ros.engine.engine import Engine
from ecovla_ros.engine.streams import Deferred, Inline, Worker
from ecovla_ros.errors import PruningError

FIRST, SECOND = frames(14, change_at=(4, 8), seed=1), frames(14, change_at=(5, 9), seed=2)
KINDS = {
    "dense": CONFIG, "probe": PROBE, "compensate": replace(PROBE, compensate=True),
    "budget": replace(CONFIG, swap_budget=1, hysteresis=0.1), "audit": replace(PROBE, audit=2),
    "every": replace(PROBE, method="every"),
}  # fmt: skip
STREAMS = [Inline, Deferred, Worker]
ENERGIES = energies(Toy())


def made(config, streams, calibrated=True, ahead=False):
    engine = Engine(Toy(), config, streams, ahead=ahead)
    if calibrated:
        engine.calibrate(ENERGIES)
    return engine


def driven(engine, scene):
    """What was answered, and by what kind of frame."""
    steps = [engine.step(obs) for obs in scene]
    return np.array([np.c_[s.chunk.joints, s.chunk.gripper] for s in steps]), [s.report.kind for s in steps]


@pytest.mark.parametrize("calibrated", [True, False], ids=["calibrated", "cold"])
@pytest.mark.parametrize("ahead", [False, True], ids=["asks first", "ahead"])
@pytest.mark.parametrize("streams", STREAMS)
@pytest.mark.parametrize("config", KINDS.values(), ids=KINDS)
def test_an_episode_is_answered_as_by_an_engine_that_saw_no_other_bit_for_bit(config, streams, ahead, calibrated):
    alone, engine = (made(config, streams(), calibrated, ahead) for _ in range(2))
    expected, kinds = driven(alone, SECOND)
    driven(engine, FIRST)
    engine.reset(0)
    answered, said = driven(engine, SECOND)
    assert np.array_equal(answered, expected) and said == kinds
    assert "refresh" in kinds
    for each in (alone, engine):
        each.close()


def test_the_episode_before_would_have_changed_the_answers():
    """Else the law above would hold of anything."""
    engine = made(PROBE, Inline())
    expected, _ = driven(made(PROBE, Inline()), SECOND)
    driven(engine, FIRST)
    engine.reset(0, pattern=False)
    assert not np.array_equal(driven(engine, SECOND)[0], expected)


@pytest.mark.parametrize("method", ["static", "wanda", "random"])
def test_a_pattern_that_stays_is_not_touched_and_its_cold_frames_do_not_come_again(method):
    engine = Engine(Toy(), replace(PROBE, method=method, cold_frames=2), Inline())
    _, kinds = driven(engine, FIRST)
    before = engine.patterns()
    engine.reset(0)
    assert engine.patterns() == before
    assert set(driven(engine, SECOND)[1]) == {"sparse"} and kinds[-1] == "sparse"


def test_another_pattern_has_another_number_and_the_same_one_keeps_its():
    engine = made(PROBE, Inline())
    driven(engine, FIRST)
    engine.settle()
    last = engine.step(FIRST[-1]).report.pattern_id
    engine.reset(0)
    first = engine.step(SECOND[0]).report.pattern_id
    assert last > 0 and first == last + 1
    fresh, still = made(PROBE, Inline()), made(PROBE, Inline())
    still.reset(0)
    still.reset(0)
    assert still.step(SECOND[0]).report.pattern_id == fresh.step(SECOND[0]).report.pattern_id


def test_a_refresh_that_has_not_ended_delays_the_new_beginning_and_does_not_prevent_it():
    """One that was given up may still write nothing; the pattern is changed when it has ended."""
    engine = made(PROBE, Worker())
    driven(engine, FIRST)
    begun = made(PROBE, Inline()).patterns()
    assert engine.patterns() != begun
    streams = type(engine._streams)
    held = property(lambda self: False)
    free = streams.free
    try:
        streams.free = held
        engine.reset(0)
        assert engine.patterns() != begun
    finally:
        streams.free = free
    engine.step(SECOND[0])
    later, _ = driven(engine, SECOND[1:])
    expected, _ = driven(made(PROBE, Inline()), SECOND)
    assert np.array_equal(later, expected[1:])
    engine.close()


def test_a_beginning_that_is_due_goes_with_its_arm(monkeypatch):
    """Whoever takes the next turn keeps the pattern it has followed."""
    engine = made(PROBE, Inline())
    driven(engine, FIRST)
    other = engine.leave(own=True)
    with monkeypatch.context() as held:
        held.setattr(Inline, "free", False)
        engine.reset(0)
        mine = engine.leave(own=True)
    engine.enter(other)
    before = engine.patterns()
    assert engine.step(FIRST[-1]).report.kind == "sparse" and engine.patterns() == before
    engine.leave(own=True)
    engine.enter(mine)
    engine.step(SECOND[0])
    assert np.array_equal(driven(engine, SECOND[1:])[0], driven(made(PROBE, Inline()), SECOND)[0][1:])


def test_the_fault_of_an_episodes_last_refresh_is_told_in_the_next():
    engine = made(KINDS["every"], Deferred())
    engine._refresh.prepare = lambda phase, plan: (_ for _ in ()).throw(PruningError("lost"))
    assert engine.step(FIRST[0]).report.fault == ""
    del engine._refresh.prepare
    engine.reset(0)
    assert "lost" in engine.step(SECOND[0]).report.fault
    assert engine.step(SECOND[1]).report.fault == ""


def test_torn_weights_stay_torn():
    engine = made(PROBE, Inline())
    driven(engine, FIRST)
    engine._refresh.torn = True
    engine.reset(0)
    with pytest.raises(PruningError, match="load the policy anew"):
        engine.step(SECOND[0])


@pytest.mark.parametrize("family", all_models.FAMILIES)
def test_the_weights_of_every_family_are_where_they_began_bit_for_bit(family):
    policy = all_models.policy(family)
    config = replace(PROBE, method="every", ratio=0.25, sites=tuple({s.group for s in policy.sites}))
    engine = Engine(policy, config, Inline())
    weights = policy.model.state_dict()
    before = {name: value.clone() for name, value in weights.items()}
    for seed in range(4):
        engine.step(all_models.observation(policy, seed))
    engine.settle()
    assert any(not torch.equal(value, before[name]) for name, value in weights.items())
    engine.reset(0)
    assert all(torch.equal(value, before[name]) for name, value in weights.items())
