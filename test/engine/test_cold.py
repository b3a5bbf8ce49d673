"""Without a calibration: dense frames until a pattern comes of them, and from then on that pattern."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from support import all_models as models
from support.engine_runs import PROBE, SCENES, chunks, run
from support.toy import HORIZON, Toy

from ecovla_ros.config import PruneConfig
from ecovla_ros.engine.calibration import calibration
from ecovla_ros.engine.engine import Engine
from ecovla_ros.engine.graphs import Graphed
from ecovla_ros.engine.recorder import EagerRecorder
from ecovla_ros.engine.streams import Deferred, Inline, Worker

COLD = 6
STREAMS = [Inline, Deferred, Worker, lambda: Worker(overlap=True)]
DENSE = PruneConfig(method="dense")


def cold(method, **changes):
    return replace(PROBE, method=method, cold_frames=COLD, **changes)


def sampled(policy, observations):
    """A calibration of `observations`, with the noise of an engine's first episode."""
    noise = torch.randn((HORIZON, 8), generator=torch.Generator().manual_seed(0))
    return calibration(policy, observations, noise)


@pytest.mark.parametrize("method", ["static", "wanda"])
@pytest.mark.parametrize("streams", STREAMS, ids=["inline", "deferred", "gap", "overlap"])
def test_chunks_are_the_dense_ones_and_then_those_of_a_calibration_on_the_same_frames(method, streams):
    """SCENES change at frame 10 and the trigger fires at once: neither ends nor delays the cold frames."""
    steps = run(streams(), cold(method), SCENES[:20])
    dense = run(Inline(), DENSE, SCENES[:20])
    engine = Engine(Toy(), cold(method), Inline())
    engine.calibrate(sampled(Toy(), SCENES[:COLD]))
    warm = [engine.step(obs) for obs in SCENES[:20]]
    assert np.array_equal(chunks(steps)[:COLD], chunks(dense)[:COLD])
    assert np.allclose(chunks(steps)[COLD:], chunks(warm)[COLD:], atol=1e-5)
    assert np.abs(chunks(steps) - chunks(dense))[COLD:].max() > 1e-3, "and it is pruned"
    left = [s.report.cold_frames for s in steps]
    assert left == [5, 4, 3, 2, 1, 1] + 14 * [0], "said with each frame"
    assert [s.report.kind for s in steps] == 5 * ["dense"] + ["refresh"] + 14 * ["sparse"]


@pytest.mark.parametrize("changes", [{}, {"refresh": "dense"}, {"compensate": True}, {"tiers": (0.25,)}, {"audit": 2}])
@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("method", ["ecovla", "every"])
def test_an_adaptive_method_goes_on_from_its_cold_frames_as_from_a_calibration_on_them(method, ahead, changes):
    """No frame after them triggers, so nothing tells the two apart: histories, means and patterns are equal."""
    config = cold(method, **changes)
    calm = SCENES[:10]
    engine, warm = (
        Engine(Toy(), config, Deferred(), ahead=ahead),
        Engine(Toy(), replace(config, method="static"), Inline()),
    )
    warm.calibrate(sampled(Toy(), calm[:COLD]))
    for obs in calm[:COLD]:
        engine.step(obs)
    engine.settle()
    assert engine.cold_frames == 0
    kept = [{k: set(order[: e.sparse_plan.kept[k]]) for k, order in e.patterns().items()} for e in (engine, warm)]
    assert kept[0] == kept[1]
    for one, other in zip(engine._refresh.stacks, warm._refresh.stacks):
        by_channel = [s.history.scatter(1, s.partition.channel, s.history) for s in (one, other)]
        assert torch.allclose(*by_channel, rtol=1e-4)
        if one.mean is not None:
            means = [s.mean.scatter(1, s.partition.channel, s.mean) for s in (one, other)]
            assert torch.allclose(*means, rtol=1e-3, atol=1e-6)
    assert all(engine.step(obs).report.kind in ("sparse", "refresh") for obs in calm[COLD:])


@pytest.mark.parametrize("at", range(1, COLD + 1))
@pytest.mark.parametrize("streams", [Inline, Deferred, Worker], ids=["inline", "deferred", "worker"])
def test_an_episode_may_end_among_the_cold_frames(streams, at):
    engine, plain = Engine(Toy(), cold("ecovla"), streams()), Engine(Toy(), DENSE, Inline())
    for i, obs in enumerate(SCENES[: COLD + 6]):
        if i == at:
            engine.reset(7)
            plain.reset(7)
        step, dense = engine.step(obs), plain.step(obs)
        if i < COLD:
            assert np.array_equal(step.chunk.joints, dense.chunk.joints)
        assert (step.report.cold_frames == 0) == (i >= COLD) and not step.report.fault
    engine.close()


@pytest.mark.parametrize("streams", [Inline, Deferred, Worker], ids=["inline", "deferred", "worker"])
def test_energies_that_are_no_numbers_make_no_pattern_and_the_count_begins_anew(streams):
    engine = Engine(Toy(), cold("static"), streams())
    for i, obs in enumerate(SCENES[:COLD]):
        engine.step(obs)
        if i == 2:
            engine.settle()
            engine._refresh.stacks[0]._sums[0, 0, 0, 3] = torch.nan
    steps = [engine.step(obs) for obs in SCENES[COLD : 2 * COLD + 2]]
    assert "not finite" in steps[0].report.fault and steps[0].report.ratio == 0.0
    assert [s.report.ratio > 0 for s in steps] == COLD * [False] + 2 * [True]
    assert torch.isfinite(engine._refresh.stacks[0].history).all()
    engine.close()


def test_a_refresh_that_fails_makes_no_pattern_and_the_count_begins_anew():
    engine = Engine(Toy(), cold("ecovla"), Worker())
    stack = engine._refresh.stacks[0]
    prepare, stack.prepare = stack.prepare, lambda *_: 1 / 0
    for obs in SCENES[:COLD]:
        engine.step(obs)
    failed = engine.step(SCENES[COLD])
    stack.prepare = prepare
    assert "ZeroDivisionError" in failed.report.fault or "division" in failed.report.fault
    steps = [engine.step(obs) for obs in SCENES[COLD + 1 : 2 * COLD + 2]]
    assert [s.report.ratio > 0 for s in steps] == (COLD - 1) * [False] + 2 * [True]
    engine.close()


def test_a_given_pattern_needs_no_cold_frames_where_it_stays():
    first = Engine(Toy(), cold("static"), Inline())
    first.calibrate(sampled(Toy(), SCENES[:2]))
    engine = Engine(Toy(), cold("static"), Inline())
    engine.adopt(first.patterns())
    assert engine.step(SCENES[0]).report.kind == "sparse"


@pytest.mark.parametrize("family", models.FAMILIES)
def test_every_family_starts_cold_over_captured_passes(family):
    policy = Graphed(models.policy(family), EagerRecorder())
    groups = tuple(sorted({s.group for s in policy.sites if s.group.endswith(".mlp")}))
    config = cold("ecovla", sites=groups, ratio=0.5)
    observations = [models.observation(models.policy(family), seed=i) for i in range(COLD + 2)]
    engine = Engine(policy, config, Deferred(), ahead=True)
    engine.warm_up()
    steps = [engine.step(obs) for obs in observations]
    dense = run(Inline(), DENSE, observations, models.policy(family))
    assert np.allclose(chunks(steps)[:COLD], chunks(dense)[:COLD], atol=1e-5)
    assert [s.report.cold_frames == 0 for s in steps] == COLD * [False] + 2 * [True]
    assert steps[-1].report.ratio > 0.3
    engine.close()


def test_arms_that_take_turns_among_the_cold_frames_share_them():
    engine, left = Engine(Toy(), cold("ecovla"), Deferred()), [None, None]
    for i, obs in enumerate(SCENES[: 2 * COLD]):
        engine.enter(left[i % 2])
        step = engine.step(obs)
        assert (step.report.ratio > 0) == (i >= COLD) and not step.report.fault
        left[i % 2] = engine.leave(own=True)
    engine.close()
