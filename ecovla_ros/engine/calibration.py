"""Where histories start: mean energies and activations of every site over some frames, recorded dense."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from ecovla_ros.errors import PruningError
from ecovla_ros.models.base import Plan, Policy
from ecovla_ros.types import Observation


@torch.inference_mode()
def calibration(policy: Policy, observations: Iterable[Observation], noise: Tensor) -> dict[str, Tensor]:
    """Mean energy per frame (site key -> (R,)) and mean activation (key + ".mean" -> (R,)), float32, channel order.

    The rows of `policy` must lie in channel order. `noise` (H, action_dim). Raises PruningError without observations.
    """
    device = {s.key: s.consumer.device for s in policy.sites}
    energy, total = ({s.key: torch.zeros(s.rows, device=device[s.key]) for s in policy.sites} for _ in range(2))
    plan, frames, prefixes = Plan.recording(energy, total), 0, 0
    for obs in observations:
        seen = policy.encode(obs)
        policy.act(seen, policy.prefill(seen, plan), plan, noise)
        frames, prefixes = frames + 1, prefixes + len(seen.prefix) - len(seen.padding)
    if not frames:
        raise PruningError("calibration needs at least one observation")
    tokens = {"prefill": prefixes, "act": frames * policy.spec.horizon}
    means = {f"{s.key}.mean": total[s.key] / (tokens[s.phase] * s.calls) for s in policy.sites}
    return {key: value / frames for key, value in energy.items()} | means
