"""A chunk is bound to the one before (real-time chunking) until the scene changes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from support import pi_models as small

from ecovla_ros.config import PruneConfig
from ecovla_ros.engine.engine import Engine
from ecovla_ros.engine.graphs import Graphed
from ecovla_ros.engine.recorder import EagerRecorder
from ecovla_ros.engine.streams import Deferred, Inline

CONFIG = replace(small.SMALL, flow_steps=4)
PERIOD_NS = 100_000_000
CHANGE = (3, 6)
"""Frames at which another picture comes; between them it stands."""


def policy(release="trigger", apart_rad=0.0, graphed=False, overlap=4):
    made = small.policy(CONFIG)
    if overlap:
        made.follow_chunks(overlap, 2, release, apart_rad)
    return Graphed(made, EagerRecorder()) if graphed else made


def energies(of):
    generator = torch.Generator().manual_seed(1)
    return {s.key: torch.rand(s.rows, generator=generator) + 0.1 for s in of.sites}


def engine(of, method="ecovla", ahead=False, streams=Inline):
    """Patterns of the language model alone: what it computes does not depend on what a chunk is bound to."""
    made = Engine(of, PruneConfig(method=method, ratio=0.5, p=0.5, window=8), streams(), ahead=ahead)
    made.calibrate(energies(of))
    return made


def seen(count=9):
    """A scene that stands but for the changes, with a little noise."""
    rng, scene, out = np.random.default_rng(2), 0, []
    for i in range(count):
        scene += i in CHANGE
        obs = small.observation(CONFIG, seed=scene)
        images = {c: np.clip(x.astype(int) + rng.integers(-1, 2, x.shape), 0, 255).astype(np.uint8)
                  for c, x in obs.images.items()}  # fmt: skip
        out.append(replace(obs, images=images, stamp_ns=(i + 1) * PERIOD_NS))
    return out


def followed(of, **how):
    """Steps with an arm that follows the chunks, and what was seen."""
    made = engine(of, **how)
    made.warm_up()
    steps, frames = [], seen()
    for i, obs in enumerate(frames):
        frames[i] = replace(obs, joints=steps[-1].chunk.joints[0] if steps else obs.joints)
        steps.append(made.step(frames[i]))
    made.settle()
    made.close()
    return steps, frames


def replayed(of, frames, **how):
    made = engine(of, **how)
    made.warm_up()
    return [made.step(obs) for obs in frames]


def joints(steps):
    return np.stack([s.chunk.joints for s in steps])


@pytest.mark.parametrize("method", ["dense", "static", "ecovla"])
@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("graphed", [False, True])
def test_a_frame_that_triggers_is_answered_as_if_there_had_been_no_chunk_before(method, ahead, graphed):
    """Every other frame begins where the last chunk leads."""
    steps, frames = followed(policy(graphed=graphed), method=method, ahead=ahead)
    free = replayed(policy(overlap=0), frames, method=method)
    fired = [s.report.triggered for s in steps]
    assert fired[0] and all(fired[i] for i in CHANGE) and not all(fired)
    apart = np.abs(joints(steps) - joints(free)).max((1, 2))
    assert (apart[fired] < 1e-5).all(), "let go"
    assert (apart[np.logical_not(fired)] > 1e-3).all(), "bound"


@pytest.mark.parametrize("streams", [Inline, Deferred])
def test_going_ahead_changes_no_chunk(streams):
    one, two = followed(policy())[0], followed(policy(graphed=True), ahead=True, streams=streams)[0]
    assert np.allclose(joints(one), joints(two), atol=1e-5)
    assert [s.report.pattern_id for s in one] == [s.report.pattern_id for s in two]
    assert [s.report.triggered for s in one] == [s.report.triggered for s in two]


def test_it_is_never_let_go_where_so_configured_and_then_a_dense_policy_has_no_trigger():
    steps, frames = followed(policy("never"), method="dense")
    assert not any(s.report.triggered for s in steps)
    free = replayed(policy(overlap=0), frames, method="dense")
    assert (np.abs(joints(steps) - joints(free)).max((1, 2))[1:] > 1e-3).all()


def test_a_new_episode_is_bound_to_nothing():
    bound, free = engine(policy("never"), "dense"), engine(policy(overlap=0), "dense")
    frames = followed(policy("never"), method="dense")[1]
    bound.step(frames[0])
    bound.reset(3)
    free.reset(3)
    assert np.array_equal(bound.step(frames[1]).chunk.joints, free.step(frames[1]).chunk.joints)


def test_a_chunk_that_would_lie_elsewhere_is_let_go_and_a_near_one_is_not():
    """The distance is that of the first flow step, in radians, of the actions that are drawn."""
    frames, found = followed(policy("never"), method="dense")[1][:2], {}
    for apart_rad in (0.0, 1e-6, 3.0):
        of = policy("never", apart_rad)
        made = engine(of, "dense")
        found[apart_rad] = [made.step(obs).chunk.joints for obs in frames][1]
    free = engine(policy(overlap=0), "dense")
    alone = [free.step(obs).chunk.joints for obs in frames][1]
    assert np.allclose(found[1e-6], alone, atol=1e-6), "however near it was, this was too far"
    assert np.array_equal(found[3.0], found[0.0]) and np.abs(found[0.0] - alone).max() > 1e-4


def test_the_distance_is_in_radians_of_the_joints_that_are_drawn():
    of = policy(apart_rad=0.1)
    follow = of.follow
    follow.weight.zero_()
    follow.weight[:2, :8] = 1.0
    error = torch.zeros_like(follow.target)
    error[1, 3], error[1, 7], error[4, 0] = 2.0, 100.0, 100.0  # the gripper, and an action that is not drawn
    assert float(follow.apart(error)) == pytest.approx(2.0 * of.normaliser.action_std[1][3])
