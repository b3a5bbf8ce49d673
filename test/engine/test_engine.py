"""Laws of the schedule: what a frame may see, and what the refresh may touch."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.engine_runs import BOTH, CONFIG, PROBE, SCENES, Clock, chunks, energies, run
from support.toy import CHANNELS, Toy

from ecovla_ros.config import PruneConfig
from ecovla_ros.engine.engine import Engine
from ecovla_ros.engine.streams import Deferred, Inline, Worker
from ecovla_ros.errors import ControlError, PruningError
from ecovla_ros.models.base import DENSE, Plan

KINDS = pytest.mark.parametrize("config", [CONFIG, PROBE], ids=["dense", "probe"])
STREAMS = [Deferred, Worker, lambda: Worker(overlap=True)]


@KINDS
def test_ratio_zero_equals_dense(config):
    dense = chunks(run(Inline(), PruneConfig(method="dense"), SCENES))
    sparse = chunks(run(Inline(), replace(config, ratio=0.0), SCENES))
    assert np.allclose(sparse, dense, atol=1e-12)


@KINDS
@pytest.mark.parametrize("streams", STREAMS, ids=["deferred", "gap", "overlap"])
def test_streams_agree_bit_for_bit_with_inline(streams, config):
    here, there = run(Inline(), config, SCENES), run(streams(), config, SCENES)
    assert np.array_equal(chunks(here), chunks(there))
    assert [s.report.pattern_id for s in here] == [s.report.pattern_id for s in there]
    assert len({s.report.kind for s in here}) == 2


class Unjoined(Deferred):
    """A fault planted: the join comes one frame late."""

    def join(self, limit_s=None) -> None:
        if len(self._jobs) > 2:
            self._jobs.popleft()()()


@KINDS
def test_a_late_join_is_seen(config):
    assert not np.array_equal(chunks(run(Inline(), config, SCENES)), chunks(run(Unjoined(), config, SCENES)))


def test_a_changed_scene_triggers_and_the_pattern_is_used_from_the_next_frame():
    steps = run(Deferred(), CONFIG, SCENES)
    for at in (0, 10, 25):
        assert steps[at].report.triggered and steps[at].report.kind == "refresh"
    assert steps[11].report.pattern_id > steps[10].report.pattern_id
    assert steps[11].report.pattern_age == 0
    assert steps[1].report.ratio == 0.5


@KINDS
def test_a_frame_s_pattern_never_changes_while_it_is_computed(config):
    policy = Toy()
    engine = Engine(policy, config, Worker())
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
    engine = Engine(policy, replace(CONFIG, sites=("lm.mlp",), p=0.5, alpha=0.0), Inline())
    for obs in SCENES[:20]:
        step = engine.step(obs)
        if step.report.kind != "refresh":
            continue
        fresh, energy = Toy(), torch.zeros(CHANNELS)
        fresh.prefill(fresh.encode(obs), Plan.recording({"lm.0.mlp": energy}))
        factor = fresh.sites[0].consumer.pow(4).sum(-1).sqrt()
        best = (energy * factor).topk(CHANNELS // 2).indices.sort().values
        assert torch.equal(engine._refresh.stacks[0].partition.kept_channels(CHANNELS // 2)[0], best)


@pytest.mark.parametrize("budget", [0, 3])
def test_history_is_the_moving_average_of_each_channel_whatever_was_swapped(budget):
    policy, expected = Toy(), None
    config = replace(CONFIG, sites=("lm.mlp",), p=0.5, alpha=0.5, decay=0.6, swap_budget=budget)
    engine = Engine(policy, config, Inline())
    for obs in SCENES[:20]:
        if engine.step(obs).report.kind != "refresh":
            continue
        fresh, energy = Toy(), {key: torch.zeros(CHANNELS) for key in ("lm.0.mlp", "lm.1.mlp")}
        fresh.prefill(fresh.encode(obs), Plan.recording(energy))
        now = torch.stack(list(energy.values()))
        expected = now if expected is None else 0.6 * expected + 0.4 * now
        stack = engine._refresh.stacks[0]
        torch.testing.assert_close(stack.partition.by_channel(stack.history), expected, rtol=1e-4, atol=1e-5)
        factor = torch.stack([s.consumer.pow(4).sum(-1) for s in Toy().sites[:2]])
        torch.testing.assert_close(stack.partition.by_channel(stack.factor), factor)
    assert engine._refresh.state.pattern_id > 2


def test_closing_gives_the_weights_back():
    policy, untouched = Toy(), Toy()
    run(Worker(), CONFIG, SCENES, policy)
    assert all(torch.equal(a.consumer, b.consumer) for a, b in zip(policy.sites, untouched.sites))


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


def patterns(engine):
    return [stack.partition.channel.clone() for stack in engine._refresh.stacks]


def same(engine, before):
    return all(torch.equal(a, b) for a, b in zip(before, patterns(engine)))


def started(config, streams, count=10):
    engine = Engine(Toy(), config, streams)
    for obs in SCENES[:count]:
        engine.step(obs)
    engine.settle()
    return engine


@pytest.mark.parametrize("error", [RuntimeError, IndexError, MemoryError, PruningError])
@pytest.mark.parametrize("streams", [Inline, Deferred, Worker])
def test_a_refresh_that_throws_leaves_the_last_pattern_and_says_so(streams, error):
    engine = started(CONFIG, streams())
    before = patterns(engine)

    def broken(phase, plan):
        raise error("planted")

    engine._refresh.prepare = broken
    steps = [engine.step(obs) for obs in SCENES[10:13]]
    assert "planted" in steps[1].report.fault and error.__name__ in steps[1].report.fault
    assert steps[2].report.kind in ("sparse", "refresh") and same(engine, before)
    engine.close()


def test_a_refresh_that_never_ends_is_given_up_and_inference_goes_on():
    engine = started(replace(CONFIG, refresh_limit_s=0.05), Worker())
    before, let_go, prepare = patterns(engine), threading.Event(), engine._refresh.prepare

    def endless(phase, plan):
        write = prepare(phase, plan)
        let_go.wait()
        return write

    engine._refresh.prepare = endless
    steps = [engine.step(obs) for obs in SCENES[10:16]]
    assert steps[0].report.kind == "refresh" and "given up" in steps[1].report.fault
    assert all("given up" in s.report.fault and s.report.kind == "sparse" for s in steps[2:])
    assert same(engine, before), "what was given up must not write, neither now ..."
    let_go.set()
    engine._refresh.prepare = prepare
    while not engine._streams.free:
        threading.Event().wait(0.01)
    assert same(engine, before), "... nor when it ends at last"
    after = [engine.step(obs) for obs in SCENES[25:28]]
    assert after[0].report.kind == "refresh" and not any(s.report.fault for s in after) and not same(engine, before)
    engine.close()


def test_weights_torn_by_a_failed_write_are_not_used():
    engine = started(CONFIG, Inline())

    def broken(change):
        raise MemoryError("planted")

    engine._refresh.stacks[0].apply = broken
    engine.step(SCENES[10])
    for _ in range(2):
        with pytest.raises(PruningError, match="load the policy anew"):
            engine.step(SCENES[11])


@KINDS
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_energies_that_are_not_finite_do_not_poison_the_pattern(config, bad):
    engine = started(config, Inline())
    before, history = patterns(engine), [s.history.clone() for s in engine._refresh.stacks]
    prefill = engine.policy.prefill

    def spoiled(seen, plan):
        out = prefill(seen, plan)
        for record in (plan.record or {}).values():
            record.energy[0] = bad
        return out

    engine.policy.prefill = spoiled
    steps = [engine.step(obs) for obs in SCENES[10:12]]
    assert steps[0].report.kind == "refresh" and "not finite" in steps[1].report.fault
    assert np.isfinite(chunks(steps)).all()
    stack = engine._refresh.stacks[0]
    assert torch.equal(before[0], stack.partition.channel) and torch.equal(history[0], stack.history)
    engine.policy.prefill = prefill
    assert [engine.step(obs).report.fault for obs in SCENES[12:20]] == [""] * 8


def test_a_probe_frame_stays_sparse_and_still_finds_the_pattern():
    steps = run(Inline(), PROBE, SCENES)
    fired = [s.report for s in steps if s.report.kind == "refresh"]
    assert len(fired) > 3 and fired[0].ratio == 0.0, "the first frame knows nothing and runs dense"
    assert all(r.ratio == 0.5 for r in fired[1:]) and any(r.swaps for r in (s.report for s in steps[11:]))
    dense = chunks(run(Inline(), PruneConfig(method="dense"), SCENES))
    error = {}
    for name, config in (("probe", PROBE), ("dense", CONFIG)):
        sparse = [s for s in run(Inline(), config, SCENES)]
        error[name] = np.abs(chunks(sparse) - dense)[11:].mean()
    assert error["probe"] < 1.5 * error["dense"]


def test_every_frame_triggers_with_every():
    steps = run(Inline(), replace(PROBE, method="every"), SCENES[:6])
    assert [s.report.kind for s in steps] == ["refresh"] * 6


def test_a_pattern_is_refreshed_when_it_is_old_and_audited_in_turn():
    still = [SCENES[0]] * 20  # a constant scene never fires after its first frame
    steps = run(Inline(), replace(PROBE, max_age=5), still)
    assert [i for i, s in enumerate(steps) if s.report.kind == "refresh"] == [0, 5, 10, 15]
    audited = run(Inline(), replace(PROBE, max_age=5, audit=3), still)
    assert [s.report.ratio for s in audited if s.report.kind == "refresh"] == [0.0, 0.5, 0.0, 0.5]


def test_a_swap_budget_bounds_every_refresh_and_hysteresis_the_churn():
    free, tight = run(Inline(), CONFIG, SCENES), run(Inline(), replace(CONFIG, swap_budget=2), SCENES)
    later = [s.report.swaps for s in tight if s.report.pattern_id > 1]  # a first pattern is not bounded
    assert max(s.report.swaps for s in free) > 6 >= max(later) > 0  # three sites
    calm = run(Inline(), replace(CONFIG, hysteresis=0.5), SCENES)
    assert 0 < sum(s.report.swaps for s in calm) < sum(s.report.swaps for s in free)


def test_tiers_are_nested_and_each_is_the_pattern_of_its_own_ratio():
    def pruned(ratio, tiers):
        policy = Toy()
        engine = Engine(policy, PruneConfig(method="static", ratio=ratio, sites=BOTH, tiers=tiers), Inline())
        engine.calibrate(energies(policy))
        return chunks([engine.step(obs) for obs in SCENES[:5]])

    for ratio in (0.25, 0.5, 0.75):
        assert np.allclose(pruned(ratio, ()), pruned(ratio, (0.25, 0.5, 0.75)), atol=1e-6)


def test_the_deadline_chooses_the_tier_and_it_is_reported():
    clock = Clock()
    policy = Toy()
    act = policy.act

    def slow(seen, handoff, plan, noise):  # a machine whose time is what runs, times a load
        share = sum(plan.kept.get(s.key, CHANNELS) for s in policy.sites) / (3 * CHANNELS)
        clock.now += 1e-3 * clock.load * (10.0 + 100.0 * share)
        return act(seen, handoff, plan, noise)

    policy.act = slow
    config = PruneConfig(method="static", ratio=0.5, sites=BOTH, tiers=(0.0, 0.25, 0.75), deadline_ms=90.0)
    engine = Engine(policy, config, Inline(), clock=clock)
    engine.calibrate(energies(policy))
    engine.warm_up()
    ratios = []
    for load in (1.0, 2.0, 0.5):
        clock.load = load
        ratios.append([engine.step(SCENES[0]).report.ratio for _ in range(30)])
    assert ratios[0] == [0.25] * 30  # 85 ms fit, 110 do not
    assert ratios[1][-1] == 0.75 and ratios[2][-1] == 0.0
    assert all(a >= b for a, b in zip(ratios[2], ratios[2][1:])), "back without oscillation"
    assert ratios[2][:5] == [0.75] * 5, "and with patience"


def test_a_deadline_without_tiers_or_without_times_is_refused():
    with pytest.raises(PruningError, match="prune.tiers"):
        Engine(Toy(), PruneConfig(method="random", sites=BOTH, deadline_ms=10.0), Inline())
    engine = Engine(Toy(), PruneConfig(method="random", sites=BOTH, deadline_ms=10.0, tiers=(0.5,)), Inline())
    with pytest.raises(PruningError, match="warm_up"):
        engine.step(SCENES[0])


@KINDS
def test_compensation_adds_the_mean_of_what_is_pruned(config):
    dense = chunks(run(Inline(), PruneConfig(method="dense"), SCENES))
    plain = chunks(run(Inline(), replace(config, ratio=0.75), SCENES))
    added = chunks(run(Inline(), replace(config, ratio=0.75, compensate=True), SCENES))
    assert np.abs(added - dense)[11:].mean() < np.abs(plain - dense)[11:].mean()


def test_static_compensation_needs_means():
    policy = Toy()
    known = energies(policy)
    engine = Engine(policy, PruneConfig(method="static", ratio=0.5, sites=BOTH, compensate=True), Inline())
    with pytest.raises(PruningError, match="has none"):
        engine.calibrate({k: v for k, v in known.items() if not k.endswith(".mean")})
    engine.calibrate(known)
    stack = engine._refresh.stacks[0]
    pruned = stack.mean[0, 64:] @ policy.sites[0].consumer[64:]
    assert torch.allclose(engine._refresh.sparse[0].bias["lm.0.mlp"], pruned)


def test_a_pattern_goes_out_and_comes_back():
    engine, policy = started(CONFIG, Inline()), Toy()
    orders = engine.patterns()
    other = Engine(policy, PruneConfig(method="static", ratio=0.5, sites=BOTH), Inline())
    other.calibrate(energies(policy))
    other.adopt(orders)
    for mine, theirs in zip(engine._refresh.stacks, other._refresh.stacks):
        assert torch.equal(mine.partition.kept_channels(64), theirs.partition.kept_channels(64))
    with pytest.raises(PruningError, match="lm.1.mlp"):
        other.adopt({"lm.0.mlp": orders["lm.0.mlp"]})
    with pytest.raises(PruningError, match="channels"):
        other.adopt(orders | {"lm.0.mlp": [0, 1]})


def test_the_refresh_owns_little_memory():
    engine = Engine(Toy(), replace(PROBE, compensate=True, tiers=(0.25,)), Inline())
    engine.calibrate(energies(engine.policy))
    before = engine.refresh_bytes
    for obs in SCENES:
        engine.step(obs)
    assert engine.refresh_bytes == before > 0


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
