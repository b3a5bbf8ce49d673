"""Adaptive pruning for `TheirPolicy`: all that ecovla_ros must be told of a model it does not know.

Two parts. `PrunedMlp` takes the place of every gated MLP of a transformers decoder (Llama, Qwen, Mistral and Gemma name
its weights alike) and runs its first `kept` channels. `AdaptedPolicy` says which steps one frame has.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import torch
from their_policy import CAMERAS, HORIZON, SIZE, TASKS, TheirPolicy
from torch import Tensor, nn

from ecovla_ros.errors import ObservationError, unknown
from ecovla_ros.kernels.gated import gated
from ecovla_ros.models.base import DENSE, Plan, PolicySpec, Seen, Site
from ecovla_ros.models.core.layers import add_bias
from ecovla_ros.models.data.inputs import camera_images, joint_state
from ecovla_ros.prune.energy import add_energy, add_samples
from ecovla_ros.types import ActionChunk, Observation

IMAGES = SimpleNamespace(cameras=CAMERAS, optional_cameras=False, fit="area", image_size=SIZE)
"""What images it takes: others are resized, a missing one is an error."""


class PrunedMlp(nn.Module):
    """The same function as the MLP it replaces, through as many leading channels as the plan keeps."""

    def __init__(self, key: str, mlp: nn.Module) -> None:
        super().__init__()
        self.gate, self.up = mlp.gate_proj.weight.detach(), mlp.up_proj.weight.detach()
        self.down = mlp.down_proj.weight.detach().t().contiguous()  # channels are rows in every weight
        self.plan = DENSE
        weights = (self.gate, self.up), self.down
        self.site = Site(key, "lm.mlp", "prefill", len(self.gate), 1, *weights, hidden=self.hidden, activation="silu")

    def hidden(self, x: Tensor, tokens: Tensor | None, first: int, last: int) -> Tensor:
        return gated(x, self.gate[first:last], self.up[first:last], "silu")

    def forward(self, x: Tensor) -> Tensor:
        use = self.plan.use(self.site.key)
        kept = self.site.channels if use.kept is None else use.kept
        hidden = self.hidden(x[0], None, 0, kept)
        add_energy(use, hidden)
        add_samples(use, x[0], hidden)
        return add_bias(hidden @ self.down[:kept], use.bias)[None]


class AdaptedPolicy:
    """What the engine asks of a policy (ecovla_ros/models/base.py, `Policy`)."""

    def __init__(self, theirs: TheirPolicy) -> None:
        self.theirs = theirs.eval().requires_grad_(False)
        self.spec = PolicySpec("theirs", {c: (SIZE, SIZE) for c in CAMERAS}, HORIZON, 0.1, instructions=TASKS)
        self.device = theirs.queries.device
        layers = theirs.decoder.layers
        self.mlps = [PrunedMlp(f"lm.{i}.mlp", layer.mlp) for i, layer in enumerate(layers)]
        for layer, mlp in zip(layers, self.mlps):
            layer.mlp = mlp
        self.sites = [mlp.site for mlp in self.mlps]

    @torch.inference_mode()
    def encode(self, obs: Observation) -> Seen:
        if obs.instruction not in TASKS:
            raise ObservationError(unknown("instruction", obs.instruction, TASKS))
        joint_state(obs)  # raises ObservationError where a joint is missing or not finite
        images = np.stack(list(camera_images(obs.images, IMAGES).values()))
        vision = self.theirs.look(torch.from_numpy(images).to(self.device))
        prefix = self.theirs.read(vision.flatten(0, 1), obs.instruction)
        return Seen(dict(zip(CAMERAS, vision)), prefix, torch.zeros(0), obs)

    @torch.inference_mode()
    def prefill(self, seen: Seen, plan: Plan) -> Tensor:
        for mlp in self.mlps:
            mlp.plan = plan
        return self.theirs.think(seen.prefix)

    def mark(self, seen: Seen) -> None:
        """A probe of an MLP needs nothing but the sampled inputs."""

    def act(self, seen: Seen, handoff: Tensor, plan: Plan, noise: Tensor) -> Tensor:
        return self.theirs.head(handoff).float()  # a regression: no noise, no steps

    def to_chunk(self, seen: Seen, actions: Tensor) -> ActionChunk:
        values, obs = actions.double().numpy(), seen.observation
        return ActionChunk(obs.stamp_ns, self.spec.period_s, obs.joints + values[:, :7], values[:, 7].clip(0.0, 1.0))

    def examples(self) -> Iterator[Observation]:
        images = {camera: np.full((SIZE, SIZE, 3), 127, np.uint8) for camera in CAMERAS}
        return (Observation(0, images, np.zeros(7), 0.0, task) for task in TASKS)

    def warm_up(self) -> None:
        for obs in self.examples():
            self.prefill(self.encode(obs), DENSE)
