"""The padding of a prompt's bucket is no token: a refresh neither samples nor counts it."""

from __future__ import annotations

import pytest
import torch
from support import all_models as small

from ecovla_ros.config import PruneConfig
from ecovla_ros.engine.calibration import calibration
from ecovla_ros.engine.refresh import Refresh
from ecovla_ros.models.pi import policy as pi
from ecovla_ros.models.prismatic import model as prismatic

FAMILIES = pytest.mark.parametrize("family", small.FAMILIES)
BUCKET = 16


def sites_of(family):
    return ("lm.mlp",) if family in small.PRISMATIC else ("lm.mlp", "lm.heads")


def padded(family):
    policy = small.policy(family, bucket=BUCKET)
    seen = policy.encode(small.observation(policy))
    assert len(seen.padding) > 0 and int((seen.valid == 0).sum()) == len(seen.padding)
    middle = seen.padding.stop < len(seen.prefix)
    assert middle == (family in small.PRISMATIC)
    return policy, seen


def refresh_of(policy, family, seen):
    """A probe of every token of the prefix."""
    real = len(seen.prefix) - len(seen.padding)
    config = PruneConfig(
        method="ecovla", ratio=0.5, sites=sites_of(family), refresh="probe", probe_tokens=real, compensate=True,
        decay=0.0,
    )  # fmt: skip
    return Refresh(policy.sites, config)


def found(refresh, policy, plan, seen):
    """What a refresh of one prefill finds: energies and means of every stack."""
    refresh.watch(plan, len(seen.prefix), policy.spec.horizon, seen.padding)
    policy.prefill(seen, plan)
    kept = [plan.kept.get(stack.sites[0].key) for stack in refresh.stacks]
    changes = [stack.prepare(k, refresh._lengths["prefill"]) for stack, k in zip(refresh.stacks, kept)]
    return [(change.history, change.mean) for change in changes]


@FAMILIES
@torch.inference_mode()
def test_a_probe_of_every_token_finds_what_a_dense_frame_records(family):
    policy, seen = padded(family)
    refresh = refresh_of(policy, family, seen)
    for site in policy.sites:  # without what the pruned channels give, a sparse layer's inputs are a dense one's
        if site.key in refresh.sparse[0].kept:
            site.consumer[refresh.sparse[0].kept[site.key] * site.unit :] = 0.0
    dense = found(refresh, policy, refresh.recording, seen)
    sparse = found(refresh, policy, refresh.probing[0], seen)
    for (energy, mean), (expected, expected_mean) in zip(sparse, dense):
        assert expected.min() > 0.0
        torch.testing.assert_close(energy, expected, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(mean, expected_mean, rtol=1e-3, atol=1e-5)


@FAMILIES
@torch.inference_mode()
def test_what_a_refresh_finds_does_not_depend_on_the_bucket(family):
    each = []
    for policy in (small.policy(family), padded(family)[0]):
        seen = policy.encode(small.observation(policy))
        refresh = refresh_of(policy, family, seen)
        plans = (refresh.recording, refresh.probing[0])
        each.append([one for plan in plans for one in found(refresh, policy, plan, seen)])
    for exact, with_padding in zip(*each):
        for a, b in zip(exact, with_padding):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@FAMILIES
def test_a_calibration_does_not_depend_on_the_bucket(family):
    exact, with_padding = (
        calibration(policy, [small.observation(policy, seed) for seed in range(2)], small.noise(policy))
        for policy in (small.policy(family), padded(family)[0])
    )
    for key, value in exact.items():
        torch.testing.assert_close(value, with_padding[key], rtol=1e-3, atol=1e-4)


@FAMILIES
@torch.inference_mode()
def test_of_fewer_tokens_no_sample_is_padding_and_every_real_one_is_sampled(family, monkeypatch):
    policy, seen = padded(family)
    refresh, later = refresh_of(policy, family, seen), []
    policy.prune_tokens(2, 0.5)
    module = prismatic if family in small.PRISMATIC else pi
    shortened = module.shortened

    def noted(use, index, length):
        later.append((shortened(use, index, length), index))
        return later[-1][0]

    monkeypatch.setattr(module, "shortened", noted)
    plan = refresh.probing[0]
    refresh.watch(plan, len(seen.prefix), policy.spec.horizon, seen.padding)
    policy.prefill(seen, plan)
    assert later
    for use, index in later:
        sampled = index[use.mlp.record.tokens]
        assert (seen.valid[sampled] == 1.0).all()
        assert set(sampled.tolist()) == set(index.tolist()) - set(seen.padding)


@FAMILIES
@torch.inference_mode()
def test_samples_of_an_engine_s_frame_are_tokens_whatever_their_number(family):
    policy, seen = padded(family)
    for count in (1, 7, len(seen.prefix) + 3):
        config = PruneConfig(method="ecovla", ratio=0.5, sites=sites_of(family), refresh="probe", probe_tokens=count)
        refresh = Refresh(policy.sites, config)
        for _ in range(5):
            refresh.watch(refresh.probing[0], len(seen.prefix), policy.spec.horizon, seen.padding)
            assert (seen.valid[refresh._tokens["prefill"]] == 1.0).all()
