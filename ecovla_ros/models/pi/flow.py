"""Flow matching with the signs of pi0: x_t = t * noise + (1 - t) * actions, velocity = noise - actions, from 1 to 0."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor

from ecovla_ros.errors import ConfigError, unknown
from ecovla_ros.models.pi.model import KV, PiModel

TIMES = ("beta", "uniform")
"""Distribution of the training times: pi0's Beta(1.5, 1), which favours noise, or uniform; both within [0.001, 1]."""


def sample_times(count: int, generator: Generator, times: str = "beta") -> Tensor:
    """Training times (count,). Beta(a, 1) by inversion: u^(1/a). Raises ConfigError for an unknown distribution."""
    if times not in TIMES:
        raise ConfigError(unknown("time distribution", times, TIMES))
    u = torch.rand(count, generator=generator, device=generator.device)
    return 0.999 * (u ** (1.0 / 1.5) if times == "beta" else u) + 0.001


def flow_loss(
    model: PiModel,
    kv: Sequence[KV],
    mask: Tensor | None,
    state: Tensor,
    actions: Tensor,
    generator: Generator,
    draws: int,
    times: str = "beta",
    weight: Tensor | None = None,
) -> Tensor:
    """Mean squared velocity error over `draws` (noise, time) pairs for each prefix; a float32 scalar.

    `kv`, `mask` as `PiModel.prefix` takes and gives them; `state` (B, state_dim); `actions` (B, H, action_dim),
    normalised; `weight` (B, H): how much each action counts (0 past the end of a demonstration), None: all alike.
    """
    target = actions.float().repeat_interleave(draws, 0)
    noise = torch.randn(target.shape, generator=generator, device=generator.device)
    t = sample_times(len(target), generator, times)
    x_t = torch.lerp(target, noise, t[:, None, None])
    error = (model.velocity(kv, mask, state, x_t, t).float() - (noise - target)).square().mean(2)
    if weight is None:
        return error.mean()
    share = weight.float().repeat_interleave(draws, 0)
    return (error * share).sum() / share.sum().clamp(min=1.0)


def euler(velocity: Callable[[Tensor, Tensor], Tensor], noise: Tensor, steps: int) -> Tensor:
    """Integrate `velocity(x_t, t)` from noise (B, H, A) at t = 1 to actions at t = 0 in equal steps; t is (B,)."""
    x, dt = noise, -1.0 / steps
    for i in range(steps):
        t = torch.full((len(noise),), 1.0 + i * dt, dtype=torch.float32, device=noise.device)
        x = x + dt * velocity(x, t)
    return x
