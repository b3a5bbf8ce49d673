"""OpenVLA-OFT and CogACT: agreement with transformers' parts and the published arithmetic, and the laws of pruning."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support import prismatic_models as small

from ecovla_ros.errors import CheckpointError, ConfigError, ObservationError
from ecovla_ros.models.base import DENSE, Plan
from ecovla_ros.models.cogact.ddim import ddim_steps

FAMILIES = pytest.mark.parametrize("family", ["oft", "cogact"])
TOLERANCE = 1e-4
transformers = pytest.importorskip("transformers")


def half(policy):
    return {site.key: site.channels // 2 for site in policy.sites}


def stacked(config, obs):
    return torch.stack([torch.from_numpy(obs.images[c]) for c in config.cameras])


@torch.inference_mode()
def oft_reference(policy, obs):
    """Images, prompt and state through transformers' parts, then the sequence and the head as the paper has them."""
    model, config = policy.model, policy.config
    tokens = small.towers(model, config, stacked(config, obs))
    fc1, fc2, fc3 = model.projector.fc1, model.projector.fc2, model.projector.fc3
    tokens = fc3(F.gelu(fc2(F.gelu(fc1(tokens))))).flatten(0, 1)
    raw = np.clip(policy.normaliser.state(obs.joints, obs.gripper), -1, 1)
    proprio = model.state_token.fc2(F.gelu(model.state_token.fc1(torch.tensor(raw).float())))[None]
    ids = policy.prompt.ids(obs.instruction)
    words = model.embedding[torch.tensor(ids)]
    slots = config.horizon * config.action_dim
    parts = (words[:1], tokens, proprio, words[1:], torch.zeros(slots, config.width), model.embedding[small.END][None])
    hidden = small.llama(model, config, torch.cat(parts)[None], causal=False)[0]
    patches, prompt = len(tokens) + 1, len(ids) - 1  # as the published code counts, from the position before slot 0
    read = hidden[patches + prompt : patches + prompt + slots].reshape(config.horizon, -1)
    head, out = model.head, []
    for row in read:
        x = F.relu(head.fc1(F.layer_norm(row, row.shape, head.norm1.weight, head.norm1.bias)))
        for block in head.blocks:
            x = x + F.relu(block.fc(F.layer_norm(x, x.shape, block.norm.weight, block.norm.bias)))
        out.append(head.fc2(F.layer_norm(x, x.shape, head.norm2.weight, head.norm2.bias)))
    return torch.stack(out)


@torch.inference_mode()
def cogact_reference(policy, obs, noise, steps, guidance):
    """As above for CogACT: the last hidden state conditions a DiT, run twice, and DDIM in terms of x0."""
    model, config = policy.model, policy.config
    tokens = small.towers(model, config, stacked(config, obs))
    fc1, fc2, fc3 = model.projector.fc1, model.projector.fc2, model.projector.fc3
    tokens = fc3(F.gelu(fc2(F.gelu(fc1(tokens))))).flatten(0, 1)
    words = model.embedding[torch.tensor(policy.prompt.ids(obs.instruction))]
    hidden = small.llama(model, config, torch.cat((words[:1], tokens, words[1:]))[None], causal=True)
    cognition = hidden[0, -1]
    betas = []
    for i in range(100):
        bar = [math.cos(((i + j) / 100 + 0.008) / 1.008 * math.pi / 2) ** 2 for j in (0, 1)]
        betas.append(min(1 - bar[1] / bar[0], 0.999))
    alphas = np.cumprod(1 - np.array(betas))
    times = list(range(0, 100, 100 // steps))
    x = noise
    for i in reversed(range(steps)):
        a, before = alphas[times[i]], alphas[times[i - 1]] if i else 1.0
        eps = dit(model.dit, x, times[i], cognition)
        if guidance > 1:
            without = dit(model.dit, x, times[i], model.dit.unconditional)
            eps = without + guidance * (eps - without)
        x0 = (x - math.sqrt(1 - a) * eps) / math.sqrt(a)
        x = math.sqrt(before) * x0 + math.sqrt(1 - before) * eps
    return x


def dit(net, x, time, condition):
    """One pass of CogACT's DiT on x (H, A): a loop over blocks and heads."""
    half_width = 128
    frequencies = torch.exp(-math.log(10000) * torch.arange(half_width) / half_width)
    wave = torch.cat((torch.cos(time * frequencies), torch.sin(time * frequencies)))
    first = net.time_out(F.silu(net.time_in(wave))) + net.condition_in(condition)
    h = torch.cat((first[None], net.action_in(x))) + net.position
    for block in net.blocks:
        attention, d = block.attention, block.attention.head_dim
        n = F.layer_norm(h, h.shape[-1:], eps=1e-6)
        out = attention.o_bias.expand_as(h)
        for head in range(len(attention.o) // d):
            rows = slice(head * d, (head + 1) * d)
            weights = (attention.q, attention.k, attention.v)
            q, k, v = (n @ w[rows].T + b[rows] for w, b in zip(weights, attention.biases))
            out = out + torch.softmax(q @ k.T / d**0.5, -1) @ v @ attention.o[rows]
        h = h + out
        n = F.layer_norm(h, h.shape[-1:], eps=1e-6)
        mlp = block.mlp
        h = h + F.gelu(n @ mlp.gate.T + mlp.gate_bias, approximate="tanh") @ mlp.down + mlp.down_bias
    return net.action_out(F.layer_norm(h, h.shape[-1:], eps=1e-6))[1:]


@pytest.mark.parametrize("text", small.TEXTS)
@pytest.mark.parametrize("seed", range(3))
def test_oft_gives_the_actions_of_its_published_arithmetic(seed, text):
    policy = small.policy("oft", seed)
    obs = small.observation(policy.config, seed, text)
    ours, theirs = small.actions(policy, obs, DENSE, small.noise(policy.config)), oft_reference(policy, obs)
    assert ours.shape == (3, 8) and ours.std() > 0.05
    assert (ours - theirs).abs().max() <= TOLERANCE


@pytest.mark.parametrize("guidance, steps, text", [(1.5, 10, 0), (1.0, 10, 1), (3.0, 5, 0), (1.5, 4, 1)])
def test_cogact_gives_the_actions_of_its_published_arithmetic(guidance, steps, text):
    policy = small.policy("cogact", seed=steps, flow_steps=steps, config={"guidance": guidance})
    obs = small.observation(policy.config, 1, small.TEXTS[text])
    start = small.noise(policy.config, 2)
    ours, theirs = small.actions(policy, obs, DENSE, start), cogact_reference(policy, obs, start, steps, guidance)
    assert (ours - start).abs().max() > 0.1
    assert (ours - theirs).abs().max() <= TOLERANCE * max(1.0, theirs.abs().max())


@FAMILIES
def test_all_channels_kept_is_dense_bit_for_bit(family):
    policy = small.policy(family)
    obs, start = small.observation(policy.config), small.noise(policy.config)
    everything = Plan({site.key: site.channels for site in policy.sites})
    assert torch.equal(small.actions(policy, obs, everything, start), small.actions(policy, obs, DENSE, start))


@FAMILIES
def test_a_prefix_is_the_model_with_the_other_channels_masked(family):
    policy = small.policy(family)
    obs, start, kept = small.observation(policy.config), small.noise(policy.config), half(policy)
    sparse, dense = (small.actions(policy, obs, plan, start) for plan in (Plan(kept), DENSE))
    for site in policy.sites:
        site.consumer.view(site.channels, -1)[kept[site.key] :] = 0.0  # columns of W_down and W_O alone
    masked = small.actions(policy, obs, DENSE, start)
    assert (sparse - masked).abs().max() < 2e-5
    assert (sparse - dense).abs().max() > 1e-3, "pruning half of everything must show"


@FAMILIES
def test_channels_and_whole_heads_may_be_permuted(family):
    policy = small.policy(family)
    obs, start = small.observation(policy.config), small.noise(policy.config)
    before = small.actions(policy, obs, DENSE, start)
    g = torch.Generator().manual_seed(1)
    for site in policy.sites:
        order = torch.randperm(site.channels, generator=g)
        for w in (*site.producers, site.consumer, *site.extra):
            w.view(site.channels, -1).copy_(w.view(site.channels, -1)[order])
    after = small.actions(policy, obs, DENSE, start)
    assert 0.0 < (after - before).abs().max() < 2e-5


@FAMILIES
@pytest.mark.parametrize("sparse", [False, True])
def test_energies_are_the_squares_of_what_the_last_weights_multiply(family, sparse):
    policy = small.policy(family)
    obs, start = small.observation(policy.config), small.noise(policy.config)
    kept = half(policy) if sparse else {}
    energy = {site.key: torch.zeros(site.channels * site.unit) for site in policy.sites}
    small.actions(policy, obs, Plan(kept, Plan.recording(energy).record), start)
    watched = {key: torch.zeros_like(e) for key, e in energy.items()}
    stacks = {"lm": policy.model.lm} | ({"expert": policy.model.dit.blocks} if family == "cogact" else {})
    hooks = [hook for name, blocks in stacks.items() for i, block in enumerate(blocks)
             for hook in watch(f"{name}.{i}", block, watched, kept)]  # fmt: skip
    small.actions(policy, obs, Plan(kept), start)
    for hook in hooks:
        hook.remove()
    for site in policy.sites:
        run = kept.get(site.key, site.channels) * site.unit
        assert watched[site.key][:run].min() > 0.0
        torch.testing.assert_close(energy[site.key][:run], watched[site.key][:run], rtol=1e-3, atol=1e-4)
        assert (energy[site.key][run:] == 0.0).all()


def watch(key, block, into, kept):
    """Hooks that compute X_int of a block's attention, head by head, and of its MLP anew, and add its squares."""

    def attention(module, arguments, output):
        rows = kept.get(f"{key}.heads", len(module.o) // module.head_dim) * module.head_dim
        x, rope, _, mask, *_ = arguments
        k, v, q = module.project(module.norm(x), rows, rope)
        d = module.head_dim
        for h in range(rows // d):
            scores = q[0, :, h] @ k[0, h].T / d**0.5
            if mask is not None and mask.mask is not None:
                scores = scores.masked_fill(~mask.mask, -torch.inf)
            into[f"{key}.heads"][h * d : (h + 1) * d] += ((scores.softmax(-1) @ v[0, h]) ** 2).sum(0)

    def mlp(module, arguments, output):
        rows, x = kept.get(f"{key}.mlp", len(module.gate)), arguments[0][0]
        if hasattr(module, "up"):
            hidden = F.silu(x @ module.gate[:rows].T) * (x @ module.up[:rows].T)
        else:
            hidden = F.gelu(x @ module.gate[:rows].T + module.gate_bias[:rows], approximate="tanh")
        into[f"{key}.mlp"][:rows] += (hidden**2).sum(0)

    return block.attention.register_forward_hook(attention), block.mlp.register_forward_hook(mlp)


@FAMILIES
def test_padding_a_prompt_changes_nothing(family):
    plain, padded = small.policy(family), small.policy(family, bucket=8)
    for text in small.TEXTS:
        obs, start = small.observation(plain.config, text=text), small.noise(plain.config)
        seen = padded.encode(obs)
        assert len(seen.prefix) - len(plain.encode(obs).prefix) == int((seen.valid == 0).sum())
        assert (small.actions(plain, obs, DENSE, start) - small.actions(padded, obs, DENSE, start)).abs().max() < 2e-5
    lengths = {len(padded.encode(small.observation(padded.config, text=t)).prefix) for t in small.TEXTS}
    assert len(lengths) == 1 and (seen.valid == 0).any()


@FAMILIES
def test_padding_counts_for_no_energy(family):
    plain, padded = small.policy(family), small.policy(family, bucket=16)
    obs, start = small.observation(plain.config), small.noise(plain.config)
    found = []
    for policy in (plain, padded):
        energy = {site.key: torch.zeros(site.channels * site.unit) for site in policy.sites}
        small.actions(policy, obs, Plan.recording(energy), start)
        found.append(energy)
    for key in found[0]:
        torch.testing.assert_close(found[0][key], found[1][key], rtol=1e-3, atol=1e-4)


@FAMILIES
def test_the_last_layer_has_no_sites_and_heads_own_their_keys(family):
    policy = small.policy(family)
    layers = {site.key.split(".")[1] for site in policy.sites if site.group.startswith("lm")}
    assert layers == {"0", "1", "2"}, "of four layers the last is read at few positions and stays dense"
    for site in policy.sites:
        if site.group.endswith("heads"):
            assert (len(site.producers), site.step, site.groups, site.hidden) == (3, 1, 1, None)
        else:
            assert site.hidden is not None
    calls = {site.calls for site in policy.sites if site.phase == "act"}
    assert calls == (set() if family == "oft" else {10})


def test_causal_or_not():
    """A later token changes an earlier hidden state in OpenVLA-OFT and not in CogACT."""
    for family, sees in (("oft", True), ("cogact", False)):
        model, g = small.policy(family).model, torch.Generator().manual_seed(0)
        x = torch.randn(1, 12, 64, generator=g)
        y = x.clone()
        y[:, -1] += 1.0
        change = (model.read(x, slice(0, 11)) - model.read(y, slice(0, 11))).abs().max()
        assert (change > 1e-3) == sees


def test_ddim_ends_at_the_actions_when_the_noise_is_known():
    actions, noise = torch.randn(4, 8), torch.randn(4, 8)
    for count in (1, 2, 4, 5, 10, 20, 50, 100):
        steps = ddim_steps(count)
        assert len(steps) == count
        a = math.prod(1.0 / s.keep for s in steps) ** 2  # cumulative alpha at the first time: every keep is sqrt(b / a)
        x = math.sqrt(a) * actions + math.sqrt(1 - a) * noise
        for step in steps:
            x = step.keep * x + step.noise * noise
        assert (x - actions).abs().max() < 1e-3 / math.sqrt(a)
    with pytest.raises(ConfigError, match="valid: 1, 2, 3, 4, 5"):
        ddim_steps(30)


@FAMILIES
def test_what_does_not_fit_is_refused(family):
    policy = small.policy(family)
    with pytest.raises(ObservationError, match="unknown words"):
        policy.encode(small.observation(policy.config, text="fetch"))
    with pytest.raises(ObservationError, match="empty instruction"):
        policy.encode(small.observation(policy.config, text="  "))
    obs = small.observation(policy.config)
    obs.images.pop("third_person")
    with pytest.raises(ObservationError, match="no image of camera 'third_person'"):
        policy.encode(obs)
    with pytest.raises(CheckpointError, match="at least 8"):
        small.policy(family, config={"state_dim": 7})
    with pytest.raises(CheckpointError, match="prompts to 24"):
        type(policy)(policy.model, policy.spec, policy.normaliser, _longer(policy.prompt))
    with pytest.raises(CheckpointError, match="must be positive"):
        small.policy(family, config={"layers": 0})


def _longer(prompt):
    return type(prompt)(prompt.tokenizer, 99, prompt.begin, prompt.closing)
