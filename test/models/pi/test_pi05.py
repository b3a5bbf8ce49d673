"""pi0.5 agrees with a slow, literal reading of its published arithmetic: one sequence, one mask, no cache."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support import pi_models as small

from ecovla_ros.models.base import DENSE, Plan
from ecovla_ros.models.data.prompt import Prompt, state_bins, state_prompt
from ecovla_ros.models.pi.flow import euler
from ecovla_ros.models.pi.policy import PiPolicy

PI05 = dataclasses.replace(small.SIGLIP, variant="pi05", max_prompt=64, vocab=512, flow_steps=4)
GROUPED = dataclasses.replace(PI05, kv_heads=2, cameras=("a", "b", "c"), flow_steps=10, horizon=11)
CONFIGS = pytest.mark.parametrize("config", [PI05, GROUPED], ids=["1 KV head", "2 KV heads, three cameras"])
TOLERANCE = 1e-4


def policy(config=PI05, seed=0, **options):
    words = [state_prompt(text, range(-1, 256)) for text in small.TEXTS]
    prompt = Prompt.build(words, config.max_prompt)
    model = small.model(config, seed)
    g = torch.Generator().manual_seed(seed)
    model.modulator.bias.data += 0.3 * torch.randn(model.modulator.bias.shape, generator=g)
    return PiPolicy(model, small.spec(config), small.normaliser(config.horizon), prompt, **options)


@torch.inference_mode()
def reference(of, obs, noise):
    """Actions (H, A): the whole sequence again at every step, tokens of the language model and the expert side by side.

    Adaptive norm: scale, shift, gate = dense(silu(mlp(time))), norm(x) * (1 + scale) + shift, residual x + y * gate.
    """
    model, config = of.model, of.config
    images = [torch.from_numpy(obs.images[c])[None] for c in config.cameras if obs.images[c] is not None]
    vision = [model.projector(model.vision(image))[0] for image in images]
    bins = [int(np.digitize(v, np.linspace(-1, 1, 257)[:-1]) - 1) for v in of.normaliser.state(obs.joints, obs.gripper)]
    words = f"Task: {obs.instruction}, State: {' '.join(map(str, bins))};\nAction: "
    prompt = model.embedding[torch.tensor(of.prompt.ids(words))] * math.sqrt(config.lm_width)
    prefix = torch.cat([*vision, prompt]).double()
    x, length = noise.double(), len(prefix)
    for step in range(config.flow_steps):
        time = 1.0 - step / config.flow_steps
        x = x - expert_velocity(model.double(), config, prefix, x, time, length) / config.flow_steps
    model.float()
    return x.float()


def expert_velocity(model, config, prefix, x, time, length):
    low, high, width = config.min_period, config.max_period, config.expert_width
    periods = [low * (high / low) ** (i / (width // 2 - 1)) for i in range(width // 2)]
    wave = torch.tensor([f(2 * math.pi * time / p) for f in (math.sin, math.cos) for p in periods], dtype=torch.float64)
    condition = F.silu(model.time_out(F.silu(model.time_in(wave))))
    dense = [(w @ condition + b).chunk(3) for w, b in zip(model.modulator.weight, model.modulator.bias)]
    hidden, actions = prefix, model.action_in(x)
    seen = torch.zeros(length + len(actions), length + len(actions), dtype=torch.bool)
    seen[:, :length] = True  # all see the prefix, the actions see one another
    seen[length:, length:] = True
    for i in range(config.layers):
        last = i == config.layers - 1
        lm = model.lm_last if last else model.lm[i].attention
        expert = model.expert[i]
        (s1, b1, g1), (s2, b2, g2) = dense[2 * i], dense[2 * i + 1]
        normed = [gemma(hidden, config) * (1 + lm.norm.weight), gemma(actions, config) * (1 + s1) + b1]
        both = zip(normed, (lm.vkq, expert.attention.vkq))
        parts = [heads(n, w, config, last and j == 0) for j, (n, w) in enumerate(both)]
        k, v, q = (torch.cat(pair, 1) for pair in zip(*parts))
        k, q = rotated(k, config), rotated(q, config)
        out = []
        for slot in range(config.heads):
            group = slot % config.kv_heads
            scores = (q[slot] @ k[group].T / math.sqrt(config.head_dim)).masked_fill(~seen, -torch.inf)
            out.append(scores.softmax(-1) @ v[group])
        mixed = torch.cat(out, -1)
        if not last:
            hidden = hidden + mixed[:length] @ model.lm[i].attention.o
            hidden = hidden + mlp(gemma(hidden, config) * (1 + model.lm[i].norm.weight), model.lm[i].mlp)
        actions = actions + g1 * (mixed[length:] @ expert.attention.o)
        actions = actions + g2 * mlp(gemma(actions, config) * (1 + s2) + b2, expert.mlp)
    scale, shift, _ = dense[-1]
    return model.action_out(gemma(actions, config) * (1 + scale) + shift)


def gemma(x, config):
    return x / torch.sqrt(x.square().mean(-1, keepdim=True) + config.norm_eps)


def mlp(x, m):
    return (F.gelu(x @ m.gate.T, approximate="tanh") * (x @ m.up.T)) @ m.down


def heads(n, vkq, config, without_query):
    rows = (n @ vkq.T).unflatten(-1, (-1, config.head_dim)).transpose(0, 1)
    g = config.kv_heads
    q = torch.zeros(config.heads, *rows.shape[1:], dtype=rows.dtype) if without_query else rows[2 * g :]
    return rows[g : 2 * g], rows[:g], q


def rotated(x, config):
    """Complex multiplication by e^(i position frequency), halves as real and imaginary parts."""
    half = config.head_dim // 2
    frequency = config.rope_theta ** (-2 * torch.arange(half, dtype=torch.float64) / config.head_dim)
    angle = torch.arange(x.shape[1], dtype=torch.float64)[:, None] * frequency
    z = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat((z.real, z.imag), -1)


@CONFIGS
@pytest.mark.parametrize("seed", range(3))
def test_actions_are_those_of_the_literal_reading(config, seed):
    of, obs, noise = policy(config, seed), small.observation(config, seed), small.noise(config, seed)
    ours = small.actions(of, obs, DENSE, noise)
    theirs = reference(of, obs, noise)
    assert (theirs - noise).abs().max() > 0.1
    assert (ours - theirs).abs().max() <= TOLERANCE


def test_a_missing_camera_takes_no_place():
    of, obs, noise = policy(), small.observation(PI05), small.noise(PI05)
    obs.images["wrist"] = None
    assert (small.actions(of, obs, DENSE, noise) - reference(of, obs, noise)).abs().max() <= TOLERANCE


@CONFIGS
def test_the_batched_model_and_the_policy_act_alike(config):
    of = policy(config)
    observations = [small.observation(config, seed=i, text=text) for i, text in enumerate(small.TEXTS)]
    start = torch.stack([small.noise(config, seed=i) for i in range(2)])
    words = [state_prompt(o.instruction, state_bins(of.normaliser.state(o.joints, o.gripper))) for o in observations]
    ids, real = (torch.tensor(part) for part in of.prompt.batch(words))
    images = {c: torch.stack([torch.from_numpy(o.images[c]) for o in observations]) for c in config.cameras}
    with torch.inference_mode():
        tokens = torch.cat([*of.model.project(of.model.vision_tokens(images)).values(), of.model.embed_prompt(ids)], 1)
        mask = torch.cat((torch.ones(2, tokens.shape[1] - ids.shape[1], dtype=torch.bool), real), 1)
        kv, _ = of.model.prefix(tokens, mask)
        state = torch.zeros(2, config.state_dim)
        together = euler(lambda x, t: of.model.velocity(kv, mask, state, x, t), start, config.flow_steps)
    assert not mask.all(), "one of the prompts must be padded"
    alone = torch.stack([small.actions(of, o, DENSE, n) for o, n in zip(observations, start)])
    assert (together - alone).abs().max() < TOLERANCE


@CONFIGS
def test_all_kept_is_dense_and_a_prefix_is_the_masked_model(config):
    of, obs, noise = policy(config), small.observation(config), small.noise(config)
    kept = {site.key: site.channels // 2 for site in of.sites}
    everything = Plan({site.key: site.channels for site in of.sites})
    dense, sparse = small.actions(of, obs, DENSE, noise), small.actions(of, obs, Plan(kept), noise)
    assert torch.equal(small.actions(of, obs, everything, noise), dense)
    for site in of.sites:
        site.consumer.view(site.channels, -1)[kept[site.key] :] = 0.0  # columns of W_down and W_O alone
    assert (sparse - small.actions(of, obs, DENSE, noise)).abs().max() < 1e-5
    assert (sparse - dense).abs().max() > 1e-3, "pruning half of everything must show"


def test_the_state_reaches_the_actions_through_the_prompt_alone():
    of, noise = policy(), small.noise(PI05)
    one = small.observation(PI05)
    other = dataclasses.replace(one, joints=one.joints + 0.5)
    assert (small.actions(of, one, DENSE, noise) - small.actions(of, other, DENSE, noise)).abs().max() > 1e-4
    assert of.model.state_in is None and PI05.state_tokens == 0
    names = of.model.state_dict()
    assert not [k for k in names if k.startswith("state_in")]
    assert not [k for k in names if k.startswith("expert") and k.endswith("norm.weight")]


def test_without_the_state_in_the_prompt_nothing_of_it_reaches_the_actions():
    of, noise = policy(dataclasses.replace(PI05, prompt_state=False)), small.noise(PI05)
    one = small.observation(PI05)
    other = dataclasses.replace(one, joints=one.joints + 0.5)
    assert torch.equal(small.actions(of, one, DENSE, noise), small.actions(of, other, DENSE, noise))


def test_the_time_is_worked_out_once():
    """No product with the modulator's weights is left in a frame."""
    of, obs, noise = policy(), small.observation(PI05), small.noise(PI05)
    before = small.actions(of, obs, DENSE, noise)
    for p in (of.model.modulator.weight, of.model.time_in.weight, of.model.time_out.weight):
        p.fill_(torch.nan)
    assert torch.equal(small.actions(of, obs, DENSE, noise), before)


BINS = [(-1.0, 0), (-2.0, -1), (-1.001, -1), (0.0, 128), (1.0, 255), (0.999, 255), (-0.9921875, 1)]


@pytest.mark.parametrize("value, expected", BINS)
def test_state_bins_are_those_of_openpi(value, expected):
    assert state_bins([value]) == [expected]
    assert expected == np.digitize(value, bins=np.linspace(-1, 1, 257)[:-1]) - 1


def test_the_prompt_is_that_of_openpi():
    assert state_prompt(" pick_up\nthe cup ", [0, 255, 7]) == "Task: pick up the cup, State: 0 255 7;\nAction: "
