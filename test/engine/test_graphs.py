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


def bucketed(bucket=4):
    policy = small.policy(bucket=bucket)
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


class Baking(EagerRecorder):
    """Bakes what a job finds in the policy when it is captured, as a graph bakes lengths and addresses."""

    def __init__(self, policy):
        self._policy = policy

    def capture(self, run, warm_ups=3):
        policy, baked = self._policy, self._policy._last

        def replay():
            now, policy._last = policy._last, baked
            run()
            policy._last = now

        return replay, None


@pytest.mark.parametrize("bucket", [4, 8], ids=["another bucket", "another padding"])
@pytest.mark.parametrize("site", ["lm.heads", "expert.heads", "lm.mlp"])
def test_a_captured_refresh_goes_by_the_frame_before_it_and_not_by_the_one_it_was_captured_behind(site, bucket):
    """Heads are probed over the K and V of a frame, as many as it has; MLPs know of no length."""
    config = PruneConfig(method="every", ratio=0.5, sites=(site,), probe_tokens=16, hysteresis=0.0)
    found = []
    for captures in (False, True):
        policy, streams = bucketed(bucket), Inline()
        streams.recorder = Baking(policy) if captures else None
        engine, jobs = Engine(Graphed(policy, EagerRecorder()), config, streams), []
        engine.warm_up()
        job = engine._refresh._job
        engine._refresh._job = lambda *a, job=job, jobs=jobs, **k: (jobs.append(1), job(*a, **k))[1]
        for i in range(8):
            engine.step(small.observation(seed=i, text=SHORT_AND_LONG[1]))
        engine.settle()
        found.append((engine._refresh.stacks[0].history.clone(), engine.patterns()))
        engine.close()
        assert len(jobs) == (1 if captures and site == "lm.mlp" else 8), "the first one's history is not known"
    (history, patterns), (baked, those) = found
    assert torch.equal(history, baked) and patterns == those


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
