"""A frame that is issued before its trigger is read: the same frames, patterns and triggers as one that waits."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from kernels.test_kernels import interpret
from support import all_models as models
from support.engine_runs import BOTH, PROBE, SCENES, chunks, energies
from support.toy import Toy

from ecovla_ros.engine import engine as engine_module
from ecovla_ros.engine import order
from ecovla_ros.engine.engine import Engine
from ecovla_ros.engine.graphs import Graphed
from ecovla_ros.engine.recorder import EagerRecorder
from ecovla_ros.engine.streams import Deferred, Inline, Worker
from ecovla_ros.errors import ObservationError

FACTS = ("triggered", "similarity", "threshold", "pattern_id", "pattern_age", "swaps", "ratio", "fault")


def frames(engine, observations, **how):
    steps = [engine.step(obs, **how) for obs in observations]
    engine.settle()
    patterns = engine.patterns()
    engine.close()
    return steps, patterns


def same(waits, ahead):
    (one, first), (other, second) = waits, ahead
    assert np.array_equal(chunks(one), chunks(other), equal_nan=True)
    for fact in FACTS:
        assert np.array_equal(
            [getattr(s.report, fact) for s in one], [getattr(s.report, fact) for s in other],
            equal_nan=fact in ("similarity", "threshold"),
        ), fact  # fmt: skip
    assert [s.report.kind for s in one] == [s.report.kind for s in other]
    assert first == second


SETTINGS = {
    "probe": {},
    "ages": {"max_age": 4},
    "audited": {"audit": 3},
    "compensated": {"compensate": True},
    "tiers": {"tiers": (0.25,)},
    "every": {"method": "every"},
    "dense": {"refresh": "dense"},
    "budget": {"swap_budget": 4},
}


@pytest.mark.parametrize("streams", [Inline, Deferred, Worker, lambda: Worker(overlap=True)],
                         ids=["inline", "deferred", "gap", "overlap"])  # fmt: skip
@pytest.mark.parametrize("changes", SETTINGS.values(), ids=SETTINGS)
def test_going_ahead_changes_nothing_but_the_order(streams, changes):
    config = replace(PROBE, **changes)
    same(frames(Engine(Toy(), config, Inline()), SCENES), frames(Engine(Toy(), config, streams(), ahead=True), SCENES))


@pytest.mark.parametrize("says", [False, True])
@pytest.mark.parametrize("streams", [Deferred, Worker], ids=["deferred", "gap"])
def test_a_refresh_may_wait_until_the_answer_is_on_its_way(streams, says):
    """Whether the caller says so or not: then the next frame begins it."""
    plain = frames(Engine(Toy(), PROBE, Inline()), SCENES)
    engine, rested = Engine(Toy(), PROBE, streams(), ahead=True), []
    rest = engine._streams.rest
    engine._streams.rest = lambda: (rested.append(1), rest())
    if says:
        step = engine.step
        engine.step = lambda obs, **how: (step(obs, **how), engine.rest())[0]
    same(plain, frames(engine, SCENES, rest=False))
    own = streams is Worker  # its join rests too
    assert own or len(rested) == (len(SCENES) if says else 0)


@pytest.mark.parametrize("changes", SETTINGS.values(), ids=SETTINGS)
def test_a_device_finds_that_records_are_wanted_where_a_refresh_follows(changes):
    """By the similarity and the bound that lie on it: kernels read them, and nobody waits for the host."""
    engine = Engine(Toy(), replace(PROBE, p=0.4, **changes), Inline(), ahead=True)
    engine.calibrate(energies(engine.policy))
    engine.warm_up()
    found = []
    for obs in SCENES:
        ahead = engine._goes_ahead()
        kind = engine.step(obs, rest=False).report.kind
        seen, bound = engine._refresh._gate.tolist()
        engine.rest()
        wanted = not (bound <= seen < math.inf)
        found.append((ahead, kind, wanted))
        assert wanted or kind != "refresh"
    assert (
        changes.get("refresh") == "dense"
        or changes.get("method") == "every"
        or {(kind, wanted) for ahead, kind, wanted in found if ahead} == {("refresh", True), ("sparse", False)}
    )


@pytest.mark.parametrize("changes", [{}, {"tiers": (0.25,)}, {"compensate": True}], ids=["probe", "tiers", "means"])
def test_what_a_frame_needs_is_ready_before_it_where_no_refresh_is_under_way(changes):
    """So that nothing stands between its towers and its prefill."""
    engine = Engine(Toy(), replace(PROBE, **changes), Inline(), ahead=True)
    engine.calibrate(energies(engine.policy))
    refresh, zeroed, told = engine._refresh, [], []
    for stack in refresh.stacks:
        stack.clear = lambda clear=stack.clear: (zeroed.append(1), clear())
    for obs in SCENES:
        ready, bound = engine._goes_ahead(), refresh._bound
        zeroed.clear()
        kind = engine.step(obs, rest=False).report.kind
        told.append((kind, not zeroed and refresh._bound == bound if ready else None))
        engine.rest()
        if kind == "sparse" and engine._goes_ahead():
            assert not any(stack._sums.any() for stack in refresh.stacks), "zeroed behind the answer"
    behind_sparse = [ready for (before, _), (_, ready) in zip(told, told[1:]) if before == "sparse"]
    assert all(behind_sparse) and len(behind_sparse) > 10
    assert {kind for kind, _ in told} == {"sparse", "refresh"}


GATED = """
import numpy as np
from dataclasses import replace
from support import all_models as models
from support.engine_runs import PROBE, chunks
from ecovla_ros.engine.engine import Engine
from ecovla_ros.engine.streams import Inline
from ecovla_ros.kernels import gated_triton
import torch
torch.set_num_threads(1)
runs, asked = [], []
kernel = gated_triton.gated
def noted(x, gate, up, activation, sums, shape):
    out = kernel(x, gate, up, activation, sums, shape)
    if sums is not None and sums.gate is not None:
        asked.append(not (sums.gate[1] <= sums.gate[0] < np.inf))
    return out
gated_triton.gated = noted
for ahead in (False, True):
    asked.clear()
    policy = models.policy("pi05", bucket=8)
    groups = tuple(sorted({s.group for s in policy.sites if s.group.endswith(".mlp")}))
    engine = Engine(policy, replace(PROBE, sites=groups, p=0.5), Inline(), ahead=ahead)
    steps = [engine.step(models.observation(policy, seed=i // 3)) for i in range(6)]
    runs.append((chunks(steps), engine.patterns(), [s.report.kind for s in steps]))
    engine.close()
(one, first, kinds), (other, second, same) = runs
assert np.array_equal(one, other) and first == second and kinds == same, kinds
assert set(kinds[2:]) == {"refresh", "sparse"} and len(set(asked)) == 2, "both kinds of frame were compared"
"""


def test_kernels_leave_records_alone_where_no_refresh_follows_and_nothing_differs():
    """In Triton's interpreter."""
    interpret(GATED, "test")


@pytest.mark.parametrize("family", models.FAMILIES)
def test_every_family_goes_ahead_over_captured_passes(family):
    policy = models.policy(family)
    observations = [models.observation(policy, seed=i // 4) for i in range(10)]
    groups = tuple(sorted({s.group for s in policy.sites if s.group.endswith(".mlp")}))
    config = replace(PROBE, sites=groups, p=0.5)
    plain = frames(Engine(policy, config, Inline()), observations)
    graphed = Graphed(models.policy(family), EagerRecorder())
    same(plain, frames(Engine(graphed, config, Deferred(), ahead=True), observations))
    assert len({s.report.kind for s in plain[0]}) == 2, "both kinds of frame were compared"


@pytest.mark.parametrize("first", [False, True])
def test_warm_up_times_whether_a_frame_asks_first_and_answers_stay_the_same(monkeypatch, first):
    timed = []
    monkeypatch.setattr(engine_module, "asks_first", lambda *ways: (timed.append([way() for way in ways]), first)[1])
    made = [Engine(Toy(), PROBE, Inline(), ahead=None), Engine(Toy(), PROBE, Inline())]
    for engine in made:
        engine.calibrate(energies(engine.policy))
        engine.warm_up()
    assert len(timed) == 1 and made[0]._ahead is not first
    same(*(frames(engine, SCENES) for engine in made))


@pytest.mark.parametrize("more, asks", [(0.5, True), (order.ASKING_MS / 2, False), (-1.0, False)])
def test_a_frame_asks_first_where_recording_costs_more_than_asking(more, asks):
    drift = iter(range(100))
    assert order.asks_first(lambda: 10.0 + next(drift) / 1e3, lambda: 10.0 + more + next(drift) / 1e3) is asks


def test_the_trigger_is_read_once_the_whole_frame_is_issued():
    issued = []

    class Noted(Inline):
        def mark(self):
            issued.append("mark")

        def aside(self, job, mark=None):
            issued.append("aside")
            super().aside(job, mark)

        def release(self, later=False):
            issued.append("release")

    engine = Engine(Toy(), PROBE, Noted(), ahead=True)
    engine.calibrate(energies(engine.policy))
    for obs in SCENES[:10]:
        engine.step(obs)
    for name in ("prefill", "act"):
        inner = getattr(engine.policy, name)
        setattr(engine.policy, name, lambda *a, n=name, f=inner: (issued.append(n), f(*a))[1])
    read = engine._sight.read
    engine._sight.read = lambda: (issued.append("read"), read())[1]
    issued.clear()
    assert engine.step(SCENES[10]).report.kind == "refresh"
    assert issued == ["prefill", "mark", "act", "mark", "read", "aside", "aside", "release"]


def test_a_frame_whose_refresh_runs_dense_waits_for_its_trigger():
    engine = Engine(Toy(), replace(PROBE, audit=1), Inline(), ahead=True)
    engine.calibrate(energies(engine.policy))
    kinds = [(engine._goes_ahead(), engine.step(obs).report.kind) for obs in SCENES[:12]]
    assert not any(ahead for ahead, _ in kinds) and "refresh" in {kind for _, kind in kinds}


def test_frames_that_no_refresh_follows_sample_the_tokens_of_the_next_one():
    engine = Engine(Toy(), replace(PROBE, sites=BOTH), Inline(), ahead=True)
    engine.calibrate(energies(engine.policy))
    drawn = []
    for obs in SCENES[:30]:
        kind = engine.step(obs).report.kind
        drawn.append((kind, engine._refresh._tokens["prefill"].tolist()))
    assert all(kind == "refresh" or tokens == later for (kind, tokens), (_, later) in zip(drawn, drawn[1:]))
    assert len({tuple(tokens) for _, tokens in drawn}) > 1


def test_a_refresh_that_was_captured_is_replayed_and_does_the_same():
    class Captures(Inline):
        recorder = EagerRecorder()

    plain = frames(Engine(Toy(), PROBE, Inline()), SCENES)
    engine = Engine(Toy(), PROBE, Captures())
    engine.warm_up()
    replayed, job = [], engine._refresh._job
    engine._refresh._job = lambda *a, **k: (replayed.append("job"), job(*a, **k))[1]
    fresh = Engine(Toy(), PROBE, Inline())
    fresh.warm_up()
    plain = frames(fresh, SCENES)
    same(plain, frames(engine, SCENES))
    assert len(replayed) == 2, "the first frame's two jobs, whose histories were not known"


@pytest.mark.parametrize("family", ["pi0", "cogact"])
def test_a_comparison_that_was_captured_says_the_same(family):
    observations = [models.observation(models.policy(family), seed=i // 3) for i in range(9)]
    config = replace(PROBE, sites=("lm.mlp",), p=0.5)
    runs, captured = [], []
    for wrap in (lambda policy: policy, lambda policy: Graphed(policy, EagerRecorder())):
        engine = Engine(wrap(models.policy(family)), config, Inline())
        engine.warm_up()
        for policy in (engine.policy,) if isinstance(engine.policy, Graphed) else ():
            captured.append((policy, policy.graphs))
        runs.append(frames(engine, observations))
    same(*runs)
    assert all(policy.graphs == graphs for policy, graphs in captured), "captured in warm-up, with the towers"
    assert {s.report.triggered for s in runs[0][0]} == {True, False}


@pytest.mark.parametrize("wrap", [lambda policy: policy, lambda policy: Graphed(policy, EagerRecorder())],
                         ids=["plain", "captured"])  # fmt: skip
def test_a_change_that_came_with_a_frame_that_was_refused_is_not_lost(wrap):
    """The towers have seen it, and nobody was answered: nothing is known of the frame before the next one."""
    policy = models.policy("pi0")
    engine = Engine(wrap(policy), replace(PROBE, sites=("lm.mlp",)), Inline())
    engine.warm_up()
    one, other = (models.observation(policy, seed=i) for i in range(2))
    steps = [engine.step(one).report for _ in range(3)]
    assert [report.triggered for report in steps] == [True, False, False]
    for refused in (replace(other, instruction=" "), replace(other, images={})):
        with pytest.raises(ObservationError):
            engine.step(refused)
        assert engine.step(other).report.triggered
        assert not engine.step(other).report.triggered


def test_a_policy_that_encodes_in_its_own_way_is_asked():
    """A subclass, and a wrapper that passes everything else on."""
    asked = []

    class Own(type(models.policy("pi0"))):
        def encode(self, obs):
            asked.append("own")
            return super().encode(obs)

    class Around:
        def __init__(self, policy):
            self._policy = policy

        def __getattr__(self, name):
            return getattr(self._policy, name)

        def encode(self, obs):
            asked.append("around")
            return self._policy.encode(obs)

    made = models.policy("pi0")
    made.__class__ = Own
    for policy, expected in ((made, ["own"]), (Around(models.policy("pi0")), ["around"])):
        engine = Engine(policy, replace(PROBE, sites=("lm.mlp",)), Inline())
        asked.clear()
        engine.step(models.observation(policy))
        assert asked == expected
