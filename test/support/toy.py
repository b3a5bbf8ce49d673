"""A policy of a few lines with real sites: two gated MLP layers in the prefix, one in the action head."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ecovla_ros.kernels.gated import gated
from ecovla_ros.models.base import Plan, PolicySpec, Seen, Site
from ecovla_ros.prune.energy import add_energy, add_samples
from ecovla_ros.types import ActionChunk, Observation

WIDTH, CHANNELS, TOKENS, HORIZON = 16, 128, 12, 4


class Toy:
    """Vision tokens are a fixed projection of the image; prefill and act are residual gated MLPs."""

    def __init__(self, seed: int = 0) -> None:
        g = torch.Generator().manual_seed(seed)
        self.spec = PolicySpec("toy", {"third_person": (4, 4), "wrist": (4, 4)}, HORIZON, 0.1)
        self._look = torch.randn(48, TOKENS * WIDTH, generator=g) / 7
        self._out = torch.randn(WIDTH, 8, generator=g)
        keys = (("lm.0.mlp", "prefill"), ("lm.1.mlp", "prefill"), ("expert.0.mlp", "act"))
        self.sites = [self._site(key, phase, g) for key, phase in keys]
        self.calibration: dict[str, Tensor] = {}
        self.device = torch.device("cpu")

    def _site(self, key: str, phase: str, g: torch.Generator) -> Site:
        weights = [torch.randn(CHANNELS, WIDTH, generator=g) / 4 for _ in range(3)]
        weights[2] *= torch.rand(CHANNELS, 1, generator=g) ** 4  # channels differ in importance
        group = key.split(".")[0] + ".mlp"
        gate, up, down = weights

        def hidden(inputs: Tensor, tokens: Tensor, first: int, last: int) -> Tensor:
            return gated(inputs, gate[first:last], up[first:last], "silu")

        return Site(key, group, phase, CHANNELS, 1, (gate, up), down, hidden=hidden)

    def _mlp(self, site: Site, x: Tensor, plan: Plan) -> Tensor:
        use = plan.use(site.key)
        k = site.channels if use.kept is None else use.kept
        n = x / x.square().mean(-1, keepdim=True).sqrt()
        h = site.hidden(n, None, 0, k)
        add_energy(use, h)
        add_samples(use, n, h)
        out = x + h @ site.consumer[:k]
        return out if use.bias is None else out + use.bias

    def encode(self, obs: Observation) -> Seen:
        vision = {
            name: (torch.from_numpy(image).float().flatten() / 255 @ self._look).view(TOKENS, WIDTH)
            for name, image in obs.images.items()
        }
        return Seen(vision, torch.cat(list(vision.values())), torch.zeros(8), obs)

    def prefill(self, seen: Seen, plan: Plan) -> Tensor:
        x = seen.prefix
        for site in self.sites[:2]:
            x = self._mlp(site, x, plan)
        return x.mean(0)

    def mark(self, seen: Seen) -> None:
        return

    def act(self, seen: Seen, handoff: Tensor, plan: Plan, noise: Tensor) -> Tensor:
        return self._mlp(self.sites[2], handoff + noise @ self._out.T, plan) @ self._out

    def to_chunk(self, seen: Seen, actions: Tensor) -> ActionChunk:
        values = actions.double().numpy()
        return ActionChunk(seen.observation.stamp_ns, 0.1, values[:, :7].copy(), values[:, 7].copy())

    def examples(self):
        return iter(frames(1))

    def warm_up(self) -> None:
        return


def frames(count: int, seed: int = 0, change_at: tuple[int, ...] = ()) -> list[Observation]:
    """A scene with a little camera noise that changes wholly at the given frames."""
    rng = np.random.default_rng(seed)
    scene = rng.integers(0, 255, (2, 4, 4, 3))
    out = []
    for i in range(count):
        if i in change_at:
            scene = rng.integers(0, 255, (2, 4, 4, 3))
        noisy = np.clip(scene + rng.integers(-3, 4, scene.shape), 0, 255).astype(np.uint8)
        out.append(Observation(i * 100_000_000, {"third_person": noisy[0], "wrist": noisy[1]}, np.zeros(7), 0.0, "go"))
    return out
