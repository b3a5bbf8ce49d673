"""`prune.record_steps`: of an action head's steps the last few record, and what they record stands for all."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support import pi_models as small

from ecovla_ros.config import PruneConfig
from ecovla_ros.engine.refresh import Refresh

CONFIG = PruneConfig(
    method="ecovla", ratio=0.5, sites=("lm.mlp", "expert.mlp", "expert.heads"), probe_tokens=small.SMALL.horizon
)
STEPS = small.SMALL.flow_steps


def recorded(steps):
    """(of every expert MLP: energies, sampled inputs, site), after one sparse frame that records so many steps."""
    policy = small.policy()
    refresh = Refresh(policy.sites, replace(CONFIG, record_steps=steps))
    plan, seen = refresh.probing[0], policy.encode(small.observation())
    refresh.watch(plan, len(seen.prefix), policy.spec.horizon)
    answer = policy.act(seen, policy.prefill(seen, plan), plan, small.noise())
    found = {s.key: (plan.record[s.key], s, plan.kept[s.key]) for s in policy.sites if s.key in plan.record}
    return answer, found


@pytest.mark.parametrize("steps", range(1, STEPS))
@torch.inference_mode()
def test_the_last_steps_record_and_no_other(steps):
    """Every token of a step is sampled here, so that its energies can be computed again from the samples."""
    answer, found = recorded(steps)
    same, full = recorded(0)
    assert torch.equal(answer, same), "recording changes nothing of the frame"
    for key, (record, site, kept) in found.items():
        if key.startswith("lm"):
            assert torch.equal(record.energy, full[key][0].energy), "the prefill runs once, and is recorded"
        elif key.endswith("mlp"):
            assert len(record.inputs) == steps
            assert torch.equal(record.inputs, full[key][0].inputs[-steps:])
            again = site.hidden(record.inputs.flatten(0, 1), record.tokens, 0, kept).square().sum(0)
            assert torch.allclose(record.energy[:kept], again, rtol=1e-4)


@torch.inference_mode()
def test_what_few_steps_say_is_scaled_to_all():
    """Histories begin with a calibration, which counts all steps: both must be of one size."""
    policy = small.policy()
    for steps, factor in ((0, 1.0), (1, float(STEPS)), (STEPS, 1.0), (STEPS + 5, 1.0)):
        refresh = Refresh(policy.sites, replace(CONFIG, ratio=0.0, record_steps=steps, sites=("expert.mlp",)))
        plan, seen = refresh.recording, policy.encode(small.observation())
        refresh.watch(plan, len(seen.prefix), policy.spec.horizon)
        policy.act(seen, policy.prefill(seen, plan), plan, small.noise())
        (stack,) = refresh.stacks
        found = stack.prepare(None, policy.spec.horizon).history
        assert torch.allclose(found, stack.energy * factor)
