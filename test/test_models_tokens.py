"""FastV: the tokens that the answer looks at stay, with their positions, and pruning channels still works beside it."""

from __future__ import annotations

import numpy as np
import prismatic_models as small
import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from ecovla_ros import build
from ecovla_ros.config import Config, PolicyConfig, PruneConfig
from ecovla_ros.engine.engine import Engine
from ecovla_ros.engine.graphs import Again, Graphed
from ecovla_ros.engine.streams import Inline
from ecovla_ros.errors import ConfigError
from ecovla_ros.models.base import DENSE, Plan
from ecovla_ros.models.prismatic.tokens import TokenPruning

FAMILIES = pytest.mark.parametrize("family", ["oft", "cogact"])


def literal(policy, sequence, rows, layer, keep):
    """Llama over a sequence, head by head, with FastV as its paper says: score, choose, and go on with fewer rows."""
    model, config = policy.model, policy.config
    vision = len(config.cameras) * config.tokens
    x, position = sequence, torch.arange(len(sequence))
    rows = list(range(*rows.indices(len(sequence))))
    for i, block in enumerate([*model.lm, model.lm_last]):
        seen = torch.ones(len(x), len(x), dtype=torch.bool)
        seen = seen.tril() if model.past is not None else seen
        attention, d = block.attention, config.head_dim
        n = rms(x, attention.norm.weight, config)
        out, weights = [], []
        for head in range(config.heads):
            part = slice(head * d, (head + 1) * d)
            q, k = (turned(n @ w[part].T, position, config) for w in (attention.q, attention.k))
            scores = (q @ k.T / d**0.5).masked_fill(~seen, -torch.inf).softmax(-1)
            weights.append(scores)
            out.append(scores @ (n @ attention.v[part].T))
        x = x + torch.cat(out, -1) @ attention.o
        n = rms(x, block.norm.weight, config)
        x = x + (F.silu(n @ block.mlp.gate.T) * (n @ block.mlp.up.T)) @ block.mlp.down
        if i == layer - 1:
            looked = torch.stack(weights).mean(0)[rows].mean(0)[1 : 1 + vision]
            chosen = sorted(looked.argsort(descending=True)[:keep].tolist())
            stay = [0, *(1 + c for c in chosen), *range(1 + vision, len(x))]
            rows = [stay.index(r) for r in rows]
            x, position = x[stay], position[stay]
    return rms(x, model.norm.weight, config)[rows]


def rms(x, weight, config):
    return x / torch.sqrt(x.square().mean(-1, keepdim=True) + config.norm_eps) * weight


def turned(x, position, config):
    half = config.head_dim // 2
    angle = position[:, None] * config.rope_theta ** (-2 * torch.arange(half) / config.head_dim)
    z = torch.complex(x[:, :half], x[:, half:]) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat((z.real, z.imag), -1)


@FAMILIES
@pytest.mark.parametrize("layer, ratio", [(1, 0.5), (2, 0.5), (2, 0.75)])
@torch.inference_mode()
def test_hidden_states_are_those_of_the_literal_reading(family, layer, ratio):
    policy = small.policy(family)
    policy.prune_tokens(layer, ratio)
    obs = small.observation(policy.config)
    seen = policy.encode(obs)
    length = len(seen.prefix)
    rows = policy.model.rows(length) if family == "oft" else slice(length - 1, length)
    expected = literal(policy, seen.prefix, rows, layer, policy.tokens.keep)
    got = policy.prefill(seen, DENSE)
    assert (got - expected.view_as(got)).abs().max() < 1e-4
    policy.prune_tokens(layer, 0.0)
    assert (policy.prefill(seen, DENSE) - got).abs().max() > 1e-3, "half of the tokens must show"


@FAMILIES
def test_pruning_no_token_is_dense_bit_for_bit(family):
    policy = small.policy(family)
    obs, start = small.observation(policy.config), small.noise(policy.config)
    before = small.actions(policy, obs, DENSE, start)
    policy.prune_tokens(2, 0.0)
    assert policy.tokens is None and torch.equal(small.actions(policy, obs, DENSE, start), before)


@FAMILIES
def test_with_fewer_tokens_a_prefix_is_still_the_masked_model(family):
    policy = small.policy(family)
    policy.prune_tokens(2, 0.5)
    obs, start = small.observation(policy.config), small.noise(policy.config)
    kept = {site.key: site.channels // 2 for site in policy.sites if site.key.split(".")[1] != "1"}
    sparse = small.actions(policy, obs, Plan(kept), start)
    for site in policy.sites:
        if site.key in kept:
            site.consumer.view(site.channels, -1)[kept[site.key] :] = 0.0
    assert (sparse - small.actions(policy, obs, DENSE, start)).abs().max() < 2e-5


@FAMILIES
def test_padding_and_fewer_tokens_go_together(family):
    plain, padded = small.policy(family), small.policy(family, bucket=16)
    obs, start = small.observation(plain.config), small.noise(plain.config)
    for policy in (plain, padded):
        policy.prune_tokens(2, 0.5)
    assert (small.actions(plain, obs, DENSE, start) - small.actions(padded, obs, DENSE, start)).abs().max() < 2e-5


@FAMILIES
def test_fewer_tokens_are_less_work_by_the_exact_count(family):
    policy = small.policy(family)
    seen = policy.encode(small.observation(policy.config))

    def macs():
        with FlopCounterMode(display=False) as counter:
            policy.prefill(seen, DENSE)
        return counter.get_total_flops() / 2

    dense = macs()
    policy.prune_tokens(1, 0.5)
    gone = policy.config.tokens * len(policy.config.cameras) - policy.tokens.keep
    block = sum(w.numel() for w in policy.model.lm[0].parameters() if w.dim() > 1)
    inner, rows = policy.config.heads * policy.config.head_dim, policy.model.slots if family == "oft" else 1
    last = 2 * policy.config.width * inner  # K and V of the last layer
    looking = rows * inner * (policy.config.width + len(seen.prefix))  # queries of the rows read, and their scores
    saved = gone * (block * (len(policy.model.lm) - 1) + last) - looking
    assert dense - macs() == saved


@FAMILIES
@pytest.mark.parametrize("refresh", ["dense", "probe"])
def test_the_engine_refreshes_beside_fewer_tokens(family, refresh):
    policy = small.policy(family)
    policy.prune_tokens(2, 0.5)
    config = PruneConfig(method="every", refresh=refresh, ratio=0.5, sites=("lm.mlp",), probe_tokens=6, hysteresis=0.0)
    engine = Engine(policy, config, Inline())
    reports = [engine.step(small.observation(policy.config, seed)).report for seed in range(4)]
    assert all(r.fault == "" for r in reports) and sum(r.swaps for r in reports) > 0
    engine.close()


@FAMILIES
def test_a_captured_pass_follows_which_tokens_stay(family):
    policy, other = small.policy(family), small.policy(family)
    for each in (policy, other):
        each.prune_tokens(2, 0.5)
    graphed, start = Graphed(policy, Again()), small.noise(policy.config)
    graphed.warm_up()
    for seed in range(3):
        obs = small.observation(policy.config, seed)
        assert torch.equal(small.actions(graphed, obs, DENSE, start), small.actions(other, obs, DENSE, start))


@pytest.mark.parametrize("layer, ratio, told", [(0, 0.5, "1 to 2"), (3, 0.5, "1 to 2"), (2, 0.99, "leaves none")])
def test_what_cannot_be_pruned_is_refused(layer, ratio, told):
    with pytest.raises(ConfigError, match=told):
        TokenPruning.of(8, 3, layer, ratio)


def test_the_configuration_reaches_the_model_and_is_refused_where_it_cannot():
    shape = PolicyConfig(model="openvla-oft-reduced", fastv=0.5, fastv_layer=2)
    assert build.policy(shape).tokens == TokenPruning(2, 64)
    with pytest.raises(ConfigError, match="fastv.*openvla-oft"):
        build.policy(PolicyConfig(model="pi05-reduced", fastv=0.5))
    with pytest.raises(ConfigError, match="compensate"):
        build.engine(Config(policy=shape, prune=PruneConfig(compensate=True)), serving=True)
    assert np.isfinite(shape.fastv)
