"""Runs of an engine on the toy policy, which several tests compare."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from ecovla_ros.config import PruneConfig
from ecovla_ros.engine.engine import Engine
from ecovla_ros.models.base import Plan
from support.toy import CHANNELS, HORIZON, TOKENS, Toy, frames

BOTH = ("lm.mlp", "expert.mlp")


def run(streams, config, observations, policy=None):
    engine = Engine(policy or Toy(), config, streams)
    steps = [engine.step(obs) for obs in observations]
    engine.close()
    return steps


def chunks(steps):
    return np.stack([np.c_[s.chunk.joints, s.chunk.gripper] for s in steps])


SCENES = frames(40, change_at=(10, 25))
CONFIG = PruneConfig(
    method="ecovla", ratio=0.5, sites=BOTH, p=0.2, window=10, alpha=0.2, refresh="dense", hysteresis=0.0, cold_frames=1
)
PROBE = replace(CONFIG, refresh="probe", probe_tokens=8)


def energies(policy):
    energy, total = ({s.key: torch.zeros(CHANNELS) for s in policy.sites} for _ in range(2))
    plan, seen = Plan.recording(energy, total), policy.encode(SCENES[0])
    policy.act(seen, policy.prefill(seen, plan), plan, torch.zeros(HORIZON, 8))
    spans = {"prefill": 2 * TOKENS, "act": HORIZON}
    return energy | {f"{s.key}.mean": total[s.key] / spans[s.phase] for s in policy.sites}


class Clock:
    now, load = 0.0, 1.0

    def __call__(self) -> float:
        return self.now
