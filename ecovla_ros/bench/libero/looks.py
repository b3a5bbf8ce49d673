"""What a dense look at a frame tells of every channel, recorded beside the frame that drives."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ecovla_ros.engine.engine import Engine, Step
from ecovla_ros.models.base import Plan
from ecovla_ros.prune.energy import spread
from ecovla_ros.prune.site import Record, Site
from ecovla_ros.types import Observation

TOKENS = 32
"""m: how many tokens of a pass a probe samples, as `prune.probe_tokens`."""


class LookRecorder:
    """Runs every look once more, dense, with all channels recorded, and with what a probe would sample."""

    def __init__(self, policy: Any, seed: int = 0) -> None:
        self._policy, self._generator = policy, torch.Generator().manual_seed(seed)
        self._noise = torch.zeros(policy.spec.horizon, policy.spec.action_dim)
        self.looks: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []

    def __call__(self, engine: Engine, seen: Observation, step: Step, at: int) -> None:
        """As `episodes.Watch`."""
        self.add(seen)

    @torch.inference_mode()
    def add(self, seen: Observation) -> None:
        """Record one look."""
        encoded = self._policy.encode(seen)
        lengths = {"prefill": len(encoded.prefix), "act": self._policy.spec.horizon}
        offset = float(torch.rand((), generator=self._generator))
        tokens = {p: spread(min(TOKENS, n), n, offset) for p, n in lengths.items()}
        records = {site.key: _record(site, tokens[site.phase]) for site in self._policy.sites}
        plan = Plan(record=records)
        self._policy.act(encoded, self._policy.prefill(encoded, plan), plan, self._noise)
        sampled = {k: r.sampled for k, r in records.items() if r.sampled is not None}
        self.looks.append(({k: r.energy for k, r in records.items()}, sampled))


def _record(site: Site, tokens: Tensor) -> Record:
    producer = site.producers[0]
    inputs = torch.zeros(site.samples, len(tokens), producer.shape[1], dtype=producer.dtype)
    return Record(torch.zeros(site.rows), None, torch.zeros(site.rows), inputs, tokens)
