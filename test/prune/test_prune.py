"""Laws of trigger, importance, selection and partition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ecovla_ros.errors import PruningError
from ecovla_ros.prune import importance, pattern
from ecovla_ros.prune.energy import estimate, spread
from ecovla_ros.prune.partition import Partition, travel
from ecovla_ros.prune.select import bands, exchange, kept_count
from ecovla_ros.prune.similarity import scene_similarity
from ecovla_ros.prune.site import Site
from ecovla_ros.prune.trigger import Trigger, quantile

finite = st.floats(-1, 1, allow_nan=False)


@given(st.lists(finite, min_size=1, max_size=80), st.floats(0, 1), st.integers(2, 20))
def test_trigger_follows_its_quantile(values, p, window):
    trigger = Trigger(p, window)
    for t, s in enumerate(values):
        threshold = np.quantile(values[max(0, t - window + 1) : t + 1], p)
        assert trigger.update(s).fired == (s < threshold)


@given(
    st.lists(st.floats(-1, 1, width=32), max_size=60),
    st.floats(-1, 1, width=32),
    st.integers(0, 64),
    st.integers(2, 20),
)
def test_what_fires_is_below_a_bound_that_was_known_before(values, next_one, place, window):
    p = place / 64
    trigger = Trigger(p, window)
    for s in values:
        trigger.update(s)
    bound, low = trigger.bound(), -2.0
    assert trigger.bound() == bound, "asking changes nothing"
    assert not trigger.update(next_one).fired or next_one < bound
    other = Trigger(p, window)
    for s in values:
        other.update(s)
    assert other.update(low).fired == (low < bound), "and far below it everything fires"


def test_trigger_constant_scene_never_fires():
    trigger = Trigger(0.8, 10)
    assert not any(trigger.update(0.99).fired for _ in range(50))


def test_trigger_nan_fires_and_stays_out_of_history():
    trigger = Trigger(0.5, 4)
    for _ in range(4):
        trigger.update(0.9)
    assert trigger.update(float("nan")).fired
    assert trigger.update(0.9).threshold == 0.9


@pytest.mark.parametrize(("p", "window"), [(-0.1, 30), (1.1, 30), (float("nan"), 30), (0.5, 1)])
def test_trigger_refuses_bad_settings(p, window):
    with pytest.raises(PruningError, match="valid"):
        Trigger(p, window)


def test_scene_similarity_is_the_mean_over_all_tokens():
    g = torch.Generator().manual_seed(0)
    now = {"a": torch.randn(5, 8, generator=g), "b": torch.randn(3, 8, generator=g)}
    before = {k: v + 0.1 * torch.randn(v.shape, generator=g) for k, v in now.items()}
    cosines = [float(x @ y / (x.norm() * y.norm())) for k in now for x, y in zip(now[k].double(), before[k].double())]
    assert scene_similarity(now, before) == pytest.approx(np.mean(cosines), abs=1e-6)
    assert scene_similarity(now, now) == pytest.approx(1.0, abs=1e-6)


def test_scene_similarity_of_a_lost_camera_is_none():
    tokens = torch.ones(4, 8)
    assert scene_similarity({"a": tokens}, None) is None
    assert scene_similarity({"a": tokens}, {"a": tokens, "b": tokens}) is None
    assert scene_similarity({"a": tokens}, {"a": tokens[:2]}) is None


@pytest.mark.parametrize("unit", [1, 4])
def test_stacked_scores_equal_the_per_layer_formula_in_float64(unit):
    g = torch.Generator().manual_seed(1)
    energy, weight = torch.rand(3, 8 * unit, generator=g), torch.randn(3, 8 * unit, 5, generator=g)
    factor = torch.stack([importance.ppsp_factor(w) for w in weight])
    got = importance.ppsp(energy, factor, unit)
    for layer in range(3):
        for c in range(8):
            rows = range(c * unit, (c + 1) * unit)
            terms = [float(energy[layer, r]) ** 2 * float((weight[layer, r].double() ** 4).sum()) for r in rows]
            assert float(got[layer, c]) == pytest.approx(math.sqrt(sum(terms)), rel=1e-5)
    if unit == 1:  # || g * W^2 ||_2 as the paper writes it
        direct = (energy[0, :, None].double() * weight[0].double() ** 2).norm(dim=-1)
        assert torch.allclose(got[0].double(), direct, rtol=1e-5)


def test_fuse_is_equation_9():
    history, energy = torch.tensor([[4.0]]), torch.tensor([[1.0]])
    assert importance.fuse(history, energy, 0.7).item() == pytest.approx(0.7 * 4 + 0.3 * 1)


@given(st.integers(1, 40), st.floats(0, 0.9), st.sampled_from([1, 2, 32]))
def test_kept_counts_are_multiples_and_exact_at_ratio_zero(blocks, ratio, step):
    channels = blocks * step
    kept = kept_count(channels, ratio, step)
    assert kept % step == 0 and step <= kept <= channels
    assert kept_count(channels, 0.0, step) == channels
    assert abs(kept - (1 - ratio) * channels) <= max(step / 2, step - 0.1 * channels) + 1e-6


@pytest.mark.parametrize("ratio", [-0.1, 0.91, float("nan")])
def test_kept_count_refuses_ratios_outside(ratio):
    with pytest.raises(PruningError, match="0 to 0.9"):
        kept_count(64, ratio, 32)


def best(scores: torch.Tensor, kept: int, groups: int) -> torch.Tensor:
    """Sorted slots (L, kept) of the best of each group, by definition."""
    rows = []
    for row in scores:
        chosen = []
        for g in range(groups):
            mine = [c for c in range(len(row)) if c % groups == g]
            chosen += sorted(mine, key=lambda c: -float(row[c]))[: kept // groups]
        rows.append(sorted(chosen))
    return torch.tensor(rows)


SHAPES = [(16, 12, 1, 1), (16, 4, 1, 1), (8, 6, 4, 2), (12, 6, 2, 3), (8, 8, 1, 1)]
"""channels, kept, unit, groups"""


def make_sites(channels: int, unit: int, groups: int, seed: int, count: int = 2) -> list[Site]:
    g = torch.Generator().manual_seed(seed)
    sites = []
    for i in range(count):
        weights = [torch.randn(channels * unit, 6, generator=g) for _ in range(3)]
        bias = torch.randn(channels * unit, generator=g)
        producers, consumer = tuple(weights[:2]), weights[2]
        sites.append(Site(f"lm.{i}.x", "lm.x", "prefill", channels, unit, producers, consumer, groups, 1, (bias,)))
    return sites


def blocks(site: Site) -> list[torch.Tensor]:
    return [w.view(site.channels, -1) for w in (*site.producers, site.consumer, *site.extra)]


@settings(deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(SHAPES))
def test_partition_is_a_permutation_with_the_best_channels_first(seed, shape):
    channels, kept, unit, groups = shape
    sites = make_sites(channels, unit, groups, seed)
    original = [[b.clone() for b in blocks(s)] for s in sites]
    addresses = [b.data_ptr() for s in sites for b in blocks(s)]
    follow = torch.zeros(2, channels * unit)
    partition = Partition(sites, [follow])
    g = torch.Generator().manual_seed(seed)
    for _ in range(4):
        by_channel = torch.rand(2, channels, generator=g)
        scores = by_channel.gather(1, partition.channel)
        follow.copy_(scores.repeat_interleave(unit, 1))
        partition.apply(exchange(scores, kept, groups))
        assert torch.equal(partition.kept_channels(kept), best(by_channel, kept, groups))
        assert torch.equal(follow, by_channel.gather(1, partition.channel).repeat_interleave(unit, 1))
        for site, first, channel in zip(sites, original, partition.channel):
            assert all(torch.equal(b, f[channel]) for b, f in zip(blocks(site), first))
        assert (partition.channel % groups == torch.arange(channels) % groups).all()
        assert not exchange(by_channel.gather(1, partition.channel), kept, groups).wanted.any()
    assert addresses == [b.data_ptr() for s in sites for b in blocks(s)]
    values = torch.rand(2, channels * unit, generator=g)
    assert torch.equal(partition.by_slot(partition.by_channel(values)), values)
    partition.restore()
    assert all(torch.equal(b, o) for s, first in zip(sites, original) for b, o in zip(blocks(s), first))


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 5))
def test_swapping_in_steps_ends_where_swapping_at_once_does(seed, budget):
    scores = torch.rand(3, 32, generator=torch.Generator().manual_seed(seed))
    at_once, steps = scores.clone(), scores.clone()
    travel(at_once, exchange(scores, 20), 1)
    worth = [steps[:, :20].sum()]
    while (swaps := exchange(steps, 20, budget=budget)).wanted.any():
        assert swaps.wanted.sum(1).max() <= budget
        travel(steps, swaps, 1)
        worth.append(steps[:, :20].sum())
    assert torch.equal(steps[:, :20].sort(1).values, at_once[:, :20].sort(1).values)
    assert all(a < b for a, b in zip(worth, worth[1:])), "every state in between is better than the one before"


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=40), st.floats(0, 1))
def test_the_quantile_is_that_of_numpy(values, p):
    assert quantile(values, p) == np.quantile(values, p)


@given(st.integers(0, 1000), st.floats(0, 2))
def test_hysteresis_lets_in_only_what_is_so_much_better(seed, margin):
    scores = torch.rand(1, 24, generator=torch.Generator().manual_seed(seed))
    swaps = exchange(scores, 16, hysteresis=margin)
    entering, leaving = scores.gather(1, swaps.entering), scores.gather(1, swaps.leaving)
    assert torch.equal(swaps.wanted, entering > leaving * (1 + margin))


def test_scores_that_are_not_numbers_never_move_and_ties_stay():
    scores = torch.ones(1, 8)
    assert not exchange(scores, 4).wanted.any()
    assert not exchange(scores * torch.nan, 4).wanted.any()


@settings(deadline=None)
@given(st.integers(0, 1000))
def test_borders_are_nested_on_one_buffer(seed):
    by_channel = torch.rand(2, 32, generator=torch.Generator().manual_seed(seed))
    scores = by_channel.clone()
    partition = Partition(make_sites(32, 1, 1, seed), [scores])
    for border in (8, 16, 24):
        partition.apply(exchange(scores, border))
    for border in (8, 16, 24):
        assert torch.equal(partition.kept_channels(border), best(by_channel, border, 1))


@pytest.mark.parametrize(("kept", "groups"), [(3, 2), (0, 1), (9, 1), (6, 3)])
def test_counts_that_do_not_fit_a_group_are_refused(kept, groups):
    with pytest.raises(PruningError, match="evenly"):
        exchange(torch.rand(1, 8), kept, groups)


def test_partition_refuses_what_does_not_fit():
    good = make_sites(8, 1, 1, 0, 1)[0]
    wrong = [
        ([Site("lm.0.x", "lm.x", "prefill", 9, 1, good.producers, good.consumer)], "8 rows"),
        ([good, make_sites(12, 1, 1, 0, 1)[0]], "one shape"),
        ([], "one shape"),
        ([Site("lm.0.x", "lm.x", "prefill", 6, 1, (torch.rand(8, 6).T,), torch.rand(6, 8))], "not contiguous"),
    ]
    for sites, match in wrong:
        with pytest.raises(PruningError, match=match):
            Partition(sites)


def test_an_exported_pattern_comes_back(tmp_path):
    scores = torch.rand(2, 12, generator=torch.Generator().manual_seed(3))
    partition = Partition(make_sites(12, 2, 2, 0))
    partition.apply(exchange(scores, 6, 2))
    orders = dict(zip(("lm.0.x", "lm.1.x"), partition.channel.tolist()))
    pattern.save(tmp_path / "p.json", orders, {"lm.0.x": 6, "lm.1.x": 6})
    assert pattern.load(tmp_path / "p.json") == orders
    again = Partition(make_sites(12, 2, 2, 0))
    again.apply(exchange(torch.stack([bands(o, [6], 2) for o in orders.values()]), 6, 2))
    assert torch.equal(again.kept_channels(6), partition.kept_channels(6))


@pytest.mark.parametrize(
    ("order", "match"), [([0, 1, 2], "each of 3"), ([0, 0, 1, 2], "once"), ([1, 0, 2, 3], "KV group")]
)
def test_a_pattern_that_does_not_fit_is_refused(order, match):
    with pytest.raises(PruningError, match=match):
        bands(order if match != "each of 3" else [0, 1, 3], [2], 2)


def test_a_pattern_file_that_is_none_is_refused(tmp_path):
    path = tmp_path / "p.json"
    for text, match in (("{", "not JSON"), ("{}", "not a pattern"), ('{"form": "ecovla-pattern-1"}', "malformed")):
        path.write_text(text)
        with pytest.raises(PruningError, match=match):
            pattern.load(path)
    with pytest.raises(PruningError, match="cannot read"):
        pattern.load(tmp_path / "absent.json")


@given(st.integers(1, 64), st.integers(1, 600), st.floats(0, 0.999))
def test_sampled_tokens_lie_in_the_sequence_and_cover_it(count, length, offset):
    tokens = spread(count, length, offset)
    assert len(tokens) == count and tokens.min() >= 0 and tokens.max() < length
    gaps = [int(b - a) for a, b in zip(tokens, tokens[1:])]
    assert all(0 <= gap <= length / count + 1 for gap in gaps)
    if count == length:
        assert torch.equal(spread(count, length, 0.0), torch.arange(length))


def test_every_token_is_as_likely_as_any_other():
    offsets = (torch.arange(700) + 0.5) / 700
    counts = torch.stack([torch.bincount(spread(8, 50, float(u)), minlength=50) for u in offsets]).float().mean(0)
    assert torch.allclose(counts, torch.full((50,), 8 / 50), atol=0.005)


def test_probe_energies_converge_to_dense_energies_as_m_grows():
    g = torch.Generator().manual_seed(0)
    tokens, rows, kept = 240, 64, 40
    hidden = torch.randn(tokens, rows, generator=g) * torch.rand(rows, generator=g)
    hidden *= torch.randn(tokens, 1, generator=g).exp()  # tokens differ in size, as they do behind a norm's outliers
    exact = hidden.square().sum(0)
    errors = []
    for m in (8, 32, 120, 240):
        draws = []
        for i in range(40):
            chosen = hidden[spread(m, tokens, i / 40 if m < tokens else 0.0)].square().sum(0)
            found = estimate(exact[None], chosen[None], chosen[None, kept:], kept)[0]
            assert torch.equal(found[:kept], exact[:kept])
            draws.append(((found - exact)[kept:].abs() / exact[kept:]).mean())
        errors.append(float(torch.stack(draws).mean()))
    assert errors[0] > errors[1] > errors[2] > errors[3] and errors[3] < 1e-5
    unscaled = float(1 - 32 / tokens)
    assert errors[1] < 0.8 * unscaled, "a few tokens tell the size, not only the order"
