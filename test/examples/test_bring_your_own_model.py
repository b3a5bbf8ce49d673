"""examples/bring_your_own_model is held to what the families that ship are held to."""

from __future__ import annotations

import copy
import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ecovla_ros.config import PruneConfig
from ecovla_ros.engine.engine import Engine
from ecovla_ros.engine.streams import Inline, Worker
from ecovla_ros.errors import ObservationError
from ecovla_ros.models.base import DENSE, Plan
from ecovla_ros.types import Observation

pytest.importorskip("transformers")
EXAMPLE = Path(__file__).parents[2] / "examples" / "bring_your_own_model"
PRUNE = PruneConfig(method="ecovla", ratio=0.5, refresh="dense", p=0.1, window=10, hysteresis=0.0, alpha=0.0)


@pytest.fixture(scope="module")
def example():
    """The example's modules, imported as its own folder sees them."""
    sys.path.insert(0, str(EXAMPLE))
    try:
        yield {name: importlib.import_module(name) for name in ("their_policy", "adapter", "run")}
    finally:
        sys.path.remove(str(EXAMPLE))


@pytest.fixture
def theirs(example):
    torch.manual_seed(1)
    return example["their_policy"].TheirPolicy()


@pytest.fixture
def adapted(example, theirs):
    return example["adapter"].AdaptedPolicy(copy.deepcopy(theirs))


def observation(policy, seed: int = 0, **changes) -> Observation:
    rng = np.random.default_rng(seed)
    images = {name: rng.integers(0, 256, (*size, 3), np.uint8) for name, size in policy.spec.cameras.items()}
    parts = {"stamp_ns": seed + 1, "images": images, "joints": np.zeros(7), "gripper": 0.0}
    return Observation(**{**parts, "instruction": policy.spec.instructions[0], **changes})


def actions(policy, obs: Observation, plan: Plan) -> torch.Tensor:
    seen = policy.encode(obs)
    return policy.act(seen, policy.prefill(seen, plan), plan, torch.zeros(policy.spec.horizon, 8))


def driven(policy, scenes, streams, config=PRUNE) -> tuple[Engine, list]:
    engine = Engine(policy, config, streams)
    return engine, [engine.step(observation(policy, scene)) for scene in scenes]


def test_the_adapter_is_short():
    assert len((EXAMPLE / "adapter.py").read_text(encoding="utf-8").splitlines()) < 100
    counts = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in EXAMPLE.glob("*.py")}
    page = (EXAMPLE / "README.md").read_text(encoding="utf-8")
    assert all(f"| {count} |" in next(r for r in page.splitlines() if f"`{n}`" in r) for n, count in counts.items())


def test_adapted_and_dense_it_gives_the_actions_of_the_original(theirs, adapted):
    for task in adapted.spec.instructions:
        obs = observation(adapted, instruction=task)
        images = torch.from_numpy(np.stack(list(obs.images.values())))
        with torch.inference_mode():
            torch.testing.assert_close(actions(adapted, obs, DENSE), theirs(images, task), rtol=1e-4, atol=1e-5)


def test_at_ratio_zero_it_gives_the_bits_of_dense(adapted):
    obs = observation(adapted)
    everything = Plan({site.key: site.channels for site in adapted.sites})
    dense = actions(adapted, obs, DENSE)
    assert torch.equal(actions(adapted, obs, everything), dense)
    engine, steps = driven(adapted, [0, 0], Inline(), PruneConfig(method="ecovla", ratio=0.0, refresh="dense"))
    assert [step.report.ratio for step in steps] == [0.0, 0.0]
    assert all(np.array_equal(step.chunk.joints, dense.double().numpy()[:, :7]) for step in steps)
    engine.close()


def test_pruned_it_is_the_full_model_with_the_other_channels_masked(adapted):
    obs, half = observation(adapted), {site.key: site.channels // 2 for site in adapted.sites}
    sparse, dense = actions(adapted, obs, Plan(half)), actions(adapted, obs, DENSE)
    assert not torch.allclose(sparse, dense, atol=1e-3)
    for site in adapted.sites:
        site.consumer[half[site.key] :] = 0.0
    torch.testing.assert_close(actions(adapted, obs, DENSE), sparse, rtol=1e-4, atol=1e-5)


def test_a_changed_scene_changes_the_pattern_to_the_channels_that_are_best(theirs, adapted, example):
    engine, steps = driven(adapted, [0] * 12, Inline())
    engine.settle()
    before = engine.patterns()
    assert {step.report.kind for step in steps} == {"refresh", "sparse"} and steps[-1].report.ratio == 0.5
    assert engine.step(observation(adapted, 1)).report.triggered
    engine.settle()
    fresh = example["adapter"].AdaptedPolicy(theirs)
    energy = {site.key: torch.zeros(site.channels) for site in fresh.sites}
    actions(fresh, observation(fresh, 1), Plan.recording(energy))
    for site in fresh.sites:
        kept = engine.patterns()[site.key][: site.channels // 2]
        score = energy[site.key] * site.consumer.pow(4).sum(-1).sqrt()  # Eq. 11
        assert set(kept) == set(score.topk(len(kept)).indices.tolist())
        assert set(kept) != set(before[site.key][: len(kept)])
    engine.close()


@pytest.mark.parametrize("refresh", ["dense", "probe"])
def test_beside_the_next_frame_it_refreshes_as_in_line_and_closing_gives_the_weights_back(adapted, refresh):
    config = PruneConfig(method="ecovla", ratio=0.5, refresh=refresh, probe_tokens=8, p=0.1, window=10)
    was = actions(adapted, observation(adapted, 2), DENSE)
    rows = []
    for streams in (Inline(), Worker()):
        engine, steps = driven(adapted, [0] * 12 + [1] * 6, streams, config)
        engine.settle()
        assert engine._refresh.state.pattern_id >= 2 and not any(step.report.fault for step in steps)
        rows.append(np.stack([step.chunk.joints for step in steps]))
        engine.close()
        assert torch.equal(actions(adapted, observation(adapted, 2), DENSE), was)
    assert np.array_equal(*rows)


@pytest.mark.parametrize("changes", [{"instruction": "dance"}, {"joints": np.full(7, np.nan)}, {"images": {}}])
def test_what_it_was_not_made_for_is_an_error_of_ours(adapted, changes):
    with pytest.raises(ObservationError, match="valid|finite|needs"):
        adapted.encode(observation(adapted, **changes))


def test_the_script_tells_of_a_pattern_that_changes(example):
    lines = example["run"].main(frames=20, change_at=15)
    assert "pattern 1" in lines[14] and "pattern 2" in lines[-1]
