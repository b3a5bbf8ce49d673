"""`PiModel` at batch 1: encode, prefill, act, decode, over K/V buffers that are allocated once.

Exact savings against the batched model: no prompt padding, only the cameras that are there, the prompt embedded once
per instruction, the time embedding once per step, the state token once per frame.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ecovla_ros.errors import CheckpointError
from ecovla_ros.models.base import DENSE, Plan, PolicySpec, Seen, Site
from ecovla_ros.models.pi.cache import Cache
from ecovla_ros.models.pi.config import PiConfig
from ecovla_ros.models.pi.inputs import camera_images, joint_state
from ecovla_ros.models.pi.layers import Use, run
from ecovla_ros.models.pi.model import PiModel
from ecovla_ros.models.pi.normalise import Normaliser
from ecovla_ros.models.pi.prompt import Prompt
from ecovla_ros.models.pi.sites import sites, uses
from ecovla_ros.types import ActionChunk, Observation


@dataclass(frozen=True)
class Handoff:
    """What `act` reads of a prefill: the caches hold its K/V until the next prefill."""

    length: int
    """Prefix tokens S."""


@dataclass(frozen=True)
class FlowSteps:
    """The part of the action embedding that depends on the step alone."""

    action: Tensor
    """Action columns of `time_in` after `action_in`, folded: (expert_width, action_dim)."""
    bias: Tensor
    """(steps, expert_width): biases, and the time columns of `time_in` at the time of each step."""


class PiPolicy:
    """One policy of the pi0 family (see models/base.py `Policy`). Its weights are its own: sites reorder them."""

    def __init__(
        self,
        model: PiModel,
        spec: PolicySpec,
        normaliser: Normaliser,
        prompt: Prompt,
        flow_steps: int = 0,
        calibration: Mapping[str, Tensor] | None = None,
    ) -> None:
        """`flow_steps` 0: as the checkpoint says. Raises CheckpointError where model, spec and tokenizer do not fit."""
        self.config = model.config
        self.model = model.requires_grad_(False).eval()
        _check(self.config, spec, normaliser, prompt)
        self.spec, self.normaliser, self.prompt = spec, normaliser, prompt
        self.flow_steps = flow_steps or self.config.flow_steps
        self.calibration: dict[str, Tensor] = dict(calibration or {})
        """Site key -> calibration energies (C * unit,), float32, channel order."""
        self.sites: tuple[Site, ...] = sites(model, self.flow_steps)
        weight = model.state_in.weight
        self.device, self.dtype = weight.device, weight.dtype
        self._cache = [Cache(self.config, weight) for _ in range(self.config.layers)]
        self._steps = flow_step_parts(model, self.flow_steps)
        self._instruction: tuple[str, Tensor] | None = None

    @torch.inference_mode()
    def encode(self, obs: Observation) -> Seen:
        """Check, resize, run the vision tower on the cameras that are there, embed prompt and state.

        Raises ObservationError for a wrong camera, image, instruction or state.
        """
        images = camera_images(obs.images, self.config)
        joints, gripper = joint_state(obs)
        prompt = self._embed(obs.instruction)
        pixels = {name: torch.from_numpy(image)[None].to(self.device) for name, image in images.items()}
        tokens = self.model.project(self.model.vision_tokens(pixels))
        prefix = torch.cat([*(t[0] for t in tokens.values()), prompt])
        parts = prefix.split([*(t.shape[1] for t in tokens.values()), len(prompt)])
        state = torch.zeros(self.config.state_dim)
        state[: len(joints) + 1] = torch.from_numpy(self.normaliser.state(joints, gripper))
        return Seen(dict(zip(tokens, parts)), prefix, state.to(self.device, self.dtype), obs)

    @torch.inference_mode()
    def prefill(self, seen: Seen, plan: Plan) -> Handoff:
        """LM over the prefix into the caches. An earlier hand-off is void afterwards."""
        length, rope = len(seen.prefix), self.model.rope(None, 0, len(seen.prefix))
        extends = [partial(cache.write, 0) for cache in self._cache]
        use = uses("lm", len(self.model.lm), plan)
        hidden = run(self.model.lm, seen.prefix[None], rope, extends, None, use)
        extends[-1](*self.model.lm_last.keys_values(hidden, rope))
        return Handoff(length)

    @torch.inference_mode()
    def act(self, seen: Seen, handoff: Handoff, plan: Plan, noise: Tensor) -> Tensor:
        """Euler steps from `noise` (H, action_dim), scaled, at t = 1 to normalised actions (H, action_dim) at t = 0."""
        use = uses("expert", len(self.model.expert), plan)
        self._write_state(seen.state, handoff.length, use)
        start = handoff.length + 1
        rope = self.model.rope(None, start, self.config.horizon)
        extends = [partial(cache.write, start) for cache in self._cache]
        x_t = noise.to(self.device, self.dtype) * self.config.noise_scale
        for bias in self._steps.bias:
            hidden = self.model.time_out(F.silu(F.linear(x_t, self._steps.action, bias)))
            hidden = run(self.model.expert, hidden[None], rope, extends, None, use)
            velocity = self.model.action_out(self.model.expert_norm(hidden))[0]
            x_t = torch.add(x_t, velocity, alpha=-1.0 / self.flow_steps)
        return x_t

    def decode(self, seen: Seen, actions: Tensor) -> ActionChunk:
        """Normalised actions (H, action_dim) to joint targets around the observed joints: the one copy to the host."""
        obs = seen.observation
        joints, gripper = self.normaliser.targets(actions[:, :8].float().cpu().numpy(), obs.joints)
        return ActionChunk(obs.stamp_ns, self.spec.period_s, joints, gripper)

    def warm_up(self) -> None:
        """Every instruction it was trained on (any text: its longest prompt), once, dense, on a grey image."""
        size = self.config.image_size
        images = {name: np.full((size, size, 3), 127, np.uint8) for name in self.config.cameras}
        noise = torch.zeros(self.config.horizon, self.config.action_dim)
        for text in self.spec.instructions or (self.prompt.example(),):
            seen = self.encode(Observation(0, images, np.zeros(7), 0.0, text))
            self.decode(seen, self.act(seen, self.prefill(seen, DENSE), DENSE, noise))

    def _write_state(self, state: Tensor, position: int, use: list[Use]) -> None:
        """The state token through the expert; of its last layer only K and V are read."""
        rope = self.model.rope(None, position, 1)
        extends = [partial(cache.write, position) for cache in self._cache]
        hidden = run(list(self.model.expert)[:-1], self.model.state_in(state)[None, None], rope, extends, None, use)
        extends[-1](*self.model.expert[-1].attention.keys_values(hidden, rope))

    def _embed(self, instruction: str) -> Tensor:
        """Prompt embeddings (T, lm_width), kept while the instruction stays."""
        if self._instruction is None or self._instruction[0] != instruction:
            ids = torch.tensor([self.prompt.ids(instruction)], device=self.device)
            self._instruction = (instruction, self.model.embed_prompt(ids)[0])
        return self._instruction[1]


@torch.inference_mode()
def flow_step_parts(model: PiModel, steps: int) -> FlowSteps:
    """Fold action_in into time_in, and run time_in on the time embeddings of all steps: exact up to rounding."""
    width = model.config.expert_width
    on_action, on_time = (w.float() for w in model.time_in.weight.split(width, 1))
    times = 1.0 - torch.arange(steps, dtype=torch.float32, device=on_time.device) / steps
    constant = model.time_in.bias.float() + on_action @ model.action_in.bias.float()
    bias = F.linear(model.time_embedding(times), on_time) + constant
    dtype = model.time_in.weight.dtype
    return FlowSteps((on_action @ model.action_in.weight.float()).to(dtype), bias.to(dtype))


def _check(config: PiConfig, spec: PolicySpec, normaliser: Normaliser, prompt: Prompt) -> None:
    size = (config.image_size, config.image_size)
    expected = {name: size for name in config.cameras}
    if {name: tuple(hw) for name, hw in spec.cameras.items()} != expected:
        raise CheckpointError(f"cameras of the specification {dict(spec.cameras)} are not the model's: {expected}")
    for name, value in (("horizon", config.horizon), ("action_dim", config.action_dim)):
        if getattr(spec, name) != value:
            raise CheckpointError(f"{name} of the specification is {getattr(spec, name)}, the model's is {value}")
    rows = len(normaliser.action_mean)
    if rows != config.horizon:
        raise CheckpointError(f"normalisation has statistics of {rows} actions; the horizon is {config.horizon}")
    if prompt.size > config.vocab or prompt.max_tokens > config.max_prompt:
        raise CheckpointError(
            f"tokenizer of {prompt.size} tokens, prompts to {prompt.max_tokens}; the model takes {config.vocab} "
            f"and {config.max_prompt}"
        )
    if min(config.state_dim, config.action_dim) < 8:
        raise CheckpointError("state_dim and action_dim must be at least 8: seven joints and the gripper")
