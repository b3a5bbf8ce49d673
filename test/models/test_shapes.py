"""Named shapes: the published sizes to the parameter, and reduced ones that run."""

from __future__ import annotations

import dataclasses
import importlib

import numpy as np
import pytest
import torch
from support import all_models as small

from ecovla_ros import build
from ecovla_ros.config import PolicyConfig, PruneConfig
from ecovla_ros.engine.engine import Engine
from ecovla_ros.engine.streams import Inline
from ecovla_ros.errors import ConfigError, ObservationError
from ecovla_ros.models import shapes
from ecovla_ros.models.base import DENSE, Plan
from ecovla_ros.models.cogact.model import CogactModel
from ecovla_ros.models.data.compatibility import example_texts
from ecovla_ros.models.openvla_oft.model import OftModel
from ecovla_ros.models.pi.model import PiModel
from ecovla_ros.types import Observation


def make(name, device, dtype, seed, **options):
    module, _, function = build.SHAPES[name].partition(":")
    return getattr(importlib.import_module(module), function)(device, dtype, seed, **options)


REDUCED = [name for name in build.SHAPES if name.endswith("-reduced")]


def parameters(model):
    return sum(p.numel() for p in model.parameters())


def linear(inputs, outputs):
    return inputs * outputs + outputs


def vit(width, mlp, layers, tokens, patch=14):
    layer = 4 * width + linear(width, 3 * width) + linear(width, width) + linear(width, mlp) + linear(mlp, width)
    return 3 * patch * patch * width + width + tokens * width + layers * layer


def test_the_full_shapes_have_the_published_sizes():
    """Counted from the papers' widths; of layers that nothing reads, nothing."""
    with torch.device("meta"):
        pi0, pi05 = PiModel(shapes.PI0), PiModel(shapes.PI05)
        oft, cogact = OftModel(shapes.OFT, 2), CogactModel(shapes.COGACT)
    gemma = 257_152 * 2048 + 17 * (2048 * 256 * 18 + 3 * 2048 * 16_384 + 2 * 2048) + 2048 * 512 + 2048
    expert = 18 * (1024 * 256 * 18 + 3 * 1024 * 4096)
    siglip = vit(1152, 4304, 27, 256) + 2 * 1152 + linear(1152, 2048)
    ends = linear(32, 1024) + linear(1024, 32)
    norms = 37 * 1024
    assert parameters(pi0) == gemma + expert + norms + siglip + ends + linear(32, 1024) + 3 * 1024**2 + 2 * 1024
    assert parameters(pi05) == gemma + expert + 37 * linear(1024, 3072) + siglip + ends + 2 * linear(1024, 1024)
    towers = vit(1024, 4096, 23, 256) + 5 * 1024 + 23 * 2 * 1024 + vit(1152, 4304, 26, 256)
    projector = linear(2176, 8704) + linear(8704, 4096) + linear(4096, 4096)
    llama = 32_064 * 4096 + 32 * (4 * 4096**2 + 3 * 4096 * 11_008 + 2 * 4096) + 4096
    head = 2 * 8 * 4096 + linear(8 * 4096, 4096) + 2 * (2 * 4096 + linear(4096, 4096)) + 2 * 4096 + linear(4096, 8)
    assert parameters(oft) == towers + projector + llama + head + linear(8, 4096) + linear(4096, 4096)
    dit = linear(8, 768) + linear(256, 768) + linear(768, 768) + linear(4096, 768) + 4096 + 17 * 768 + linear(768, 8)
    dit += 12 * (linear(768, 2304) + linear(768, 768) + linear(768, 3072) + linear(3072, 768))
    assert parameters(cogact) == towers + projector + llama + dit


@pytest.mark.parametrize("name", ["pi0", "pi05", "openvla-oft", "cogact"])
def test_every_full_shape_builds_without_memory(name):
    policy = make(name, "meta", torch.bfloat16, 0)
    assert policy.dtype == torch.bfloat16 and {s.group for s in policy.sites} >= {"lm.mlp", "lm.heads"}
    for site in policy.sites:
        assert site.channels % site.step == 0 and len(site.consumer) == site.channels * site.unit


@pytest.mark.parametrize("name", REDUCED)
def test_reduced_shapes_run_and_are_the_same_for_the_same_seed(name):
    generator = torch.get_rng_state()
    first, again, other = (make(name, "cpu", torch.float32, seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), generator), "a policy must not move the process's generator"
    first.warm_up()
    size = parameters(first.model)
    assert 1e7 < size < 6e7
    rng = np.random.default_rng(0)
    images = {c: rng.integers(0, 256, (*hw, 3), dtype=np.uint8) for c, hw in first.spec.cameras.items()}
    obs = Observation(1, images, np.zeros(7), 0.0, shapes.TEXT)
    noise = torch.randn(first.spec.horizon, first.spec.action_dim, generator=torch.Generator().manual_seed(0))

    def act(policy, plan=DENSE):
        seen = policy.encode(obs)
        return policy.to_chunk(seen, policy.act(seen, policy.prefill(seen, plan), plan, noise))

    one, same, different = act(first), act(again), act(other)
    assert np.array_equal(one.joints, same.joints) and not np.array_equal(one.joints, different.joints)
    assert np.isfinite(one.joints).all() and one.joints.shape == (first.spec.horizon, 7)
    sparse = act(first, Plan({s.key: s.channels // 2 for s in first.sites if s.group == "lm.mlp"}))
    assert np.abs(sparse.joints - one.joints).max() > 0.0


def test_an_unknown_shape_is_refused_and_the_nearest_named():
    with pytest.raises(ConfigError, match="unknown model 'openvla_oft'.*openvla-oft"):
        build.policy(PolicyConfig(model="openvla_oft"))


@pytest.mark.parametrize("refresh", ["dense", "probe"])
@pytest.mark.parametrize("name", REDUCED)
def test_the_engine_prunes_every_family_and_gives_the_weights_back(name, refresh):
    """MLP channels by probe, whole heads that own their K/V by dense frames; at the end every row is in its place."""
    policy = make(name, "cpu", torch.float32, 0)
    groups = {s.group for s in policy.sites if s.hidden is not None or refresh == "dense"}
    config = PruneConfig(
        method="every", refresh=refresh, ratio=0.4, sites=tuple(sorted(groups)), probe_tokens=8, hysteresis=0.0
    )
    weights = [w.clone() for s in policy.sites for w in (*s.producers, s.consumer, *s.extra)]
    engine = Engine(policy, config, Inline())
    rng = np.random.default_rng(1)
    kinds, swaps = [], 0
    for i in range(4):
        images = {c: rng.integers(0, 256, (*hw, 3), dtype=np.uint8) for c, hw in policy.spec.cameras.items()}
        report = engine.step(Observation(i + 1, images, np.zeros(7), 0.0, shapes.TEXT)).report
        assert report.fault == ""
        kinds.append(report.kind)
        swaps += report.swaps
    assert swaps > 0
    assert set(kinds) == {"refresh"}, "every frame measures"
    engine.close()
    after = [w for s in policy.sites for w in (*s.producers, s.consumer, *s.extra)]
    assert all(torch.equal(a, b) for a, b in zip(weights, after))


@pytest.mark.parametrize("family", small.FAMILIES)
@pytest.mark.parametrize("bucket", [5, 7, 16])
def test_free_text_of_any_length_has_the_shape_of_an_example(family, bucket):
    policy = small.policy(family, bucket=bucket)
    policy.spec = dataclasses.replace(policy.spec, instructions=())
    examples = list(policy.examples())
    shapes = [len(policy.encode(obs).prefix) for obs in examples]
    obs, word, seen = examples[0], policy.prompt.example(), set()
    for words in range(1, 64):
        try:
            seen.add(len(policy.encode(dataclasses.replace(obs, instruction=" ".join([word] * words))).prefix))
        except ObservationError:
            break
    assert set(shapes) == seen and len(shapes) == len(seen) > (bucket < 16)


@pytest.mark.parametrize(
    ("each", "longest", "bucket", "expected"),
    [(1, 48, 32, [1, 30]), (1, 48, 16, [1, 14, 30]), (5, 48, 16, [1, 3, 6]), (1, 33, 32, [1, 30]), (1, 48, 1, [1])],
)
def test_an_example_of_every_bucket_whatever_a_word_is_in_tokens(each, longest, bucket, expected):
    """The last bucket may be cut off, down to a single token."""

    def tokens(text):
        count = 3 + each * len(text.split())
        if count > longest:
            raise ObservationError("too long")
        return count

    assert [len(text.split()) for text in example_texts("go", tokens, bucket)] == expected
