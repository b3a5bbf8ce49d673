"""Laws of arms that take turns at one engine: whose turn it is changes nothing of what an arm gets."""

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

SCENES = [frames(12, change_at=(4 + arm, 8), seed=arm) for arm in range(3)]
TURNS = [arm for turn in range(12) for arm in ((0, 1, 2) if turn % 2 else (2, 0, 1))]
"""Whose frame comes next; one arm twice in a row now and then."""
KINDS = [CONFIG, PROBE, replace(PROBE, compensate=True), replace(CONFIG, swap_budget=1, hysteresis=0.1)]
STREAMS = [Inline, Deferred, Worker]
ENERGIES = energies(Toy())


def made(config, streams):
    """A calibrated engine: one without a calibration finds its first pattern in the frames of all (test_cold)."""
    engine = Engine(Toy(), config, streams)
    engine.calibrate(ENERGIES)
    return engine


def told(step):
    return np.c_[step.chunk.joints, step.chunk.gripper], step.report.pattern_id, step.report.kind, step.report.swaps


def equal(one, other):
    return all(np.array_equal(a[0], b[0]) and a[1:] == b[1:] for a, b in zip(one, other, strict=True))


def alone(streams, config, scene):
    engine = made(config, streams())
    steps = [told(engine.step(obs)) for obs in scene]
    engine.close()
    return steps


def in_turns(engine, own, before=lambda arm, obs: None):
    """Every arm's steps, with one engine for all. `before`: called with the arm's situation in place."""
    fresh, left, present = engine.leave(own), {}, None
    steps, seen = [[] for _ in SCENES], [iter(scene) for scene in SCENES]
    for arm in TURNS:
        if arm != present:
            if present is not None:
                left[present] = engine.leave(own)
            engine.enter(left.get(arm, fresh if own else None))
            if arm not in left:
                engine.reset(0, pattern=own)
            present = arm
        obs = next(seen[arm])
        before(arm, obs)
        steps[arm].append(told(engine.step(obs)))
    return steps


@pytest.mark.parametrize("streams", STREAMS)
@pytest.mark.parametrize("config", KINDS, ids=["dense", "probe", "compensate", "budget"])
def test_an_arm_with_a_pattern_of_its_own_gets_what_it_would_get_alone_bit_for_bit(config, streams):
    engine = made(config, streams())
    steps = in_turns(engine, own=True)
    engine.close()
    for arm, scene in enumerate(SCENES):
        assert equal(steps[arm], alone(streams, config, scene))
    assert len({s[1] for s in steps[0]}) > 2, "patterns changed"


@pytest.mark.parametrize("streams", STREAMS)
@pytest.mark.parametrize("config", KINDS[:2], ids=["dense", "probe"])
def test_arms_that_share_a_pattern_get_what_they_would_get_alone_with_it(config, streams):
    engine, lone = made(config, streams()), made(config, Inline())
    expected = [[] for _ in SCENES]

    def again(arm, obs):
        lone.enter(engine.leave(own=True))
        expected[arm].append(told(lone.step(obs)))

    steps = in_turns(engine, own=False, before=again)
    for arm in range(len(SCENES)):
        assert all(np.array_equal(a[0], b[0]) for a, b in zip(steps[arm], expected[arm], strict=True))
    orders = engine.patterns()
    engine.close()
    assert any(order != sorted(order) for order in orders.values())


def test_a_shared_pattern_is_driven_by_the_energies_of_all_and_a_pattern_of_ones_own_by_none_but_its():
    config = replace(CONFIG, method="every", decay=0.0)
    engine = made(config, Inline())
    shared = in_turns(engine, own=False)
    assert not equal(shared[0], alone(Inline, config, SCENES[0]))


@pytest.mark.parametrize("family", all_models.FAMILIES)
def test_the_weights_of_every_family_come_back_bit_for_bit(family):
    """Heads and MLPs, grouped attention and packed rows: the order of a stranger leaves no trace."""
    policy = all_models.policy(family)
    config = replace(PROBE, method="every", ratio=0.25, sites=tuple({s.group for s in policy.sites}))
    engine = Engine(policy, config, Inline())
    weights = policy.model.state_dict()
    for seed in range(6):
        engine.step(all_models.observation(policy, seed))
        if seed == 2:
            first, before = engine.leave(own=True), {k: v.clone() for k, v in weights.items()}
    later, after = engine.leave(own=True), {k: v.clone() for k, v in weights.items()}
    assert engine.enter(first) > 0 and all(torch.equal(v, before[k]) for k, v in weights.items())
    assert engine.enter(later) > 0 and all(torch.equal(v, after[k]) for k, v in weights.items())


def test_the_fault_of_a_refresh_is_told_to_the_arm_whose_it_was():
    engine = made(CONFIG, Deferred())
    fresh = engine.leave(own=True)
    broken = engine._refresh.prepare
    engine._refresh.prepare = lambda phase, plan: (_ for _ in ()).throw(PruningError("lost"))
    assert engine.step(SCENES[0][0]).report.fault == ""
    first = engine.leave(own=True)
    engine._refresh.prepare = broken
    engine.enter(fresh)
    engine.reset(0)
    assert engine.step(SCENES[1][0]).report.fault == ""
    engine.leave(own=True)
    engine.enter(first)
    assert "lost" in engine.step(SCENES[0][1]).report.fault
    assert engine.step(SCENES[0][2]).report.fault == ""


def test_an_arm_follows_its_own_last_chunk_and_nobody_elses():
    """Real-time chunking: what a stranger was told is not what this arm is doing."""
    policy = all_models.policy("pi0")
    policy.follow_chunks(3, 1)
    engine = Engine(policy, replace(PROBE, method="dense"), Inline())
    engine.step(replace(all_models.observation(policy), stamp_ns=1))
    mine = engine.leave()
    assert policy.follow.last is not None and mine.answer is policy.follow.last
    engine.enter(None)
    assert policy.follow.last is None
    engine.step(replace(all_models.observation(policy, 1), stamp_ns=2))
    engine.enter(mine)
    assert policy.follow.last is mine.answer
