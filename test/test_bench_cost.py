"""Costs on paper: they are what torch counts when the model runs, and a bound that no ratio can turn round."""

from __future__ import annotations

import pi_models
import prismatic_models
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ecovla_ros.bench import analytic, cost
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


def counted_macs(run):
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() / 2


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


def test_the_table_of_full_shapes_falls_with_the_ratio_and_the_faster_card():
    made = analytic.rows()
    assert {r["model"] for r in made} == set(analytic.RATIOS)
    for name in analytic.RATIOS:
        mine = [r for r in made if r["model"] == name]
        assert [r["ratio"] for r in mine] == [0.0, *analytic.RATIOS[name]]
        for gpu in cost.GPUS:
            bounds = [r["bound_ms"][gpu] for r in mine]
            assert bounds == sorted(bounds, reverse=True)
        assert all(r["bound_ms"]["H200"] < r["bound_ms"]["4090"] < r["bound_ms"]["3090"] for r in mine)
