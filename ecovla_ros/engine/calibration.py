"""Where histories start: mean energies and activations of every site over some frames, recorded dense."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from ecovla_ros.errors import ObservationError, PruningError
from ecovla_ros.models.base import Plan, Policy
from ecovla_ros.types import Observation


def flow_noise(policy: Policy, seed: int) -> Tensor:
    """What an episode of an engine starts its flow from, (H, action_dim), where the policy is."""
    spec = policy.spec
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((spec.horizon, spec.action_dim), generator=generator).to(policy.device)


@torch.inference_mode()
def calibration(
    policy: Policy,
    observations: Iterable[Observation],
    noise: Tensor,
    refused: Callable[[Observation, ObservationError], None] | None = None,
) -> dict[str, Tensor]:
    """Mean energy per frame (site key -> (R,)) and mean activation (key + ".mean" -> (R,)), float32, channel order.

    The rows of `policy` must lie in channel order. `noise` (H, action_dim). `refused`: is told of an observation that
    the policy does not take, which is then passed over. Raises PruningError without observations, or where their
    energies are not finite; without `refused` also ObservationError.
    """
    device = {s.key: s.consumer.device for s in policy.sites}
    energy, total = ({s.key: torch.zeros(s.rows, device=device[s.key]) for s in policy.sites} for _ in range(2))
    plan, frames, prefixes = Plan.recording(energy, total), 0, 0
    for obs in observations:
        try:
            seen = policy.encode(obs)
        except ObservationError as error:
            if refused is None:
                raise
            refused(obs, error)
            continue
        policy.act(seen, policy.prefill(seen, plan), plan, noise)
        frames, prefixes = frames + 1, prefixes + len(seen.prefix) - len(seen.padding)
    if not frames:
        raise PruningError("calibration needs at least one observation")
    odd = [key for key, value in energy.items() if not torch.isfinite(value).all()]
    if odd:
        raise PruningError(f"the energies of site {odd[0]} are not finite: weights or pictures are not sound")
    tokens = {"prefill": prefixes, "act": frames * policy.spec.horizon}
    means = {f"{s.key}.mean": total[s.key] / (tokens[s.phase] * s.calls) for s in policy.sites}
    return {key: value / frames for key, value in energy.items()} | means
