"""Engines on the device at hand, a GPU where there is one: what test/gpu compares.

On a CPU the same laws run on small models, with the function itself in the place of a graph and a thread in the place
of the side stream: so that the tests themselves are tried wherever the suite runs. ECOVLA_GPU_TESTS=cpu asks for that
on a machine with a GPU too.
"""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

from ecovla_ros import build, config
from ecovla_ros.bench import scenes
from ecovla_ros.engine.engine import Engine
from ecovla_ros.engine.graphs import Graphed
from ecovla_ros.engine.recorder import EagerRecorder
from ecovla_ros.engine.streams import Deferred, Inline, streams_for
from ecovla_ros.models import shapes
from support import all_models

CUDA = torch.cuda.is_available() and os.environ.get("ECOVLA_GPU_TESTS") != "cpu"
DEVICE = torch.device("cuda" if CUDA else "cpu")
needs_cuda = pytest.mark.skipif(not CUDA, reason="needs a GPU that CUDA can use")

FAMILIES = ("pi0", "pi05", "oft", "cogact")
REDUCED = {"pi0": "pi0-reduced", "pi05": "pi05-reduced", "oft": "openvla-oft-reduced", "cogact": "cogact-reduced"}
STREAMS = {
    "side": lambda: streams_for(DEVICE),
    "behind": lambda: streams_for(DEVICE, behind_frame=True),
    "inline": Inline,
    "deferred": Deferred,
}
"""A CUDA stream, beside the action head or behind the frame, or a worker thread; at once; as late as allowed."""


def settings(model="mini", **changes):
    """Configuration of the device at hand; `changes` by dotted name with "__" for the dot."""
    dotted = {name.replace("__", "."): value for name, value in changes.items()}
    base = {"policy.model": model, "policy.device": DEVICE.type, "policy.threads": 4 if CUDA else 1}
    return config.override(config.Config(), **base, **dotted)


def family(name, dtype="float32", device=DEVICE, **changes):
    """A policy of a family with random weights: at reduced width on a GPU, small on a CPU.

    The same weights on every device: they are drawn on the CPU.
    """
    if not CUDA:
        return all_models.policy(name)
    drawn = shapes.random_weights

    def on_cpu(make, device, dtype, seed):
        made = drawn(make, "cpu", torch.float32, seed).to(device)
        for weight in made.parameters():  # tables stay as they are
            weight.data = weight.data.to(dtype)
        return made

    shapes.random_weights = on_cpu
    try:
        own = settings(REDUCED[name], policy__dtype=dtype, **changes)
        return build.policy(config.override(own, **{"policy.device": torch.device(device).type}).policy)
    finally:
        shapes.random_weights = drawn


def captured(policy):
    """The policy as graphs, or as what a CPU has in their place."""
    return build.captured(policy, settings().policy) if CUDA else Graphed(policy, EagerRecorder())


def frames(policy, count, seed=0):
    """Scripted observations: a scene that stands still, then changes; short, so that both come."""
    scripted = [f.observation for f in scenes.stream(policy.spec, scenes.CALM_FRAMES + count, seed)]
    return scripted[scenes.CALM_FRAMES - count // 2 :][:count]


def answers(policy, prune, streams, observations, warm=True, before=(), ahead=CUDA):
    """Chunks (n, H, 8), pattern ids and frame kinds of a new engine over the observations; `before`: those of another
    episode, which comes first."""
    engine = Engine(policy, prune, streams, ahead=ahead and prune.refresh == "probe")
    if warm:
        engine.warm_up()
    for obs in before:
        engine.step(obs)
    if before:
        engine.reset(0)
    steps = [engine.step(obs) for obs in observations]
    engine.close()
    chunks = np.stack([np.c_[s.chunk.joints, s.chunk.gripper] for s in steps])
    return chunks, [s.report.pattern_id for s in steps], [s.report.kind for s in steps]
