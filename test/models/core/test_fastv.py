"""FastV: the tokens that the answer looks at stay, with their positions, and pruning channels still works beside it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support import all_models as small
from torch.utils.flop_counter import FlopCounterMode

from ecovla_ros import build
from ecovla_ros.config import Config, PolicyConfig, PruneConfig
from ecovla_ros.engine.engine import Engine
from ecovla_ros.engine.graphs import Graphed
from ecovla_ros.engine.recorder import EagerRecorder
from ecovla_ros.engine.streams import Inline
from ecovla_ros.errors import ConfigError
from ecovla_ros.models.base import DENSE, Plan
from ecovla_ros.models.core.fastv import TokenPruning, shortened
from ecovla_ros.models.core.layers import Use
from ecovla_ros.prune.site import Record, SiteUse

FAMILIES = pytest.mark.parametrize("family", small.FAMILIES)


def literal(policy, sequence, rows, layer, keep):
    """Llama over a sequence, head by head, with FastV as its paper says: score, choose, and go on with fewer rows."""
    model, config = policy.model, policy.config
    vision = len(config.cameras) * config.tokens
    x, position = sequence, torch.arange(len(sequence))
    rows = list(range(*rows.indices(len(sequence))))
    for i, block in enumerate([*model.lm, model.lm_last]):
        seen = torch.ones(len(x), len(x), dtype=torch.bool)
        seen = seen.tril() if model.causal else seen
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


PRISMATIC = pytest.mark.parametrize("family", small.PRISMATIC)
PI = pytest.mark.parametrize("family", list(small.PI))


@PRISMATIC
@pytest.mark.parametrize("layer, ratio", [(1, 0.5), (2, 0.5), (2, 0.75)])
@torch.inference_mode()
def test_hidden_states_are_those_of_the_literal_reading(family, layer, ratio):
    policy = small.policy(family)
    policy.prune_tokens(layer, ratio)
    obs = small.observation(policy)
    seen = policy.encode(obs)
    length = len(seen.prefix)
    rows = policy.model.rows(length) if family == "oft" else slice(length - 1, length)
    expected = literal(policy, seen.prefix, rows, layer, policy.tokens.keep)
    got = policy.prefill(seen, DENSE)
    assert (got - expected.view_as(got)).abs().max() < 1e-4
    policy.prune_tokens(layer, 0.0)
    assert (policy.prefill(seen, DENSE) - got).abs().max() > 1e-3, "half of the tokens must show"


@torch.inference_mode()
def literal_prefix(policy, seen, layer, keep):
    """K and V of every layer of a pi0 language model, head by head, with FastV; and the positions that stay."""
    model, config = policy.model, policy.config
    x, position, vision, found = seen.prefix, torch.arange(len(seen.prefix)), 2 * config.tokens, []
    groups, d = config.kv_heads, config.head_dim
    for i, block in enumerate([*model.lm, None]):
        attention = model.lm_last if block is None else block.attention
        n = x / torch.sqrt(x.square().mean(-1, keepdim=True) + config.norm_eps) * (1 + attention.norm.weight)
        rows = (n @ attention.vkq.T).split(d, -1)
        v, k = rows[:groups], [turned(r, position, config) for r in rows[groups : 2 * groups]]
        found.append((torch.stack(k), torch.stack(v)))
        if block is None:
            return found, position
        out, weights = [], []
        for head, row in enumerate(rows[2 * groups :]):
            scores = (turned(row, position, config) @ k[head % groups].T / d**0.5).softmax(-1)
            weights.append(scores)
            out.append(scores @ v[head % groups])
        x = x + torch.cat(out, -1) @ attention.o
        n = x / torch.sqrt(x.square().mean(-1, keepdim=True) + config.norm_eps) * (1 + block.norm.weight)
        gate = F.gelu(n @ block.mlp.gate.T, approximate="tanh")
        x = x + (gate * (n @ block.mlp.up.T)) @ block.mlp.down
        if i == layer - 1:
            looked = torch.stack(weights).mean(0)[vision:].mean(0)[:vision]
            stay = [*sorted(looked.argsort(descending=True)[:keep].tolist()), *range(vision, len(x))]
            x, position = x[stay], position[stay]


@PI
@pytest.mark.parametrize("layer, ratio", [(1, 0.5), (2, 0.5), (2, 0.75)])
def test_keys_and_values_are_those_of_the_literal_reading(family, layer, ratio):
    policy = small.policy(family)
    policy.prune_tokens(layer, ratio)
    seen = policy.encode(small.observation(policy))
    expected, position = literal_prefix(policy, seen, layer, policy.tokens.keep)
    handoff = policy.prefill(seen, DENSE)
    assert handoff.short.tolist() == position.tolist()
    for i, (k, v) in enumerate(expected):
        assert k.shape[1] == (len(seen.prefix) if i < layer else len(position)), "later layers are shorter"
        for cache, wanted in ((policy.caches[i].keys, k), (policy.caches[i].values, v)):
            assert (cache[0, :, : wanted.shape[1]] - wanted).abs().max() < 1e-4


@PI
@torch.inference_mode()
def test_the_expert_attends_to_what_is_left_and_counts_positions_on(family):
    """Actions with tokens gone are those of a dense pass in which later layers may not see these tokens."""
    policy = small.policy(family)
    policy.prune_tokens(1, 0.5)
    seen, start = policy.encode(small.observation(policy)), small.noise(policy)
    handoff = policy.prefill(seen, DENSE)
    got = policy.act(seen, handoff, DENSE, start)
    length, short = len(seen.prefix), handoff.short.clone()
    kept = [(c.keys[:, :, : len(short)].clone(), c.values[:, :, : len(short)].clone()) for c in policy.caches[1:]]
    policy.prune_tokens(1, 0.0)
    for cache, (k, v) in zip(policy.caches[1:], kept):  # the same K and V at their own positions, NaN elsewhere
        for buffer, values in ((cache.keys, k), (cache.values, v)):
            buffer[:, :, :length] = torch.nan
            buffer[:, :, short] = values
    real = torch.zeros(length)
    real[short] = 1.0
    whole = policy._contexts(length, seen, None)[0]

    class Masked(type(whole)):
        def keys(self, length, more):
            return torch.nn.functional.pad(real, (0, more), value=1.0).bool()[None]

    parts = [whole._replace(last=1), Masked(*whole._replace(first=1))]
    for cache in policy.caches[1:]:
        for buffer in (cache.keys, cache.values):
            buffer.nan_to_num_(0.0)
    policy._contexts = lambda *_: parts
    assert (policy.act(seen, handoff, DENSE, start) - got).abs().max() < 1e-5


@PI
def test_a_probe_of_heads_knows_which_tokens_are_left(family):
    policy = small.policy(family)
    policy.prune_tokens(1, 0.5)
    seen = policy.encode(small.observation(policy))
    sites = {s.key: s for s in policy.sites if s.key in ("lm.0.heads", "lm.2.heads")}
    length, samples = len(seen.prefix), {}
    records = {}
    for key, site in sites.items():
        inputs = torch.zeros(1, length, policy.config.lm_width)
        records[key] = Record(torch.zeros(site.rows), None, torch.zeros(site.rows), inputs, torch.arange(length))
    handoff = policy.prefill(seen, Plan(record=records))
    for key, site in sites.items():
        found = site.hidden(records[key].inputs[0], records[key].tokens, 0, site.channels)
        rows = length if key == "lm.0.heads" else len(handoff.short)
        first = torch.unique(records[key].tokens * rows // length, return_inverse=True)[1]
        once = torch.stack([found[(first == i).nonzero()[0, 0]] for i in range(rows)])
        samples[key] = once.square().sum(0)
        torch.testing.assert_close(samples[key], records[key].energy, rtol=1e-3, atol=1e-5)


@FAMILIES
def test_pruning_no_token_is_dense_bit_for_bit(family):
    policy = small.policy(family)
    obs, start = small.observation(policy), small.noise(policy)
    before = small.actions(policy, obs, DENSE, start)
    policy.prune_tokens(2, 0.0)
    assert policy.tokens is None and torch.equal(small.actions(policy, obs, DENSE, start), before)


@FAMILIES
def test_with_fewer_tokens_a_prefix_is_still_the_masked_model(family):
    policy = small.policy(family)
    policy.prune_tokens(2, 0.5)
    obs, start = small.observation(policy), small.noise(policy)
    kept = {site.key: site.channels // 2 for site in policy.sites if site.key.split(".")[1] != "1"}
    sparse = small.actions(policy, obs, Plan(kept), start)
    for site in policy.sites:
        if site.key in kept:
            site.consumer.view(site.channels, -1)[kept[site.key] :] = 0.0
    assert (sparse - small.actions(policy, obs, DENSE, start)).abs().max() < 2e-5


@FAMILIES
def test_padding_and_fewer_tokens_go_together(family):
    plain, padded = small.policy(family), small.policy(family, bucket=16)
    obs, start = small.observation(plain), small.noise(plain)
    for policy in (plain, padded):
        policy.prune_tokens(2, 0.5)
    assert (small.actions(plain, obs, DENSE, start) - small.actions(padded, obs, DENSE, start)).abs().max() < 2e-5


@FAMILIES
def test_padding_counts_for_no_energy_after_tokens_have_left(family):
    plain, padded = small.policy(family), small.policy(family, bucket=16)
    obs, start, found = small.observation(plain), small.noise(plain), []
    for policy in (plain, padded):
        policy.prune_tokens(2, 0.5)
        energy = {site.key: torch.zeros(site.channels * site.unit) for site in policy.sites}
        small.actions(policy, obs, Plan.recording(energy), start)
        found.append(energy)
    for key in found[0]:
        torch.testing.assert_close(found[0][key], found[1][key], rtol=1e-3, atol=1e-4)


def test_samples_lie_within_what_is_left():
    record = Record(torch.zeros(4), inputs=torch.zeros(1, 3, 2), tokens=torch.tensor([0, 10, 19]))
    use = shortened(Use(SiteUse(record=record), SiteUse()), torch.arange(5), 20)
    assert use.heads.record.tokens.tolist() == [0, 2, 4] and use.mlp.record is None


@FAMILIES
def test_fewer_tokens_are_less_work_by_the_exact_count(family):
    policy = small.policy(family)
    seen = policy.encode(small.observation(policy))

    def macs():
        with FlopCounterMode(display=False) as counter:
            policy.prefill(seen, DENSE)
        return counter.get_total_flops() / 2

    dense = macs()
    policy.prune_tokens(1, 0.5)
    gone = policy.config.tokens * len(policy.config.cameras) - policy.tokens.keep
    block = sum(w.numel() for w in policy.model.lm[0].parameters() if w.dim() > 1)
    inner, told = policy.config.heads * policy.config.head_dim, len(seen.prefix) - 2 * policy.config.tokens
    rows = {"oft": getattr(policy.model, "slots", 0), "cogact": 1}.get(family, told)
    k = policy.model.lm_last.attention.k if family in small.PRISMATIC else policy.model.lm_last.vkq.chunk(2)[0]
    last = 2 * k.numel()  # K and V of the last layer
    looking = rows * inner * (k.shape[1] + len(seen.prefix))  # queries of the rows that decide, and their scores
    saved = gone * (block * (len(policy.model.lm) - 1) + last) - looking
    assert dense - macs() == saved


@FAMILIES
@pytest.mark.parametrize("refresh", ["dense", "probe"])
def test_the_engine_refreshes_beside_fewer_tokens(family, refresh):
    policy = small.policy(family)
    policy.prune_tokens(2, 0.5)
    config = PruneConfig(method="every", refresh=refresh, ratio=0.5, sites=("lm.mlp",), probe_tokens=6, hysteresis=0.0)
    engine = Engine(policy, config, Inline())
    reports = [engine.step(small.observation(policy, seed)).report for seed in range(4)]
    assert all(r.fault == "" for r in reports) and sum(r.swaps for r in reports) > 0
    engine.close()


@FAMILIES
def test_a_captured_pass_follows_which_tokens_stay(family):
    policy, other = small.policy(family), small.policy(family)
    for each in (policy, other):
        each.prune_tokens(2, 0.5)
    graphed, start = Graphed(policy, EagerRecorder()), small.noise(policy)
    graphed.warm_up()
    for seed in range(3):
        obs = small.observation(policy, seed)
        assert torch.equal(small.actions(graphed, obs, DENSE, start), small.actions(other, obs, DENSE, start))


@pytest.mark.parametrize("layer, ratio, told", [(0, 0.5, "1 to 2"), (3, 0.5, "1 to 2"), (2, 0.99, "leaves none")])
def test_what_cannot_be_pruned_is_refused(layer, ratio, told):
    with pytest.raises(ConfigError, match=told):
        TokenPruning.of(8, 3, layer, ratio)


def test_the_configuration_reaches_the_model_and_is_refused_where_it_cannot():
    shape = PolicyConfig(model="openvla-oft-reduced", fastv=0.5, fastv_layer=2)
    assert build.policy(shape).tokens == TokenPruning(2, 64)
    assert build.policy(PolicyConfig(model="pi05-reduced", fastv=0.5)).tokens.layer == 3
    with pytest.raises(ConfigError, match="fastv.*vla_cache"):
        build.policy(PolicyConfig(model="pi05-reduced", fastv=0.5, vla_cache=(0.5,)))
    with pytest.raises(ConfigError, match="compensate"):
        build.engine(Config(policy=shape, prune=PruneConfig(compensate=True)), serving=True)
    assert np.isfinite(shape.fastv)
