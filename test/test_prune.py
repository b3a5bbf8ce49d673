"""Laws of trigger, importance, selection and partition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ecovla_ros.errors import PruningError
from ecovla_ros.prune import importance
from ecovla_ros.prune.partition import Partition
from ecovla_ros.prune.select import keep_best, kept_count
from ecovla_ros.prune.similarity import scene_similarity
from ecovla_ros.prune.site import Site
from ecovla_ros.prune.trigger import Trigger

finite = st.floats(-1, 1, allow_nan=False)


@given(st.lists(finite, min_size=1, max_size=80), st.floats(0, 1), st.integers(2, 20))
def test_trigger_follows_its_quantile(values, p, window):
    trigger = Trigger(p, window)
    for t, s in enumerate(values):
        threshold = np.quantile(values[max(0, t - window + 1) : t + 1], p)
        assert trigger.update(s).fired == (s < threshold)


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
    cosines = [
        float(x @ y / (x.norm() * y.norm())) for k in now for x, y in zip(now[k].double(), before[k].double())
    ]
    assert scene_similarity(now, before) == pytest.approx(np.mean(cosines), abs=1e-6)
    assert scene_similarity(now, now) == pytest.approx(1.0, abs=1e-6)


def test_scene_similarity_of_a_lost_camera_is_nan():
    tokens = torch.ones(4, 8)
    assert math.isnan(scene_similarity({"a": tokens}, None))
    assert math.isnan(scene_similarity({"a": tokens}, {"a": tokens, "b": tokens}))
    assert math.isnan(scene_similarity({"a": tokens}, {"a": tokens[:2]}))


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


def test_fuse_and_history_are_equations_9_and_10():
    history, energy = torch.tensor([[4.0]]), torch.tensor([[1.0]])
    assert importance.fuse(history, energy, 0.7).item() == pytest.approx(0.7 * 4 + 0.3 * 1)
    importance.update_history(history, energy, 0.9)
    assert history.item() == pytest.approx(0.9 * 4 + 0.1 * 1)


@given(st.integers(1, 40), st.floats(0, 0.9), st.sampled_from([1, 2, 32]))
def test_kept_counts_are_multiples_and_exact_at_ratio_zero(blocks, ratio, step):
    channels = blocks * step
    kept = kept_count(channels, ratio, step)
    assert kept % step == 0 and step <= kept <= channels
    assert kept_count(channels, 0.0, step) == channels
    assert abs(kept - (1 - ratio) * channels) <= max(step / 2 + 1e-6, step - 0.1 * channels)


@pytest.mark.parametrize("ratio", [-0.1, 0.91, float("nan")])
def test_kept_count_refuses_ratios_outside(ratio):
    with pytest.raises(PruningError, match="0 to 0.9"):
        kept_count(64, ratio, 32)


@given(st.integers(0, 1000), st.sampled_from([(8, 6, 1), (8, 6, 2), (64, 32, 1), (12, 9, 3)]))
def test_keep_best_keeps_the_best_of_each_group(seed, shape):
    channels, kept, groups = shape
    scores = torch.rand(2, channels, generator=torch.Generator().manual_seed(seed))
    mask = keep_best(scores, kept, groups)
    for layer in range(2):
        for g in range(groups):
            mine = torch.arange(channels) % groups == g
            chosen, rest = scores[layer][mine & mask[layer]], scores[layer][mine & ~mask[layer]]
            assert len(chosen) == kept // groups
            assert chosen.min() >= rest.max()


def make_site(channels: int, unit: int, groups: int, seed: int) -> Site:
    g = torch.Generator().manual_seed(seed)
    weights = [torch.randn(channels * unit, 6, generator=g) for _ in range(3)]
    return Site("lm.0.x", "lm.x", "prefill", channels, unit, tuple(weights[:2]), weights[2], step=groups)


@settings(deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([(16, 12, 1, 1), (8, 6, 4, 2), (12, 6, 2, 3)]))
def test_partition_is_a_permutation_with_the_kept_channels_first(seed, shape):
    channels, kept, unit, groups = shape
    site = make_site(channels, unit, groups, seed)
    original = [w.clone() for w in (*site.producers, site.consumer)]
    addresses = [w.data_ptr() for w in (*site.producers, site.consumer)]
    partition = Partition(site)
    g = torch.Generator().manual_seed(seed)
    for _ in range(4):
        keep = keep_best(torch.rand(1, channels, generator=g), kept, groups)[0]
        partition.arrange(keep, kept)
        assert torch.equal(partition.kept_channels(kept), keep.nonzero()[:, 0])
        for weight, first in zip((*site.producers, site.consumer), original):
            blocks, firsts = weight.view(channels, -1), first.view(channels, -1)
            assert torch.equal(blocks, firsts[partition.channel])
        slots = torch.arange(channels)
        assert torch.equal(partition.channel % groups, slots % groups)
        assert partition.arrange(keep, kept) == 0
    assert addresses == [w.data_ptr() for w in (*site.producers, site.consumer)]
    values = torch.rand(channels * unit, generator=g)
    by_channel = partition.to_channels(values).view(channels, unit)
    assert torch.equal(by_channel[partition.channel], values.view(channels, unit))
    partition.restore()
    assert all(torch.equal(w, o) for w, o in zip((*site.producers, site.consumer), original))


def test_partition_refuses_what_does_not_fit():
    site = make_site(8, 1, 1, 0)
    with pytest.raises(PruningError, match="does not fill"):
        Partition(site).arrange(torch.ones(8, dtype=torch.bool), 4)
    short = Site("lm.0.x", "lm.x", "prefill", 9, 1, site.producers, site.consumer)
    with pytest.raises(PruningError, match="8 rows"):
        Partition(short)
