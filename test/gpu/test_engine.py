"""The schedule on the device: one result whatever runs beside what, and whether frames are replayed or not."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.device_runs import CUDA, FAMILIES, STREAMS, answers, captured, family, frames, needs_cuda, settings

from ecovla_ros import build, config
from ecovla_ros.engine.recorder import CudaRecorder
from ecovla_ros.engine.streams import Inline
from ecovla_ros.kernels.choice import KernelChoice

COUNT = 40 if CUDA else 16
SITES = ("lm.mlp", "expert.mlp")


def prune(name, **changes):
    """`every` with half of the channels; heads too where the family has no expert."""
    sites = SITES if name in ("pi0", "pi05", "mini") else ("lm.mlp", "lm.heads")
    base = {"method": "every", "ratio": 0.5, "sites": sites, "probe_tokens": 8, "hysteresis": 0.0}
    return config.override(config.Config(), **{f"prune.{k}": v for k, v in {**base, **changes}.items()}).prune


@pytest.fixture(autouse=True)
def untuned(monkeypatch):
    """Equal runs need equal kernels, and not the fastest ones: nothing is timed."""
    monkeypatch.setattr(KernelChoice, "tuning", lambda self: nullcontext())


@pytest.fixture
def mini():
    def made(**changes):
        own = settings("mini", **changes)
        return build.captured(build.policy(own.policy), own.policy)

    return made


@pytest.mark.parametrize("refresh", config.REFRESHES)
@pytest.mark.parametrize("method", ["ecovla", "every"])
def test_every_stream_gives_the_same_chunks_and_patterns(mini, method, refresh):
    """In the default dtype: bfloat16 on a GPU."""
    how = prune("mini", method=method, refresh=refresh, p=0.3)
    policy = mini()  # an engine that is closed leaves it as it was
    runs = {name: answers(policy, how, make(), frames(policy, COUNT)) for name, make in STREAMS.items()}
    chunks, patterns, kinds = runs["inline"]
    assert patterns[-1] >= 2 and len(set(kinds)) >= (2 if method == "ecovla" else 1)
    for name, (others, ids, same) in runs.items():
        assert np.array_equal(chunks, others), name
        assert same == kinds, name
        if name == "deferred":
            assert ids == patterns
    assert np.isfinite(chunks).all()


@pytest.mark.parametrize("refresh", config.REFRESHES)
@pytest.mark.parametrize("name", FAMILIES)
def test_replayed_frames_are_the_eager_ones_while_the_pattern_changes(name, refresh):
    """Every frame refreshes: each graph is replayed over rows that lie in other slots than when it was captured."""
    how, runs = prune(name, refresh=refresh), []
    for make in (lambda policy: policy, captured):
        policy = family(name)
        runs.append(answers(make(policy), how, Inline(), frames(policy, 6)))
    eager, replayed = runs
    assert eager[1][-1] >= 3, "the pattern changes"
    assert np.array_equal(eager[0], replayed[0]) and eager[1:] == replayed[1:]


@pytest.mark.parametrize("name", ["pi0", "pi05"])
def test_heads_are_probed_over_the_keys_of_their_own_frame(name):
    """Whatever prompt the graphs were captured with, and however long that of the frame is."""
    how, runs = prune(name, sites=("lm.heads", "expert.heads")), []
    for make, streams in ((lambda policy: policy, "inline"), (captured, "side")):
        policy = family(name)
        told = (policy.spec.instructions[0], policy.spec.instructions[0].rsplit(" ", 2)[0])
        policy.spec = replace(policy.spec, instructions=told)  # both are captured, the longer one first
        observed = [replace(obs, instruction=told[i // 3 % 2]) for i, obs in enumerate(frames(policy, 12))]
        runs.append(answers(make(policy), how, STREAMS[streams](), observed))
        assert len({len(policy.encode(obs).prefix) for obs in observed}) == 2
    eager, replayed = runs
    assert eager[1][-1] >= 3, "the pattern changes"
    assert np.array_equal(eager[0], replayed[0]) and eager[1:] == replayed[1:]


@pytest.mark.parametrize("refresh", config.REFRESHES)
@pytest.mark.parametrize("name", FAMILIES)
def test_an_episode_is_answered_as_by_an_engine_that_saw_no_other(name, refresh):
    """Graphs that were captured before are replayed over rows that were put back."""
    how, runs = prune(name, refresh=refresh), []
    for count in (0, 5):
        policy = family(name)
        earlier = frames(policy, count, seed=1) if count else ()
        runs.append(answers(captured(policy), how, STREAMS["side"](), frames(policy, 6), before=earlier))
    (alone, _, kinds), (after, _, same) = runs
    assert np.array_equal(alone, after) and kinds == same and "refresh" in kinds


@pytest.mark.parametrize("name", FAMILIES)
def test_a_frame_issued_before_its_trigger_is_read_is_the_one_that_waits(name):
    """A device finds by itself whether what a frame records is wanted."""
    how, runs = prune(name, method="ecovla", p=0.4), []
    for ahead in (False, True):
        policy = family(name)
        runs.append(answers(captured(policy), how, STREAMS["side"](), frames(policy, COUNT // 2), ahead=ahead))
    (asked, _, kinds), (ahead, _, same) = runs
    assert np.array_equal(asked, ahead) and kinds == same and {"refresh", "sparse"} <= set(kinds)


@needs_cuda
@pytest.mark.parametrize("name", FAMILIES)
def test_the_gpu_answers_as_the_cpu_does(name, monkeypatch):
    """Dense and sparse, float32, on equal weights: no further apart than rounding carries."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    for how in (prune(name, method="dense"), prune(name, method="random", seed=3)):
        found = []
        for device in ("cpu", "cuda"):
            policy = family(name, device=device)
            made = captured(policy) if device == "cuda" else policy
            found.append(answers(made, how, Inline(), frames(policy, 2))[0])
        spread = np.abs(found[0]).max()
        assert np.abs(found[0] - found[1]).max() < 1e-2 * spread, how.method


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_runs_beside_its_refresh(name):
    """As deployed: graphs, the side stream, bfloat16 on a GPU."""
    policy = family(name, dtype="bfloat16")
    chunks, patterns, kinds = answers(
        captured(policy), prune(name, method="ecovla", p=0.3), STREAMS["side"](), frames(policy, COUNT // 4)
    )
    assert np.isfinite(chunks).all() and patterns[-1] >= 1 and "refresh" in kinds


@needs_cuda
def test_a_captured_product_writes_to_nobody_elses_memory():
    """As after `torch.compile` with CUDA graphs in the same process, which takes every workspace away."""
    left, right = (torch.randn(n, m, device="cuda", dtype=torch.bfloat16) for n, m in ((50, 16384), (16384, 2048)))
    bias = torch.randn(2048, device="cuda", dtype=torch.bfloat16)
    replay, out = CudaRecorder(torch.device("cuda")).capture(
        lambda: [left @ right, torch.addmm(bias, left, right), (left[:8] @ right)[:, :64]]
    )
    replay()
    expected = [t.clone() for t in out]
    torch._C._cuda_clearCublasWorkspaces()
    torch.cuda.empty_cache()
    others = [torch.full((1 << n,), 7, dtype=torch.uint8, device="cuda") for n in range(20, 28) for _ in range(8)]
    for _ in range(3):
        replay()
    torch.cuda.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(out, expected))
    assert all((other == 7).all() for other in others), "memory that was given to others"
