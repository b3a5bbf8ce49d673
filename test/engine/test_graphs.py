"""Captured prefill and act: what a graph needs to stay valid, on a CPU with the function itself in its place."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from support import pi_models as small
from support.engine_runs import CONFIG, PROBE, SCENES, chunks, run
from support.toy import Toy

from ecovla_ros.config import PruneConfig
from ecovla_ros.engine.engine import Engine
from ecovla_ros.engine.graphs import Graphed
from ecovla_ros.engine.recorder import EagerRecorder
from ecovla_ros.engine.streams import Deferred, Inline, Worker
from ecovla_ros.models.base import DENSE

KINDS = pytest.mark.parametrize("config", [CONFIG, PROBE], ids=["dense", "probe"])


@KINDS
@pytest.mark.parametrize("streams", [Inline, Deferred, Worker])
def test_replayed_frames_are_the_frames_bit_for_bit(config, streams):
    plain, replayed = run(Inline(), config, SCENES), run(streams(), config, SCENES, Graphed(Toy(), EagerRecorder()))
    assert np.array_equal(chunks(plain), chunks(replayed))
    assert [s.report.pattern_id for s in plain] == [s.report.pattern_id for s in replayed]


SHORT_AND_LONG = ("the apple in", small.TEXTS[0])
"""Three tokens and six: padded to four and to eight."""


def bucketed():
    policy = small.policy(bucket=4)
    policy.spec = replace(policy.spec, instructions=SHORT_AND_LONG)
    return policy


def pi_run(policy, config, prompts=SHORT_AND_LONG):
    engine = Engine(policy, config, Deferred())
    engine.warm_up()
    out = [engine.step(small.observation(seed=i, text=prompts[i // 3 % 2])).chunk.joints for i in range(12)]
    engine.close()
    return np.stack(out)


@pytest.mark.parametrize("sites", [("lm.mlp", "expert.mlp"), ("lm.heads", "expert.heads")])
def test_prompts_of_two_buckets_each_have_their_graphs_and_heads_their_probe(sites):
    config = PruneConfig(method="every", ratio=0.5, sites=sites, probe_tokens=16, hysteresis=0.0)
    plain = pi_run(bucketed(), config)
    graphed = Graphed(bucketed(), EagerRecorder())
    assert np.array_equal(plain, pi_run(graphed, config))
    passes = 2 * 2 * 4  # prefill and act, two buckets, four plans: dense, sparse, and two that record
    assert graphed.graphs == passes + 1, "and the towers, once for all prompts"


def test_warm_up_captures_all_there_is_and_frames_capture_nothing():
    graphed = Graphed(small.policy(), EagerRecorder())
    config = PruneConfig(method="every", ratio=0.5, tiers=(0.25,), sites=("lm.mlp",), probe_tokens=4)
    engine = Engine(graphed, config, Inline())
    engine.warm_up()
    before = graphed.graphs
    for i in range(6):
        engine.step(small.observation(seed=i, text=small.TEXTS[i % 2]))
    assert graphed.graphs == before


def test_a_graph_reads_the_same_addresses_whatever_the_pattern():
    graphed = Graphed(small.policy(), EagerRecorder())
    engine = Engine(graphed, replace(PROBE, method="every", sites=("lm.mlp",)), Inline())
    addresses = [w.data_ptr() for s in graphed.sites for w in (*s.producers, s.consumer)]
    handoffs, actions = set(), set()
    noise = torch.zeros(small.SMALL.horizon, small.SMALL.action_dim)
    for i in range(4):
        engine.step(small.observation(seed=i))
        seen = graphed.encode(small.observation(seed=i))
        handoff = graphed.prefill(seen, DENSE)
        handoffs.add(id(handoff))
        actions.add(graphed.act(seen, handoff, DENSE, noise).data_ptr())
    assert len(handoffs) == len(actions) == 1
    assert addresses == [w.data_ptr() for s in graphed.sites for w in (*s.producers, s.consumer)]


def test_a_probe_of_heads_is_told_of_the_frame_and_not_of_the_captured_one():
    graphed, marked = Graphed(bucketed(), EagerRecorder()), []
    graphed.inner.mark = marked.append
    for text in (*SHORT_AND_LONG, SHORT_AND_LONG[0]):
        seen = graphed.encode(small.observation(text=text))
        graphed.prefill(seen, DENSE)
        assert marked[-1] is seen


def test_capturing_adds_nothing_to_what_is_recorded():
    config = replace(CONFIG, sites=("lm.mlp",))
    found = []
    for policy in (Toy(), Graphed(Toy(), EagerRecorder())):
        engine = Engine(policy, config, Inline())
        engine.step(SCENES[0])  # the first frame of a shape: captured here, as there was no warm-up
        found.append(engine._refresh.stacks[0].energy.clone())
    assert torch.equal(*found)
