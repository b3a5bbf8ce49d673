"""`PiModel` at batch 1: encode, prefill, act, decode, over K/V buffers that are allocated once.

Exact savings against the batched model: no prompt padding beyond its bucket, only cameras that are there, the prompt
embedded once per instruction, the time embedding once per step, the state token once per frame.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ecovla_ros.errors import CheckpointError
from ecovla_ros.models.base import DENSE, Plan, PolicySpec, Seen, Site
from ecovla_ros.models.pi.cache import Cache
from ecovla_ros.models.pi.chunking import Follow
from ecovla_ros.models.pi.config import PiConfig
from ecovla_ros.models.pi.inputs import camera_images
from ecovla_ros.models.pi.layers import Rope, run
from ecovla_ros.models.pi.model import PiModel, key_mask
from ecovla_ros.models.pi.normalise import Normaliser
from ecovla_ros.models.pi.prompt import Prompt, state_bins, state_prompt
from ecovla_ros.models.pi.sites import sites, uses
from ecovla_ros.models.pi.steps import flow_step_parts
from ecovla_ros.prune.site import Hidden
from ecovla_ros.types import ActionChunk, Observation


@dataclass(frozen=True)
class Handoff:
    """What `act` reads of a prefill: the caches hold its K/V until the next prefill."""

    length: int
    """Prefix tokens S, padding included: where the state token lies in the caches."""


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
        bucket: int = 1,
    ) -> None:
        """`flow_steps` 0: as the checkpoint says. `bucket`: prompts are padded to a multiple of so many tokens, so that
        free text has few shapes; 1: not padded. Raises CheckpointError where model, spec and tokenizer do not fit.
        """
        self.config = model.config
        self.model = model.requires_grad_(False).eval()
        _check(self.config, spec, normaliser, prompt)
        self.spec, self.normaliser, self.prompt = spec, normaliser, prompt
        self.flow_steps = flow_steps or self.config.flow_steps
        self.calibration: dict[str, Tensor] = dict(calibration or {})
        """Site key -> calibration energies (C * unit,), float32, channel order."""
        self.sites: tuple[Site, ...] = sites(model, self.flow_steps, self._probe)
        weight = model.action_in.weight
        self.device, self.dtype, self.bucket = weight.device, weight.dtype, bucket
        self._cache = [Cache(self.config, weight) for _ in range(self.config.layers)]
        self._steps = flow_step_parts(model, self.flow_steps)
        self._instruction: tuple[str, Tensor] | None = None
        self.follow: Follow | None = None
        self._pixels = Staging(len(self.config.cameras), self.config.image_size, self.device)
        self._last: tuple[int, Tensor | None] = (0, None)

    def follow_chunks(self, overlap: int, delay: int) -> None:
        """From the next frame on draw the first `overlap` actions of a chunk to the last one. Raises ConfigError."""
        shape = (self.config.horizon, self.config.action_dim)
        self.follow = Follow(self.normaliser, self.spec.period_s, shape, overlap, delay, self.device)

    @torch.inference_mode()
    def encode(self, obs: Observation) -> Seen:
        """Check, resize, run the vision tower on the cameras that are there, embed prompt and state.

        Raises ObservationError for a wrong camera, image, instruction or state.
        """
        images = camera_images(obs.images, self.config)
        normalised = self.normaliser.observed(obs)
        if self.follow is not None:
            self.follow.look(obs)
        prompt, real = self._embed(self._words(obs.instruction, normalised))
        tokens = self.model.project(self.model.vision_tokens(self._pixels.copy(images)))
        prefix = torch.cat([*(t[0] for t in tokens.values()), prompt])
        parts = prefix.split([*(t.shape[1] for t in tokens.values()), len(prompt)])
        state = torch.zeros(self.config.state_dim)
        state[: len(normalised)] = torch.from_numpy(normalised)
        valid = None
        if self.bucket > 1:
            valid = torch.ones(len(prefix), device=self.device)
            valid[len(prefix) - len(prompt) + real :] = 0.0
        return Seen(dict(zip(tokens, parts)), prefix, state.to(self.device, self.dtype), obs, valid)

    @torch.inference_mode()
    def prefill(self, seen: Seen, plan: Plan) -> Handoff:
        """LM over the prefix into the caches. An earlier hand-off is void afterwards."""
        length, rope = len(seen.prefix), self.model.rope(None, 0, len(seen.prefix))
        extends = [partial(cache.write, 0) for cache in self._cache]
        use = uses("lm", len(self.model.lm), plan, valid=seen.valid)
        mask = None if seen.valid is None else key_mask(seen.valid[None])
        hidden = run(self.model.lm, seen.prefix[None], rope, extends, mask, use)
        extends[-1](*self.model.lm_last.keys_values(hidden, rope))
        self.mark(seen)
        return Handoff(length)

    def mark(self, seen: Seen) -> None:
        """The probe of query heads reads the K/V of this pass: remember its length and padding."""
        self._last = len(seen.prefix), seen.valid

    @torch.inference_mode()
    def act(self, seen: Seen, handoff: Handoff, plan: Plan, noise: Tensor) -> Tensor:
        """Euler steps from scaled `noise` (H, action_dim), t = 1, to normalised actions (H, action_dim), float32."""
        before, horizon, blocks = self.config.state_tokens, self.config.horizon, len(self.model.expert)
        if before:
            self._write_state(seen, handoff.length, plan)
        start = handoff.length + before
        rope, mask = self._suffix_rope(seen.valid, start, horizon), suffix_mask(seen.valid, before + horizon)
        extends = [partial(cache.write, start) for cache in self._cache]
        x_t = noise.to(self.device, torch.float32) * self.config.noise_scale
        for step in range(self.flow_steps):
            use, last = self._steps.modulate(uses("expert", blocks, plan, step, self.flow_steps), step)
            hidden = self._steps.tokens(self.model, x_t.to(self.dtype), step)
            hidden = run(self.model.expert, hidden[None], rope, extends, mask, use)
            velocity = self.model.action_out(self.model.expert_norm(hidden, last))[0]
            velocity = velocity.float()
            if self.follow is not None:
                velocity = self.follow.pull(x_t, velocity, 1.0 - step / self.flow_steps)
            x_t = torch.add(x_t, velocity, alpha=-1.0 / self.flow_steps)
        return x_t

    def decode(self, seen: Seen, actions: Tensor) -> ActionChunk:
        """Normalised actions (H, action_dim) to joint targets around the observed joints: the one copy to the host."""
        values = actions[:, : self.normaliser.widths[1]].float().cpu().numpy()
        chunk: ActionChunk = self.normaliser.chunk(values, seen.observation, self.spec.period_s)
        if self.follow is not None:
            self.follow.keep(chunk, seen.observation.instruction)
        return chunk

    def examples(self) -> Iterator[Observation]:
        """A grey image with every instruction it was trained on; with free text one prompt of each bucket."""
        size = self.config.image_size
        images = {name: np.full((size, size, 3), 127, np.uint8) for name in self.config.cameras}
        word = self.prompt.example()
        spare = self.prompt.max_tokens - len(self.prompt.ids(self._words(word, np.zeros(self.normaliser.widths[0]))))
        buckets = range(1, spare + 2, self.bucket) if self.bucket > 1 else (1,)
        for text in self.spec.instructions or tuple(" ".join([word] * n) for n in buckets):
            yield Observation(0, images, np.zeros(7), 0.0, text, np.zeros(self.normaliser.widths[0]))

    def warm_up(self) -> None:
        """Every example once, dense."""
        noise = torch.zeros(self.config.horizon, self.config.action_dim)
        for obs in self.examples():
            seen = self.encode(obs)
            self.decode(seen, self.act(seen, self.prefill(seen, DENSE), DENSE, noise))

    def _write_state(self, seen: Seen, position: int, plan: Plan) -> None:
        """The state token through the expert; of its last layer only K and V are read. It leaves no samples."""
        rope, mask = self._suffix_rope(seen.valid, position, 1), suffix_mask(seen.valid, 1)
        extends = [partial(cache.write, position) for cache in self._cache]
        use = uses("expert", len(self.model.expert), plan, -1, self.flow_steps)
        hidden = run(list(self.model.expert)[:-1], self.model.state_in(seen.state)[None, None], rope, extends, mask, use)
        extends[-1](*self.model.expert[-1].attention.keys_values(hidden, rope))

    def _words(self, instruction: str, state: NDArray[np.float64]) -> str:
        """What the prompt says: the instruction, in pi0.5 with the normalised state (8,) behind it."""
        told = self.config.variant == "pi05" and self.config.prompt_state
        return state_prompt(instruction, state_bins(state)) if told else instruction

    def _suffix_rope(self, valid: Tensor | None, start: int, length: int) -> Rope:
        """Rotary tables behind the prefix: padding takes up room in the caches, and no position."""
        if valid is None:
            return self.model.rope(None, start, length)
        offset = valid.sum().long() + (start - len(valid))
        return self.model.rope((offset + torch.arange(length, device=self.device))[None], 0, 0)

    def _probe(self, phase: str, layer: int) -> Hidden:
        """The query heads of one layer for sampled inputs, over the K/V that the last pass of the phase left."""

        def heads(inputs: Tensor, tokens: Tensor, first: int, last: int) -> Tensor:
            (length, valid), cache = self._last, self._cache[layer]
            acting = phase == "act"
            block = (self.model.expert if acting else self.model.lm)[layer].attention
            end = length + self.config.state_tokens + self.config.horizon if acting else length
            mask = suffix_mask(valid, end - length)
            if acting:
                table = self._suffix_rope(valid, length + self.config.state_tokens, self.config.horizon)
                rope = Rope(*(part[:, tokens] if part.dim() == 4 else part[tokens] for part in table))
            else:
                rope = self.model.rope(tokens[None], 0, 0)
            return block.probe(inputs, rope, cache.keys[:, :, :end], cache.values[:, :, :end], mask, first, last)

        return heads

    def _embed(self, instruction: str) -> tuple[Tensor, int]:
        """Prompt embeddings (T, lm_width), padded to a bucket, and how many are real; kept while the instruction stays."""
        if self._instruction is None or self._instruction[0] != instruction:
            ids = self.prompt.ids(instruction)
            padded = min(-(-len(ids) // self.bucket) * self.bucket, self.config.max_prompt)
            row = torch.tensor([ids + [0] * (padded - len(ids))], device=self.device)
            self._instruction = (instruction, self.model.embed_prompt(row)[0])
            self._real = len(ids)
        return self._instruction[1], self._real


class Staging:
    """Images on their way to the device, through one pinned buffer on CUDA: the host does not wait for the copy.

    The buffer may be written again once the chunk of the frame before is on the host.
    """

    def __init__(self, cameras: int, size: int, device: torch.device) -> None:
        shape = (cameras, 1, size, size, 3)
        self._device = device
        self._pinned = torch.empty(shape, dtype=torch.uint8, pin_memory=True) if device.type == "cuda" else None

    def copy(self, images: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
        """Camera -> uint8 (1, H, W, 3) on the device."""
        if self._pinned is None:
            return {name: torch.from_numpy(image)[None] for name, image in images.items()}
        for row, image in zip(self._pinned, images.values()):
            row[0].numpy()[:] = image
        there = self._pinned[: len(images)].to(self._device, non_blocking=True)
        return dict(zip(images, there))


def suffix_mask(valid: Tensor | None, more: int) -> Tensor | None:
    """Keys (1, 1, 1, S + more) that may be seen: those of `valid` (S,), and all `more` behind them."""
    return None if valid is None else key_mask(F.pad(valid, (0, more), value=1.0)[None])


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
    for name, needed in zip(("state_dim", "action_dim"), normaliser.widths):
        if getattr(config, name) < needed:
            raise CheckpointError(f"{name} must be at least {needed}, as the data's; it is {getattr(config, name)}")
