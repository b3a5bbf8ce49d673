"""VLA-Cache: what stands still keeps its K and V, what moved or matters is computed anew, and none of it is stale."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from support import all_models as small
from support.all_models import counted_macs

from ecovla_ros import build
from ecovla_ros.bench.speed import macs
from ecovla_ros.config import PolicyConfig, PruneConfig
from ecovla_ros.engine.engine import Engine
from ecovla_ros.engine.graphs import Graphed
from ecovla_ros.engine.recorder import EagerRecorder
from ecovla_ros.engine.streams import Deferred, Inline
from ecovla_ros.errors import ConfigError
from ecovla_ros.models.base import DENSE, Plan
from ecovla_ros.models.core.vla_cache import ReuseCounts, patch_similarity

FAMILIES = pytest.mark.parametrize("family", small.FAMILIES)
ROUNDING = 1e-5
"""Products over fewer rows are summed in another order: equal to rounding, not bit by bit."""


def caching(family, shares=(0.25, 0.5), excluded=0.0, similarity=0.996, **options):
    made = small.policy(family, **options)
    made.reuse_tokens(shares, excluded, 0, similarity)
    return made


def scene(of, seed=0, text=None, stamp=7):
    """A scene whose patches are plain to tell apart; a later `stamp` is a later picture of it."""
    obs = small.observation(of, seed, stamp_ns=stamp)
    return obs if text is None else replace(obs, instruction=text)


def answer(of, obs, plan=DENSE, whole=False):
    """The normalised actions of one frame, and which vision tokens kept their K and V in the last layer."""
    seen = of.encode(obs)
    seen = replace(seen, reuse=None) if whole else seen
    out = of.act(seen, of.prefill(seen, plan), plan, small.noise(of))
    of.to_chunk(seen, out)
    if seen.reuse is None:
        return out, set()
    return out, set((seen.reuse[: of.reuse.counts.counts[-1]] - of.reuse.first).tolist())


def keys(of):
    return [torch.cat((c.keys[0], c.values[0]), -1).clone() for c in of.caches]


@FAMILIES
def test_reusing_nothing_is_dense_bit_for_bit(family):
    plain, policy = small.policy(family), small.policy(family)
    policy.reuse_tokens((0.0, 0.0), 0.4, 0, 0.996)
    assert policy.reuse is None
    obs, start = scene(plain), small.noise(plain)
    assert torch.equal(small.actions(policy, obs, DENSE, start), small.actions(plain, obs, DENSE, start))


@FAMILIES
@pytest.mark.parametrize("excluded", [0.0, 0.4])
def test_a_frame_that_computes_all_is_dense_bit_for_bit(family, excluded):
    """K/V that are kept, and attention that is read, change nothing of the frame itself."""
    plain, policy = small.policy(family), caching(family, excluded=excluded)
    for seed in range(3):
        obs = scene(plain, seed)
        got, reused = answer(policy, obs)
        assert not reused and torch.equal(got, small.actions(plain, obs, DENSE, small.noise(plain)))


@FAMILIES
@pytest.mark.parametrize("options", [{}, {"bucket": 16}], ids=["", "padded"])
@pytest.mark.parametrize("excluded", [0.0, 0.4])
def test_an_identical_frame_is_dense_to_rounding(family, options, excluded):
    plain, policy = small.policy(family, **options), caching(family, excluded=excluded, **options)
    obs = scene(plain)
    expected = small.actions(plain, obs, DENSE, small.noise(plain))
    answer(policy, obs)
    for _ in range(3):
        got, reused = answer(policy, obs)
        assert len(reused) == policy.reuse.counts.counts[-1] > 0
        assert (got - expected).abs().max() < ROUNDING * max(1.0, float(expected.abs().max()))


@FAMILIES
def test_what_moved_is_computed_anew_and_what_stands_still_is_not(family):
    policy, fresh = caching(family), small.policy(family)
    first = scene(policy)
    answer(policy, first)
    before, patches = keys(policy), {0, 3, 5}
    second = small.moved(first, "third_person", patches, stamp_ns=8)
    _, reused = answer(policy, second)
    assert reused and not reused & patches
    after, counts = keys(policy), policy.reuse.counts.counts
    seen = policy.encode(small.moved(second, "third_person", (), stamp_ns=9))
    order, offset = [int(p) for p in seen.reuse], policy.reuse.first
    for i, (old, new) in enumerate(zip(before, after)):
        changed = {p - offset for p in range(old.shape[1]) if not torch.equal(old[:, p], new[:, p])}
        assert patches <= changed, "a patch that moved keeps nothing"
        assert not changed & {p - offset for p in order[: counts[i]]} - patches, "one that stands still keeps all"
    fresh_seen = fresh.encode(second)
    assert (policy.encode(second).prefix - fresh_seen.prefix).abs().max() == 0.0, "vision is never reused"


@FAMILIES
def test_the_first_layer_s_new_keys_are_those_of_a_dense_frame(family):
    """Before any attention a token depends on nothing but itself: recomputed K and V are exact there."""
    policy, dense = caching(family), caching(family)
    first = scene(policy)
    second = small.moved(first, "third_person", {1, 2}, stamp_ns=8)
    answer(policy, first)
    answer(policy, second)
    answer(dense, second, whole=True)
    offset = policy.reuse.first
    for patch in (1, 2):
        a, b = keys(policy)[0][:, patch + offset], keys(dense)[0][:, patch + offset]
        assert (a - b).abs().max() < ROUNDING


@FAMILIES
def test_reusing_what_moved_shows(family):
    """The law above can fail: with no threshold, K/V of patches that are not there any more change the actions."""
    policy, plain = caching(family, (0.9,), similarity=0.0), small.policy(family)
    first, second = scene(policy), scene(policy, 1, stamp=8)
    answer(policy, first)
    got, reused = answer(policy, replace(second, joints=first.joints))
    assert reused
    expected = small.actions(plain, replace(second, joints=first.joints), DENSE, small.noise(plain))
    assert (got - expected).abs().max() > 1e-3


@FAMILIES
def test_too_much_motion_is_a_whole_frame(family):
    policy = caching(family, (0.75,))
    first = scene(policy)
    answer(policy, first)
    assert answer(policy, small.moved(first, "third_person", range(16), stamp_ns=8))[1] == set()


def test_slow_drift_does_not_add_up():
    """Each frame is like the one before it; the reused patches must still be like those their K/V come from."""
    policy = caching("oft", (0.9,))
    obs, made, drifted = scene(policy), {}, 0
    for i in range(12):
        level = 100 + 3 * i
        images = {c: np.full_like(image, level) for c, image in obs.images.items()}
        reused = answer(policy, replace(obs, images=images, stamp_ns=i + 1))[1]
        made |= {token: level for token in range(2 * policy.config.tokens) if token not in reused}
        for token in reused:
            a, b = (np.full((1, 4), v, np.float32) for v in (level, made[token]))
            assert patch_similarity(a, b)[0] >= 0.996
        drifted += not reused
    assert 1 < drifted < 12


def test_likeness_is_at_most_the_cosine_and_counts_brightness():
    rng = np.random.default_rng(0)
    a, b = rng.random((50, 12)).astype(np.float32), rng.random((50, 12)).astype(np.float32)
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert (patch_similarity(a, b) <= cosine + 1e-6).all()
    assert patch_similarity(a, a) == pytest.approx(1.0)
    assert (patch_similarity(a, 0.8 * a) < 0.98).all(), "the cosine would call this the same"
    assert patch_similarity(np.zeros((1, 3), np.float32), np.zeros((1, 3), np.float32)) == 1.0


@FAMILIES
def test_what_the_prompt_looks_at_most_is_computed_anew(family):
    policy = caching(family, (0.5,), excluded=0.25)
    obs = scene(policy)
    answer(policy, obs)
    scores = policy.reuse._scores.clone()
    assert scores.shape == (16 * len(policy.config.cameras),)
    assert scores.min() > 0.0 and scores.sum() < 1.0, "a share of the prompt's attention"
    top = set(scores.argsort(descending=True)[: policy.reuse.counts.excluded].tolist())
    _, reused = answer(policy, obs)
    assert reused and not reused & top


@FAMILIES
def test_the_attention_read_is_the_layer_s_own(family):
    """Mean over prompt rows and heads, by the definition, from the keys the pass left."""
    policy = caching(family, excluded=0.25)
    seen = policy.encode(scene(policy))
    inputs = {}
    block = policy.model.lm[policy.reuse.counts.layer]
    hook = block.register_forward_pre_hook(lambda _, args: inputs.update(x=args[0]))
    policy.prefill(seen, DENSE)
    hook.remove()
    a, length = block.attention, len(seen.prefix)
    rope = policy.model.rope(None, 0, length) if family in small.PI else policy._prismatic._span(inputs["x"], None).rope
    q = a.queries(a.norm(inputs["x"]), len(a.o), rope)[0].transpose(0, 1)  # (heads, S, head_dim)
    k = policy.caches[policy.reuse.counts.layer].keys[0, :, :length]
    scores = torch.stack([q[h] @ k[h % len(k)].T for h in range(len(q))]) * a.head_dim**-0.5
    if family == "cogact":
        scores = scores.masked_fill(~torch.ones(length, length).bool().tril(), -torch.inf)
    tokens, offset = policy.reuse._looked.numel(), policy.reuse.first
    first = offset + tokens + getattr(policy, "state_tokens", 0)
    stop = length - policy.model.slots - 1 if family == "oft" else length
    expected = scores.softmax(-1).mean(0)[first:stop].mean(0)[offset : offset + tokens]
    torch.testing.assert_close(policy.reuse._looked, expected, rtol=1e-4, atol=1e-6)


@FAMILIES
@pytest.mark.parametrize("change", ["task", "scene cut", "camera"])
def test_what_was_known_is_dropped(family, change):
    policy = caching(family)
    obs = scene(policy)
    answer(policy, obs)
    assert answer(policy, obs)[1]
    if change == "task":
        other = replace(obs, instruction=policy.spec.instructions[1])
    elif change == "scene cut":
        other = scene(policy, 3, stamp=8)
    elif not policy.config.optional_cameras:
        pytest.skip("a camera may not be missing")
    else:
        other = replace(obs, images={**obs.images, "wrist": None})
    assert answer(policy, other)[1] == set()
    assert answer(policy, obs)[1] == set(), "and nothing of before comes back"
    assert answer(policy, obs)[1]


@pytest.mark.parametrize("share, reuses", [(0.75, False), (0.25, True)])
def test_without_a_camera_the_same_count_holds_or_nothing_is_reused(share, reuses):
    policy, plain = caching("pi0", (share,)), small.policy("pi0")
    obs = scene(policy)
    obs = replace(obs, images={**obs.images, "wrist": None})
    expected = small.actions(plain, obs, DENSE, small.noise(plain))
    answer(policy, obs)
    got, reused = answer(policy, obs)
    assert bool(reused) == reuses and (got - expected).abs().max() < ROUNDING * max(1.0, float(expected.abs().max()))


def test_the_state_in_pi05_s_prompt_may_change():
    policy, plain = caching("pi05"), small.policy("pi05")
    obs = scene(policy)
    answer(policy, obs)
    got, reused = answer(policy, replace(obs, joints=np.linspace(-1, 1, 7)))
    assert reused
    # the text is computed anew, so that only what it does to vision tokens is of the frame before
    expected = small.actions(plain, replace(obs, joints=np.linspace(-1, 1, 7)), DENSE, small.noise(plain))
    assert 0.0 < (got - expected).abs().max() < 0.2


@FAMILIES
def test_another_prefill_than_the_last_chosen_for_is_not_trusted(family):
    policy = caching(family)
    a, b = scene(policy), scene(policy, 1)
    answer(policy, a)
    seen = policy.encode(a)
    policy.encode(b)
    policy.prefill(replace(seen, reuse=None), DENSE)
    assert policy.encode(b).reuse is None
    assert policy.encode(a).reuse is None


@FAMILIES
def test_with_reuse_a_prefix_is_still_the_masked_model(family):
    policy = caching(family)
    first = scene(policy)
    second = small.moved(first, "third_person", {0, 3}, stamp_ns=8)
    plan = Plan({site.key: site.channels // 2 for site in policy.sites if site.key.split(".")[1] != "1"})
    answer(policy, first, plan)
    sparse, reused = answer(policy, second, plan)
    for site in policy.sites:
        if site.key in plan.kept:
            site.consumer.view(site.channels, -1)[plan.kept[site.key] :] = 0.0
    answer(policy, first, whole=True)
    masked, again = answer(policy, second)
    assert reused == again and reused
    assert (sparse - masked).abs().max() < 2e-5


@FAMILIES
def test_fewer_tokens_are_less_work_by_the_exact_count(family):
    policy = caching(family, (0.25, 0.5))
    obs = scene(policy)
    answer(policy, obs)
    seen = policy.encode(obs)
    whole, part = (counted_macs(lambda s=s: policy.prefill(s, DENSE)) for s in (replace(seen, reuse=None), seen))
    block = sum(w.numel() for w in policy.model.lm[0].parameters() if w.dim() > 1)
    k = policy.model.lm_last.attention.k if family in small.PRISMATIC else policy.model.lm_last.vkq.chunk(2)[0]
    *counts, last = policy.reuse.counts.counts
    assert whole - part == sum(counts) * block + last * 2 * k.numel()


@FAMILIES
def test_the_bench_counts_what_a_reusing_frame_runs(family):
    policy = caching(family)
    obs, start = scene(policy), small.noise(policy)
    whole, part = (macs.count(policy, obs, DENSE, start, reuse) for reuse in (False, True))
    assert part["prefill"] < whole["prefill"] and part["act"] == whole["act"]
    assert macs.count(policy, obs, DENSE, start) == whole, "whatever the frame before left"


EVERY = PruneConfig(method="ecovla", ratio=0.5, sites=("lm.mlp", "lm.heads"), refresh="dense", p=0.5, hysteresis=0.0)


def calm(of, count=3, start=0):
    return [scene(of, start, stamp=start * 100 + i + 1) for i in range(count)]


@FAMILIES
def test_ratio_zero_with_reuse_is_reuse_alone(family):
    frames = [scene(small.policy(family), seed, stamp=10 * seed + i) for seed in (0, 1) for i in range(4)]
    found = []
    for config in (PruneConfig(method="dense"), replace(EVERY, ratio=0.0, max_age=3)):
        policy = caching(family)
        engine = Engine(policy, config, Inline())
        steps = [engine.step(f) for f in frames]
        found.append([(s.chunk.joints, s.report.reused) for s in steps])
        engine.close()
    assert [r for _, r in found[0]] == [False, True, True, True] * 2
    assert any(r for _, r in found[1])
    for (a, _), (b, _) in zip(*found):
        assert np.abs(a - b).max() < ROUNDING


@FAMILIES
@pytest.mark.parametrize("refresh", ["dense", "probe"])
def test_a_refresh_sees_every_token_and_the_frame_after_it_keeps_nothing(family, refresh):
    """Energies are of the whole sequence, and no K/V of an older pattern is attended to."""
    policy, plain = caching(family), small.policy(family)
    sites = EVERY.sites if refresh == "dense" else ("lm.mlp",)
    config = replace(EVERY, refresh=refresh, sites=sites, max_age=3, probe_tokens=8)
    engine, reference = (Engine(p, config, Deferred()) for p in (policy, plain))
    kinds = []
    for obs in [o for seed in (0, 1, 2) for o in calm(policy, 5, seed)]:
        step, expected = engine.step(obs), reference.step(obs)
        kinds.append((step.report.kind, step.report.reused))
        assert step.report.kind == expected.report.kind and step.report.fault == ""
        assert step.report.similarity == expected.report.similarity or not np.isfinite(step.report.similarity)
        assert step.report.pattern_id == expected.report.pattern_id
        assert engine.patterns() == reference.patterns(), "the same energies choose the same channels"
        if not step.report.reused:
            assert np.array_equal(step.chunk.joints, expected.chunk.joints)
        else:
            assert np.abs(step.chunk.joints - expected.chunk.joints).max() < ROUNDING, "the frames are identical"
    assert ("sparse", True) in kinds and ("refresh", True) not in kinds
    assert not any(reused for (before, _), (_, reused) in zip(kinds, kinds[1:]) if before == "refresh")
    engine.close()
    reference.close()


@FAMILIES
def test_a_new_episode_another_tier_and_an_adopted_pattern_keep_nothing(family):
    policy = caching(family)
    config = replace(EVERY, method="random", tiers=(0.25,), deadline_ms=0.0)
    engine = Engine(policy, config, Inline())
    reused = [engine.step(o).report.reused for o in calm(policy)]
    engine.reset(0)
    reused += [engine.step(o).report.reused for o in calm(policy)]
    engine.adopt(engine.patterns())
    reused += [engine.step(o).report.reused for o in calm(policy)]
    assert reused == [False, True, True] * 3
    engine._refresh.home = 1 - engine._refresh.home
    assert [engine.step(o).report.reused for o in calm(policy, 2)] == [False, True]
    engine.close()


@FAMILIES
def test_a_frame_that_falls_back_to_dense_leaves_nothing_to_reuse(family):
    policy = caching(family)
    engine = Engine(policy, replace(EVERY, method="random"), Inline())
    frames, act = calm(policy, 4), policy.act
    engine.step(frames[0])
    policy.act = lambda seen, h, plan, n: act(seen, h, plan, n) * (torch.nan if plan.kept else 1.0)
    assert engine.step(frames[1]).report.fault
    policy.act = act
    assert [engine.step(f).report.reused for f in frames[2:]] == [False, True]
    engine.close()


@FAMILIES
def test_a_captured_pass_follows_which_tokens_are_reused(family):
    frames = [scene(small.policy(family), seed, stamp=10 * seed + i) for seed in (0, 1) for i in range(3)]
    frames += [small.moved(frames[-1], "third_person", {i}, stamp_ns=90 + i) for i in (0, 2)]
    frames = [replace(f, joints=np.zeros(7), gripper=0.0) for f in frames]  # pi0.5's prompt has the example's length
    found = []
    for wrap in (lambda p: p, lambda p: Graphed(p, EagerRecorder())):
        policy = caching(family, excluded=0.2)
        engine = Engine(wrap(policy), replace(EVERY, refresh="dense", max_age=6), Inline())
        engine.warm_up()
        captured = engine.policy.graphs if isinstance(engine.policy, Graphed) else 0
        steps = [engine.step(f) for f in frames]
        if captured:
            assert engine.policy.graphs == captured, "no frame has a shape that warm-up did not capture"
        found.append([(s.chunk.joints, s.report.reused) for s in steps])
        engine.close()
    assert [r for _, r in found[0]] == [r for _, r in found[1]] and any(r for _, r in found[0])
    assert all(np.array_equal(a, b) for (a, _), (b, _) in zip(*found))


@pytest.mark.parametrize(
    "shares, excluded, layer, told",
    [((0.5, 0.25), 0.0, 0, "fall"), ((0.7,), 0.4, 0, "more than there"), ((0.5,), 0.2, 4, "valid: 1 to 3")],
)
def test_what_cannot_be_reused_is_refused(shares, excluded, layer, told):
    with pytest.raises(ConfigError, match=told):
        ReuseCounts.of(10, 4, shares, excluded, layer, 0.996)


def test_the_configuration_reaches_every_family():
    for model in ("mini", "pi05-reduced", "openvla-oft-reduced", "cogact-reduced"):
        made = build.policy(PolicyConfig(model=model, vla_cache=(0.0, 0.25, 0.5), vla_cache_similarity=0.9))
        counts = made.reuse.counts
        assert counts.counts[0] == 0 and counts.counts[-1] == round(0.5 * made.reuse._looked.numel())
        assert counts.similarity == 0.9 and counts.layer == len(counts.counts) // 2 - 1
