"""Laws of the schedule: what a frame may see, and what the refresh may touch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from toy import CHANNELS, HORIZON, Toy, frames

from ecovla_ros.config import PruneConfig
from ecovla_ros.engine.engine import Engine
from ecovla_ros.engine.streams import Deferred, Inline, Worker
from ecovla_ros.errors import ControlError, PruningError
from ecovla_ros.models.base import DENSE, Plan

BOTH = ("lm.mlp", "expert.mlp")


def run(streams, config, observations, policy=None):
    engine = Engine(policy or Toy(), config, streams)
    steps = [engine.step(obs) for obs in observations]
    engine.close()
    return steps


def chunks(steps):
    return np.stack([np.c_[s.chunk.joints, s.chunk.gripper] for s in steps])


SCENES = frames(40, change_at=(10, 25))
CONFIG = PruneConfig(method="ecovla", ratio=0.5, sites=BOTH, p=0.2, window=10, alpha=0.2)


def test_ratio_zero_equals_dense():
    dense = chunks(run(Inline(), PruneConfig(method="dense"), SCENES))
    sparse = chunks(run(Inline(), PruneConfig(method="ecovla", ratio=0.0, sites=BOTH, p=0.2), SCENES))
    assert np.allclose(sparse, dense, atol=1e-12)


@pytest.mark.parametrize("streams", [Deferred, Worker])
def test_streams_agree_bit_for_bit_with_inline(streams):
    here, there = run(Inline(), CONFIG, SCENES), run(streams(), CONFIG, SCENES)
    assert np.array_equal(chunks(here), chunks(there))
    assert [s.report.pattern_id for s in here] == [s.report.pattern_id for s in there]
    assert len({s.report.kind for s in here}) == 2


class Unjoined(Deferred):
    """A fault planted: the join comes one frame late."""

    def join(self) -> None:
        if len(self._jobs) > 2:
            self._jobs.popleft()()


def test_a_late_join_is_seen():
    assert not np.array_equal(chunks(run(Inline(), CONFIG, SCENES)), chunks(run(Unjoined(), CONFIG, SCENES)))


def test_a_changed_scene_triggers_and_the_pattern_is_used_from_the_next_frame():
    steps = run(Deferred(), CONFIG, SCENES)
    for at in (0, 10, 25):
        assert steps[at].report.triggered and steps[at].report.kind == "refresh"
    assert steps[11].report.pattern_id > steps[10].report.pattern_id
    assert steps[11].report.pattern_age == 0
    assert steps[1].report.ratio == 0.5


def test_a_frame_s_pattern_never_changes_while_it_is_computed():
    policy = Toy()
    engine = Engine(policy, CONFIG, Worker())
    seen = []
    act = policy.act

    def watched(*args):
        before = [s.consumer.clone() for s in policy.sites]
        out = act(*args)
        seen.append(all(torch.equal(a, s.consumer) for a, s in zip(before, policy.sites)))
        return out

    policy.act = watched
    for obs in SCENES:
        engine.step(obs)
    engine.close()
    assert all(seen)


def test_statistics_follow_channels_through_swaps():
    policy = Toy()
    engine = Engine(policy, PruneConfig(method="ecovla", ratio=0.5, sites=("lm.mlp",), p=0.5, alpha=0.0), Inline())
    for obs in SCENES[:20]:
        step = engine.step(obs)
        if step.report.kind != "refresh":
            continue
        fresh, energy = Toy(), torch.zeros(CHANNELS)
        fresh.prefill(fresh.encode(obs), Plan(energy={"lm.0.mlp": energy}))
        factor = fresh.sites[0].consumer.pow(4).sum(-1).sqrt()
        best = (energy * factor).topk(CHANNELS // 2).indices.sort().values
        assert torch.equal(engine._refresh.stacks[0].partitions[0].kept_channels(CHANNELS // 2), best)


def test_closing_gives_the_weights_back():
    policy, untouched = Toy(), Toy()
    run(Worker(), CONFIG, SCENES, policy)
    assert all(torch.equal(a.consumer, b.consumer) for a, b in zip(policy.sites, untouched.sites))


def energies(policy):
    plan = Plan(energy={s.key: torch.zeros(CHANNELS) for s in policy.sites})
    seen = policy.encode(SCENES[0])
    policy.act(seen, policy.prefill(seen, plan), plan, torch.zeros(HORIZON, 8))
    return plan.energy


def error(method, seeds=(0,)):
    dense = chunks(run(Inline(), PruneConfig(method="dense"), SCENES[:10]))
    errors = []
    for seed in seeds:
        policy = Toy()
        engine = Engine(policy, PruneConfig(method=method, ratio=0.5, sites=BOTH, seed=seed), Inline())
        engine.calibrate(energies(policy))
        errors.append(np.abs(chunks([engine.step(o) for o in SCENES[:10]]) - dense).mean())
    return float(np.mean(errors))


def test_a_random_mask_hurts_more_than_a_scored_one():
    random = error("random", range(5))
    assert error("static") < 0.5 * random and error("wanda") < 0.7 * random


def test_methods_without_calibration_say_so():
    with pytest.raises(PruningError, match="calibration"):
        run(Inline(), PruneConfig(method="static", sites=BOTH), SCENES[:1])


def test_calibration_that_does_not_fit_is_refused():
    policy = Toy()
    engine = Engine(policy, CONFIG, Inline())
    good = energies(policy)
    for bad in ({}, {**good, "lm.0.mlp": torch.ones(3)}, {**good, "lm.0.mlp": torch.full((CHANNELS,), torch.nan)}):
        with pytest.raises(PruningError, match="lm.0.mlp"):
            engine.calibrate(bad)


def test_unknown_sites_are_refused():
    with pytest.raises(PruningError, match="lm.mlp"):
        Engine(Toy(), PruneConfig(method="ecovla", sites=("lm.heads",)), Inline())


def test_a_refresh_that_throws_leaves_the_last_pattern_and_says_so():
    policy = Toy()
    engine = Engine(policy, CONFIG, Worker())
    for obs in SCENES[:10]:
        engine.step(obs)
    pattern = [p.channel.clone() for stack in engine._refresh.stacks for p in stack.partitions]

    def broken(phase):
        raise RuntimeError("planted")

    engine._refresh.run = broken
    steps = [engine.step(obs) for obs in SCENES[10:13]]
    assert "planted" in steps[1].report.fault
    assert steps[2].report.kind in ("sparse", "refresh")
    now = [p.channel for stack in engine._refresh.stacks for p in stack.partitions]
    assert all(torch.equal(a, b) for a, b in zip(pattern, now))


def test_energies_that_are_not_finite_do_not_poison_the_pattern():
    policy = Toy()
    engine = Engine(policy, CONFIG, Inline())
    for obs in SCENES[:10]:
        engine.step(obs)
    history = [s.history.clone() for s in engine._refresh.stacks]
    engine._refresh.stacks[0].record[0, 0] = torch.inf
    engine._refresh.run("prefill")
    assert "not finite" in engine._refresh.state.fault
    assert torch.equal(history[0], engine._refresh.stacks[0].history)


def test_a_sparse_frame_that_is_not_finite_is_answered_dense():
    policy = Toy()
    engine = Engine(policy, CONFIG, Inline())
    for obs in SCENES[:5]:
        engine.step(obs)
    prefill = policy.prefill
    policy.prefill = lambda seen, plan: prefill(seen, plan) * (torch.nan if plan.kept else 1.0)
    step = engine.step(SCENES[5])
    assert "answered dense" in step.report.fault and np.isfinite(step.chunk.joints).all()
    policy.prefill = lambda seen, plan: prefill(seen, DENSE) * torch.nan
    with pytest.raises(ControlError, match="not finite"):
        engine.step(SCENES[6])
