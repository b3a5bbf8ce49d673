"""Costs on paper: they are what torch counts when the model runs, and a bound that no ratio can turn round."""

from __future__ import annotations

import pytest
import torch
from support import pi_models, prismatic_models
from support.all_models import counted_macs

from ecovla_ros.bench.speed import analytic, cost
from ecovla_ros.models.base import DENSE, Plan
from ecovla_ros.prune.select import kept_count

POLICIES = {
    "pi0": lambda: pi_models.policy(pi_models.SIGLIP),
    "oft": lambda: prismatic_models.policy("oft"),
    "cogact": lambda: prismatic_models.policy("cogact"),
}
ALL = ("lm.mlp", "lm.heads", "expert.mlp", "expert.heads")


def observation(policy):
    module = pi_models if hasattr(policy.config, "variant") else prismatic_models
    return module.observation(policy.config), module.noise(policy.config)


@pytest.mark.parametrize("ratio", [0.0, 0.5])
@pytest.mark.parametrize("name", POLICIES)
def test_multiply_accumulates_are_those_that_torch_counts(name, ratio):
    policy = POLICIES[name]()
    obs, noise = observation(policy)
    kept = {s.key: kept_count(s.channels, ratio, s.step) for s in policy.sites}
    plan = Plan(kept) if ratio else DENSE
    prompt = len(policy.prompt.ids(obs.instruction))
    with torch.inference_mode():
        seen = policy.encode(obs)
        handoff = policy.prefill(seen, plan)
        counted = {
            "vision": counted_macs(lambda: policy.encode(obs)),
            "prefill": counted_macs(lambda: policy.prefill(seen, plan)),
            "act": counted_macs(lambda: policy.act(seen, handoff, plan, noise)),
        }
    found = [p for p in cost.products(policy, prompt) if p.weights]  # torch does not count attention on a CPU
    for stage in cost.STAGES:
        assert cost.macs(found, stage, ratio, ALL) == pytest.approx(counted[stage], rel=1e-3), stage


@pytest.mark.parametrize("ratio", [0.0, 0.5])
@pytest.mark.parametrize("way", ["fastv", "vla-cache"])
@pytest.mark.parametrize("name", POLICIES)
def test_fewer_vision_tokens_are_counted_as_torch_counts_them(name, way, ratio):
    policy = POLICIES[name]()
    if way == "fastv":
        policy.prune_tokens(1, 0.5)
    else:
        policy.reuse_tokens((0.25, 0.5), 0.25, 0, 0.9)
    obs, noise = observation(policy)
    plan = Plan({s.key: kept_count(s.channels, ratio, s.step) for s in policy.sites}) if ratio else DENSE
    prompt = len(policy.prompt.ids(obs.instruction))
    with torch.inference_mode():
        policy.prefill(policy.encode(obs), plan)
        seen = policy.encode(obs)
        assert (seen.reuse is not None) == (way == "vla-cache")
        handoff = policy.prefill(seen, plan)
        prefill = counted_macs(lambda: policy.prefill(seen, plan))
        act = counted_macs(lambda: policy.act(seen, handoff, plan, noise))
    products = cost.products(policy, prompt)
    looks = {id(p) for p in cost._looks(policy, len(seen.prefix), prompt, 1)}
    assert looks, "choosing tokens costs something"
    weighed = [p for p in products if p.weights]
    read = prompt if name == "pi0" else policy.model.slots if name == "oft" else 1
    rows = read if way == "fastv" else prompt if name == "pi0" else prompt - 1
    site = next(p.site for p in cost._looks(policy, len(seen.prefix), prompt, 1))
    scores = rows * len(seen.prefix) * plan.kept.get(site.key, site.channels) * site.unit
    assert cost.macs(weighed, "prefill", ratio, ALL) + scores == pytest.approx(prefill, rel=1e-3)
    assert cost.macs(weighed, "act", ratio, ALL) == pytest.approx(act, rel=1e-3)


def test_the_table_of_full_shapes_falls_with_the_ratio_and_the_faster_card():
    made = analytic.rows()
    assert {r["model"] for r in made} == set(analytic.RATIOS)
    for name in analytic.RATIOS:
        mine = [r for r in made if r["model"] == name and r["way"] == "none"]
        fewer = [r for r in made if r["model"] == name and r["way"] != "none"]
        assert [r["ratio"] for r in mine] == [0.0, *analytic.RATIOS[name]] and len(fewer) == 4
        whole = {r["ratio"]: r["prefill_gmac"] for r in mine}
        assert all(0.5 < r["prefill_gmac"] / whole[r["ratio"]] < 0.75 for r in fewer)
        for gpu in cost.GPUS:
            bounds = [r["bound_ms"][gpu] for r in mine]
            assert bounds == sorted(bounds, reverse=True)
        assert all(r["bound_ms"]["H200"] < r["bound_ms"]["4090"] < r["bound_ms"]["3090"] for r in mine)
