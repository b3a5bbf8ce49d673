"""Laws of the pi0 family: prefixes, permutations, energies, and that batch and frame give the same actions."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support import pi_models as small

from ecovla_ros.models.base import DENSE, Plan
from ecovla_ros.models.core.layers import attend
from ecovla_ros.models.pi.config import MINI
from ecovla_ros.models.pi.flow import euler, flow_loss, sample_times
from ecovla_ros.models.pi.model import PiModel
from ecovla_ros.prune.site import Record

CONFIGS = pytest.mark.parametrize("config", [small.SMALL, small.SIGLIP], ids=["stem, 2 KV heads", "siglip, 1 KV head"])


def half(policy):
    """Half the channels of every MLP, half the heads of every attention."""
    return {site.key: site.channels // 2 for site in policy.sites}


def blocks(site):
    return [w.view(site.channels, -1) for w in (*site.producers, site.consumer)]


@CONFIGS
def test_all_channels_kept_is_dense_bit_for_bit(config):
    policy, obs, noise = small.policy(config), small.observation(config), small.noise(config)
    everything = Plan({site.key: site.channels for site in policy.sites})
    assert torch.equal(small.actions(policy, obs, everything, noise), small.actions(policy, obs, DENSE, noise))


@CONFIGS
def test_a_prefix_is_the_model_with_the_other_channels_zeroed(config):
    policy, obs, noise = small.policy(config), small.observation(config), small.noise(config)
    kept = half(policy)
    sparse, dense = (small.actions(policy, obs, plan, noise) for plan in (Plan(kept), DENSE))
    for site in policy.sites:
        for weight in blocks(site):
            weight[kept[site.key] :] = 0.0
    zeroed = small.actions(policy, obs, DENSE, noise)
    assert (sparse - zeroed).abs().max() < 1e-5
    assert (sparse - dense).abs().max() > 1e-3, "pruning half of everything must show"


@CONFIGS
def test_channels_may_be_permuted_and_heads_within_their_group(config):
    policy, obs, noise = small.policy(config), small.observation(config), small.noise(config)
    before = small.actions(policy, obs, DENSE, noise)
    g = torch.Generator().manual_seed(1)
    for site in policy.sites:
        slots = torch.arange(site.channels).view(-1, site.groups)
        order = torch.stack([c[torch.randperm(len(c), generator=g)] for c in slots.T], 1).flatten()
        for weight in blocks(site):
            weight.copy_(weight[order])
    after = small.actions(policy, obs, DENSE, noise)
    assert 0.0 < (after - before).abs().max() < 1e-5


def test_heads_of_two_groups_may_not_be_exchanged():
    policy, obs, noise = small.policy(), small.observation(), small.noise()
    before = small.actions(policy, obs, DENSE, noise)
    site = next(s for s in policy.sites if s.key == "lm.0.heads")
    assert site.groups == 2
    for weight in blocks(site):
        weight[[0, 1]] = weight[[1, 0]]
    assert (small.actions(policy, obs, DENSE, noise) - before).abs().max() > 1e-3


@CONFIGS
@pytest.mark.parametrize("sparse", [False, True])
def test_energies_are_the_squares_of_what_the_last_weights_multiply(config, sparse):
    policy, obs, noise = small.policy(config), small.observation(config), small.noise(config)
    kept = half(policy) if sparse else {}
    expected = {site.key: torch.zeros(site.channels * site.unit) for site in policy.sites}
    hooks = [watch(f"{name}.{i}", block, expected, kept)
             for name, stack in (("lm", policy.model.lm), ("expert", policy.model.expert))
             for i, block in enumerate(stack)]  # fmt: skip
    small.actions(policy, obs, Plan(kept), noise)
    for hook in (h for pair in hooks for h in pair):
        hook.remove()
    start = {key: torch.ones_like(e) for key, e in expected.items()}
    small.actions(policy, obs, Plan(kept, Plan.recording(start).record), noise)
    for site in policy.sites:
        run = kept.get(site.key, site.channels) * site.unit
        assert expected[site.key].max() > 0.0
        torch.testing.assert_close(start[site.key][:run] - 1.0, expected[site.key][:run], rtol=1e-4, atol=1e-4)
        assert (start[site.key][run:] == 1.0).all(), "entries of channels that did not run stay"


@CONFIGS
def test_a_probe_of_every_token_measures_what_a_dense_layer_would(config):
    """Sampled inputs run through the pruned rows give the energies those rows have for the same layer inputs."""
    policy, obs, noise = small.policy(config), small.observation(config), small.noise(config)
    kept, length = half(policy), len(policy.encode(obs).prefix)
    spans = {"prefill": length, "act": config.horizon}
    records = {}
    for site in policy.sites:
        tokens, width = torch.arange(spans[site.phase]), site.producers[0].shape[1]
        zeros = torch.zeros(site.rows)
        records[site.key] = Record(zeros, None, zeros.clone(), torch.zeros(site.samples, len(tokens), width), tokens)
    small.actions(policy, obs, Plan(kept, records), noise)
    for site in policy.sites:
        record, run = records[site.key], kept[site.key]
        tokens = record.tokens.repeat(site.samples)
        hidden = site.hidden(record.inputs.flatten(0, 1), tokens, 0, site.channels)
        energy = hidden.square().sum(0)
        assert energy[run * site.unit :].min() > 0.0
        torch.testing.assert_close(energy[: run * site.unit], record.sampled[: run * site.unit], rtol=1e-4, atol=1e-5)


@CONFIGS
@pytest.mark.parametrize("kept", [False, True])
def test_a_prompt_padded_to_its_bucket_changes_nothing(config, kept):
    obs, noise = small.observation(config), small.noise(config)
    exact, padded = small.policy(config), small.policy(config, bucket=4)
    assert len(padded.encode(obs).prefix) > len(exact.encode(obs).prefix)
    found = []
    for policy in (exact, padded):
        energy = {s.key: torch.zeros(s.rows) for s in policy.sites}
        plan = Plan(half(policy) if kept else {}, Plan.recording(energy).record)
        found.append((small.actions(policy, obs, plan, noise), energy))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-4, atol=1e-5)
    for key, energy in found[0][1].items():
        torch.testing.assert_close(energy, found[1][1][key], rtol=1e-3, atol=1e-4)


def test_one_example_for_each_shape_of_a_prompt():
    policy = small.policy(bucket=4)
    policy.spec = dataclasses.replace(policy.spec, instructions=())
    lengths = [len(policy.encode(obs).prefix) for obs in policy.examples()]
    vision = len(small.SMALL.cameras) * small.SMALL.tokens
    assert lengths == [vision + 4, vision + 8]


def watch(key, block, into, kept):
    """Hooks that compute X_int of a block's MLP and attention anew, head by head, and add its squares."""

    def attention(module, arguments):
        x, rope, extend, *_ = arguments
        d, groups = module.head_dim, module.kv_heads
        n = module.norm(x)[0]
        rows = [n @ w.T for w in module.vkq.view(-1, d, n.shape[-1])]
        turned = [turn(r, rope) for r in rows[groups:]]
        k, v = extend(torch.stack(turned[:groups])[None], torch.stack(rows[:groups])[None])
        for slot, q in enumerate(turned[groups:][: kept.get(f"{key}.heads")]):
            weights = torch.softmax(q @ k[0, slot % groups].T / d**0.5, -1)
            hidden = weights @ v[0, slot % groups]
            into[f"{key}.heads"][slot * d : (slot + 1) * d] += (hidden**2).sum(0)

    def mlp(module, arguments):
        x = arguments[0][0]
        into[f"{key}.mlp"] += ((F.gelu(x @ module.gate.T, approximate="tanh") * (x @ module.up.T)) ** 2).sum(0)

    return block.attention.register_forward_pre_hook(attention), block.mlp.register_forward_pre_hook(mlp)


def turn(x, rope):
    """Rotary embedding as multiplication of complex numbers; x (L, d)."""
    half_dim = x.shape[-1] // 2
    cos, sin = rope.cos[..., 0, :half_dim].reshape(-1, half_dim), rope.sin[..., 0, half_dim:].reshape(-1, half_dim)
    z = torch.complex(x[:, :half_dim], x[:, half_dim:]) * torch.complex(cos, sin)
    return torch.cat((z.real, z.imag), -1)


def batch(model, policy, observations):
    """The observations as one padded batch: K/V, mask, state."""
    ids, real = (torch.tensor(part) for part in policy.prompt.batch(o.instruction for o in observations))
    images = {c: torch.stack([torch.from_numpy(o.images[c]) for o in observations]) for c in model.config.cameras}
    tokens = torch.cat([*model.project(model.vision_tokens(images)).values(), model.embed_prompt(ids)], 1)
    seen = torch.ones(len(ids), tokens.shape[1] - ids.shape[1], dtype=torch.bool)
    mask = torch.cat((seen, real), 1)
    state = torch.stack([policy.encode(o).state for o in observations])
    return model.prefix(tokens, mask)[0], mask, state


@pytest.mark.parametrize("config", [small.SMALL, small.SIGLIP, MINI], ids=["stem", "siglip", "mini"])
def test_the_batched_model_and_the_policy_act_alike(config):
    policy = small.policy(config)
    observations = [small.observation(config, seed=i, text=text) for i, text in enumerate(small.TEXTS)]
    start = torch.stack([small.noise(config, seed=i) for i in range(2)])
    with torch.inference_mode():
        kv, mask, state = batch(policy.model, policy, observations)
        assert not mask.all(), "one of the prompts must be padded"
        together = euler(lambda x, t: policy.model.velocity(kv, mask, state, x, t), start, config.flow_steps)
    alone = torch.stack([small.actions(policy, o, DENSE, n) for o, n in zip(observations, start)])
    assert together.isfinite().all()
    assert (together - alone).abs().max() < 1e-4


def test_draws_of_one_prefix_do_not_see_each_other():
    policy = small.policy()
    observations = [small.observation(seed=i, text=text) for i, text in enumerate(small.TEXTS)]
    with torch.inference_mode():
        kv, mask, state = batch(policy.model, policy, observations)
        x = torch.randn(6, small.SMALL.horizon, 8)
        t = torch.rand(6)
        together = policy.model.velocity(kv, mask, state, x, t)
        for draw in range(3):
            rows = torch.tensor([draw, 3 + draw])  # draw of the first prefix, and of the second
            one = policy.model.velocity(kv, mask, state, x[rows], t[rows])
            assert (together[rows] - one).abs().max() < 1e-5


def test_a_longer_prompt_before_leaves_nothing_behind():
    policy, noise = small.policy(), small.noise()
    short, long = (small.observation(text=text) for text in small.TEXTS)
    fresh = small.actions(policy, short, DENSE, noise)
    addresses = [c.keys.data_ptr() for c in policy.caches]
    small.actions(policy, long, DENSE, noise)
    assert torch.equal(small.actions(policy, short, DENSE, noise), fresh)
    assert [c.keys.data_ptr() for c in policy.caches] == addresses


def test_of_the_last_lm_layer_only_keys_and_values_exist():
    policy, config = small.policy(), small.SMALL
    names = {k for k in policy.model.state_dict() if k.startswith("lm_last") or f"lm.{config.layers - 1}." in k}
    assert names == {"lm_last.norm.weight", "lm_last.vkq"}
    assert len(policy.model.lm_last.vkq) == 2 * config.kv_heads * config.head_dim
    keys = {f"{s}.{i}.{kind}" for s, n in (("lm", 2), ("expert", 3)) for i in range(n) for kind in ("mlp", "heads")}
    assert {site.key for site in policy.sites} == keys
    assert {s.calls for s in policy.sites if s.phase == "act"} == {config.flow_steps}


def test_mini_has_the_promised_size():
    parameters = sum(p.numel() for p in PiModel(MINI).parameters())
    assert 5e6 < parameters < 10e6
    assert (MINI.heads, MINI.lm_mlp % 32, MINI.expert_mlp % 32) == (8, 0, 0)


def test_the_perfect_velocity_has_no_loss_and_leads_to_the_actions():
    actions = torch.randn(3, 4, 8)

    class Perfect:
        def velocity(self, kv, mask, state, x_t, t):
            return (x_t - actions.repeat_interleave(len(x_t) // 3, 0)) / t[:, None, None]

    g = torch.Generator().manual_seed(0)
    perfect = Perfect()
    assert flow_loss(perfect, [], None, torch.zeros(3, 8), actions, g, draws=5) < 1e-6
    noise = torch.randn(3, 4, 8, generator=g)
    assert torch.allclose(euler(lambda x, t: perfect.velocity([], None, None, x, t), noise, 4), actions, atol=1e-5)
    weight = torch.zeros(3, 4)
    weight[:, :2] = 1.0
    perfect.velocity = lambda kv, mask, state, x, t: torch.cat((Perfect.velocity(perfect, kv, mask, state, x, t)[:, :2],
                                                                x[:, 2:] + 9.0), 1)  # fmt: skip
    assert flow_loss(perfect, [], None, torch.zeros(3, 8), actions, g, 5, "uniform", weight) < 1e-6


def test_times_favour_noise_and_stay_within_bounds():
    g = torch.Generator().manual_seed(0)
    beta, uniform = (sample_times(20_000, g, times) for times in ("beta", "uniform"))
    assert min(beta.min(), uniform.min()) >= 0.001 and max(beta.max(), uniform.max()) <= 1.0
    assert abs(beta.mean() - 0.6) < 0.01  # mean of Beta(1.5, 1)
    assert abs(uniform.mean() - 0.5) < 0.01


def test_training_in_bfloat16_reaches_every_weight_and_agrees_with_float32():
    policy = small.policy()
    model = policy.model.requires_grad_(True)
    observations = [small.observation(seed=i, text=small.TEXTS[i % 2]) for i in range(4)]
    losses = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            kv, mask, state = batch(model, policy, observations)
            g = torch.Generator().manual_seed(0)
            target = torch.zeros(4, small.SMALL.horizon, 8)
            losses.append(flow_loss(model, kv, mask, state.clone(), target, g, draws=3))
    losses[1].backward()
    assert losses[1].dtype == torch.float32
    assert abs(losses[1] - losses[0]) < 0.03 * losses[0]
    for name, p in model.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all() and p.grad.abs().max() > 0.0, name


def test_attention_with_gradients_is_attention():
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 1, n, 8, generator=g).bfloat16() for n in (5, 7, 7))
    mask = torch.ones(2, 1, 1, 7, dtype=torch.bool)
    mask[1, ..., 4:] = False
    exact = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=mask)
    ours = attend(q.requires_grad_(), k, v, mask)
    assert ours.requires_grad and (ours.float() - exact).abs().max() < 0.03


def test_decoded_actions_are_targets_around_the_measured_joints():
    policy, obs = small.policy(), small.observation()
    chunk = policy.to_chunk(policy.encode(obs), torch.zeros(small.SMALL.horizon, 8))
    mean = np.array(policy.normaliser.action_mean)
    assert np.allclose(chunk.joints, obs.joints + mean[:, :7])
    assert np.allclose(chunk.gripper, np.clip((mean[:, 7] + 1) / 2, 0, 1))
    assert (chunk.stamp_ns, chunk.period_s, chunk.horizon) == (obs.stamp_ns, 0.1, small.SMALL.horizon)
