"""Kept counts that fit a machine: the rule by made-up times, the engine that runs with them, and who repeats them."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.engine_runs import BOTH, SCENES, energies
from support.toy import CHANNELS, Toy

from ecovla_ros.config import PruneConfig
from ecovla_ros.engine import fit
from ecovla_ros.engine.engine import Engine
from ecovla_ros.engine.refresh import Refresh
from ecovla_ros.engine.streams import Inline
from ecovla_ros.errors import PruningError
from ecovla_ros.prune import pattern
from ecovla_ros.prune.site import Site

TIME = PruneConfig(method="every", ratio=0.5, sites=BOTH, probe_tokens=8, fit="time")

H100 = {16384: 106.5, 12288: 80.8, 11264: 78.2, 10240: 73.4, 9824: 71.7, 9216: 68.3, 8192: 54.0}
"""Gate and up of pi0.5 at 544 tokens, us (results/h100)."""


def site(channels, step=32):
    weight = torch.empty(channels, 4, device="meta")
    return Site("lm.0.mlp", "lm.mlp", "prefill", channels, 1, (weight, weight), weight, step)


def test_a_step_of_time_is_taken_where_it_is_won():
    assert fit.best(9824, H100) == 8192
    assert fit.best(10240, {10240: 73.4, 11264: 73.5, 9216: 68.3}) == 11264, "more channels at the same time"
    assert fit.best(96, {64: 0.64, 96: 0.96, 128: 1.28}) == 96, "nothing to be won where time goes with the count"
    assert fit.best(96, {64: 0.2, 96: 0.96, 128: 0.2}) == 128, "a larger one that is faster"


@given(st.dictionaries(st.integers(1, 40).map(lambda n: 32 * n), st.floats(0.01, 10.0), min_size=1), st.data())
def test_what_is_chosen_never_takes_longer_and_never_computes_less_per_second(times, data):
    middle = data.draw(st.sampled_from(sorted(times)))
    found = fit.best(middle, times)
    assert times[found] <= times[middle] * (1 + fit.AS_LONG)
    assert found / times[found] >= (1 - fit.AS_FAST) * middle / times[middle]


@given(st.integers(1, 600).map(lambda n: 32 * n), st.floats(0.05, 0.9))
def test_counts_to_time_lie_around_the_one_asked_for(channels, ratio):
    one = site(channels)
    found, middle = fit.candidates(one, ratio), fit.asked(one, ratio)
    assert (
        middle in found and len(found) <= fit.TRIED + 2 and all(k % one.step == 0 and 0 < k <= channels for k in found)
    )
    assert all(abs(k - middle) <= fit.REACH * middle for k in found)


def test_the_published_width_is_tried_where_a_step_is_won():
    assert {8192, 9824} <= set(fit.candidates(site(16384), 0.4))


def stepped(sites, kept, tokens):
    """A machine that computes in tiles of 48 channels."""
    return float(-(-kept // 48))


def test_an_engine_keeps_what_fits_and_says_so(monkeypatch):
    monkeypatch.setattr(fit, "timed", stepped)
    monkeypatch.setattr(fit, "REACH", 0.5)
    policy = Toy()
    engine = Engine(policy, replace(TIME, ratio=0.6, cold_frames=1), Inline())
    kept = set(engine.sparse_plan.kept.values())
    assert kept == {96} != {fit.asked(policy.sites[0], 0.6)}, "48 and 64 channels take the time of 96 and 48"
    assert engine.sparse_plan.ratio == 1 - 96 / CHANNELS
    reports = [engine.step(obs).report for obs in SCENES[:3]]
    assert reports[-1].ratio == engine.sparse_plan.ratio and reports[-1].pattern_id
    engine.close()


def test_who_starts_from_a_pattern_keeps_as_many_on_any_machine(tmp_path, monkeypatch):
    monkeypatch.setattr(fit, "REACH", 0.5)
    file, chunks = tmp_path / "pattern.json", []
    for timer in (stepped, lambda sites, kept, tokens: float(kept)):
        monkeypatch.setattr(fit, "timed", timer)
        policy = Toy()
        config = replace(TIME, method="static", pattern=str(file) if file.exists() else "")
        engine = Engine(policy, config, Inline())
        engine.calibrate(energies(policy))
        if file.exists():
            engine.adopt(pattern.load(file))
        else:
            pattern.save(file, engine.patterns(), engine.sparse_plan.kept)
        chunks.append(np.stack([engine.step(obs).chunk.joints for obs in SCENES[:4]]))
        engine.close()
    assert np.array_equal(*chunks)


@pytest.mark.parametrize("kept", [[50, 50], [0, 0], [256, 256], [32, 64]])
def test_a_pattern_that_keeps_what_no_site_can_is_refused(tmp_path, kept):
    file = tmp_path / "pattern.json"
    orders = {f"lm.{i}.mlp": list(range(CHANNELS)) for i in range(2)}
    pattern.save(file, orders, dict(zip(orders, kept)))
    with pytest.raises(PruningError, match="channels of site"):
        Engine(Toy(), replace(TIME, pattern=str(file)), Inline())


def test_tiers_are_fitted_each_and_stay_nested(monkeypatch):
    monkeypatch.setattr(fit, "timed", stepped)
    policy = Toy()
    config = replace(TIME, ratio=0.25, tiers=(0.5,))
    refresh = Refresh(policy.sites, config, count=fit.counts(policy, config))
    counts = [plan.kept["lm.0.mlp"] for plan in refresh.sparse]
    assert counts == sorted(counts, reverse=True)


def test_a_cpu_times_its_own_products():
    policy = Toy()
    assert fit.timed(policy.sites[:2], 64, 12) > 0.0
    engine = Engine(policy, TIME, Inline())
    assert all(abs(k - 64) <= 64 * fit.REACH for k in engine.sparse_plan.kept.values())
    json.dumps(engine.sparse_plan.kept)
