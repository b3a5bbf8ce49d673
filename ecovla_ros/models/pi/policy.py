"""`PiModel` at batch 1: encode, prefill, act, to_chunk, over K/V buffers that are allocated once.

Exact savings against the batched model: no prompt padding beyond its bucket, only cameras that are there, the prompt
embedded once per instruction, the time embedding once per step, the state token once per frame.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ecovla_ros.errors import ConfigError
from ecovla_ros.models.base import Plan, PolicySpec, Seen, Site, Staged
from ecovla_ros.models.core.cache import Cache
from ecovla_ros.models.core.context import PrefixContext
from ecovla_ros.models.core.fastv import Span, TokenPruning, fewer, shortened
from ecovla_ros.models.core.keys import Keys
from ecovla_ros.models.core.layers import Extend, LastNorm, Rope, pack
from ecovla_ros.models.core.policy import BatchOnePolicy
from ecovla_ros.models.core.uses import uses
from ecovla_ros.models.data.normalise import Normaliser
from ecovla_ros.models.data.prompt import Prompt, state_bins, state_prompt
from ecovla_ros.models.data.units import Units
from ecovla_ros.models.pi.chunking import RealTimeChunking
from ecovla_ros.models.pi.config import PiConfig
from ecovla_ros.models.pi.model import PiModel
from ecovla_ros.models.pi.sites import sites
from ecovla_ros.models.pi.steps import flow_step_parts
from ecovla_ros.prune.site import Hidden
from ecovla_ros.types import ActionChunk


@dataclass(frozen=True)
class Handoff:
    """What `act` reads of a prefill: the caches hold its K/V until the next prefill."""

    length: int
    """Prefix tokens S, padding included: where the state token lies in the caches."""
    short: Tensor | None = None
    """FastV: positions of the prefix whose K/V the later layers hold, ascending; None: all."""


class PiPolicy(BatchOnePolicy):
    """One policy of the pi0 family (see models/base.py `Policy`)."""

    config: PiConfig

    def __init__(
        self,
        model: PiModel,
        spec: PolicySpec,
        normaliser: Units,
        prompt: Prompt,
        flow_steps: int = 0,
        calibration: Mapping[str, Tensor] | None = None,
        bucket: int = 1,
    ) -> None:
        """`flow_steps` 0: as the checkpoint says. `bucket`: prompts are padded to a multiple of so many tokens, so that
        free text has few shapes; 1: not padded. Raises CheckpointError where model, spec and tokenizer do not fit.
        """
        weight = model.action_in.weight
        super().__init__(model.config, spec, normaliser, prompt, weight, calibration, bucket)
        self.model = model.requires_grad_(False).eval()
        pack((*model.lm, *model.expert))
        self.flow_steps = flow_steps or self.config.flow_steps
        self.sites: Sequence[Site] = sites(model, self.flow_steps, self._probe)
        shape = (self.config.kv_heads, self.config.max_prefix + 1 + self.config.horizon, self.config.head_dim)
        self.caches = [Cache(*shape, weight) for _ in range(self.config.layers)]
        """K/V of every layer: prefix, then state token, then actions."""
        self._steps = flow_step_parts(model, self.flow_steps)
        self.follow: RealTimeChunking | None = None
        self._release = "never"
        self._stay = torch.zeros(self.config.max_prefix, dtype=torch.int64, device=self.device)
        self._last: list[PrefixContext] = []

    @property
    def follows_chunks(self) -> bool:
        """Whether `follow_chunks` works: it normalises the last chunk again, which goes with joint actions alone."""
        return isinstance(self.normaliser, Normaliser)

    def follow_chunks(self, overlap: int, delay: int, release: str = "trigger", apart_rad: float = 0.0) -> None:
        """From the next frame on draw the first `overlap` actions of a chunk to the last one. Raises ConfigError.

        `release`: of `config.RTC_RELEASES`. `apart_rad`: see `RealTimeChunking`.
        """
        if not isinstance(self.normaliser, Normaliser):
            raise ConfigError("real-time chunking needs joint actions of this arm")
        shape = (self.config.horizon, self.config.action_dim)
        self._release = release
        self.follow = RealTimeChunking(
            self.normaliser, self.spec.period_s, shape, overlap, delay, self.device, apart_rad
        )

    @property
    def lets_go(self) -> bool:
        """Whether chunks are drawn to the chunk before until the scene changes."""
        return self.follow is not None and self._release == "trigger"

    @torch.inference_mode()
    def let_go(self) -> None:
        """The chunk of the frame that was encoded last is not drawn to the one before."""
        if self.follow is not None:
            self.follow.let_go()

    def forget_chunk(self) -> None:
        """The next chunk is drawn to none."""
        if self.follow is not None:
            self.follow.forget()

    def leave(self) -> Any:
        """The last chunk, which real-time chunking follows."""
        return None if self.follow is None else self.follow.last

    def enter(self, left: Any) -> None:
        """The last chunk was this one; None: there was none."""
        if self.follow is not None:
            self.follow.last = left

    @property
    def prefill_blocks(self) -> Sequence[Any]:
        """Layers of the language model but the last."""
        return list(self.model.lm)

    @torch.inference_mode()
    def look(self, staged: Staged) -> Mapping[str, Tensor]:
        """Vision tower on the cameras that are there."""
        tokens = self.model.project(self.model.vision_tokens(staged.images))
        return {name: of_camera[0] for name, of_camera in tokens.items()}

    def seen(self, staged: Staged, vision: Mapping[str, Tensor]) -> Seen:
        """As the base; what is left of the last chunk is laid beside the arm (real-time chunking)."""
        seen = super().seen(staged, vision)
        if self.follow is not None:
            self.follow.look(staged.observation)
        return seen

    def lay_out(self, vision: Mapping[str, Tensor], state: Tensor, ids: Tensor) -> Tensor:
        """The prompt behind the vision tokens; the state has a token of its own, or is in the prompt."""
        return torch.cat([*vision.values(), self.model.embed_prompt(ids)[0]])

    @torch.inference_mode()
    def prefill(self, seen: Seen, plan: Plan) -> Handoff:
        """LM over the prefix into the caches. An earlier hand-off is void afterwards."""
        length, blocks = len(seen.prefix), list(self.model.lm)
        keys = None if seen.gap is None else Keys(length, length, seen.gap, device=self.device)
        span = Span(seen.prefix[None], self.model.rope(None, 0, length), keys, seen.valid)
        use = uses("lm", len(blocks), plan, valid=seen.valid)
        extends: list[Extend] = [cache.at(0) for cache in self.caches]
        vision, last, short = _vision(seen), extends[-1], None
        pruning = self._fewer(vision)
        if self.reuse is not None:
            span, last = self.reuse.run(blocks, span, self.caches, use, seen.reuse, slice(vision, length))
        elif pruning is not None:
            span, stay = pruning.begin(blocks, span, extends, use, slice(0, vision), slice(vision, length))
            short = self._stay[: len(stay)].copy_(stay)
            later = [shortened(each, stay, length) for each in use[pruning.layer :]]
            span = span.through(blocks[pruning.layer :], extends[pruning.layer :], later)
        else:
            span = span.through(blocks, extends, use)
        last(*self.model.lm_last.keys_values(span.x, span.rope))
        self.mark(seen)
        return Handoff(length, short)

    def mark(self, seen: Seen) -> None:
        """The probe of query heads reads the K/V of this pass: remember its length and padding."""
        pruning, length = self._fewer(_vision(seen)), len(seen.prefix)
        short = None if pruning is None else self._stay[: length - _vision(seen) + pruning.keep]
        self._last = self._contexts(length, seen, short)
        super().mark(seen)

    @torch.inference_mode()
    def act(self, seen: Seen, handoff: Handoff, plan: Plan, noise: Tensor) -> Tensor:
        """Euler steps from scaled `noise` (H, action_dim), t = 1, to normalised actions (H, action_dim), float32."""
        before, horizon, blocks = self.config.state_tokens, self.config.horizon, len(self.model.expert)
        parts = self._contexts(handoff.length, seen, handoff.short)
        self._write_state(seen, handoff.length, parts, plan)
        rope = self._suffix_rope(seen.valid, handoff.length + before, horizon)
        runs = [part.runner(self.model.expert, self.caches, before, horizon) for part in parts]
        x_t = noise.to(self.device, torch.float32, non_blocking=True) * self.config.noise_scale
        for step in range(self.flow_steps):
            use, last = self._steps.modulate(uses("expert", blocks, plan, step, self.flow_steps), step)
            hidden = self._steps.tokens(self.model, x_t.to(self.dtype), step)[None]
            for i, run_part in enumerate(runs):
                norm = LastNorm(self.model.expert_norm, last) if i == len(runs) - 1 else None
                hidden = run_part(hidden, rope, use, norm)
            velocity = self.model.action_out(hidden)[0]
            if self.follow is not None:
                velocity = self.follow.pull(x_t, velocity.float(), 1.0 - step / self.flow_steps)
            x_t = torch.add(x_t, velocity, alpha=-1.0 / self.flow_steps)
        return x_t

    def to_chunk(self, seen: Seen, actions: Tensor) -> ActionChunk:
        """As the base; real-time chunking remembers the chunk for the next frame."""
        chunk = super().to_chunk(seen, actions)
        if self.follow is not None:
            self.follow.keep(chunk, seen.observation)
        return chunk

    def words(self, instruction: str, state: NDArray[np.float64]) -> str:
        """What the prompt says: the instruction, in pi0.5 with the normalised state (8,) behind it."""
        told = self.config.variant == "pi05" and self.config.prompt_state
        return state_prompt(instruction, state_bins(state)) if told else instruction

    def _write_state(self, seen: Seen, position: int, parts: Sequence[PrefixContext], plan: Plan) -> None:
        """The state token through the expert; of its last layer only K and V are read. It leaves no samples."""
        if self.model.state_in is None:
            return
        rope, blocks = self._suffix_rope(seen.valid, position, 1), list(self.model.expert)
        use = uses("expert", len(blocks), plan, -1, self.flow_steps)
        hidden = self.model.state_in(seen.state)[None, None]
        for part in parts:
            hidden = part.runner(blocks[:-1], self.caches, 0, 1)(hidden, rope, use, None)
        self.caches[-1].write(parts[-1].length, *blocks[-1].attention.keys_values(hidden, rope))

    def _contexts(self, length: int, seen: Seen, short: Tensor | None) -> list[PrefixContext]:
        """What the expert's layers attend to of a prefix; `short`: positions that the later layers hold (FastV)."""
        layers = self.config.layers
        if short is None or self.tokens is None:
            return [PrefixContext(0, layers, length, seen.valid, seen.gap)]
        left = None if seen.valid is None else seen.valid[short]
        gap = None if seen.gap is None else torch.searchsorted(short, seen.gap.long()).int()
        first = self.tokens.layer
        whole = PrefixContext(0, first, length, seen.valid, seen.gap)
        return [whole, PrefixContext(first, layers, len(short), left, gap, short)]

    def _fewer(self, vision: int) -> TokenPruning | None:
        """FastV for a frame of `vision` tokens: with a camera gone, the same share of what is left."""
        if self.tokens is None:
            return None
        whole = len(self.config.cameras) * self.config.tokens
        return TokenPruning(self.tokens.layer, max(1, round(self.tokens.keep * vision / whole)))

    def _suffix_rope(self, valid: Tensor | None, start: int, length: int) -> Rope:
        """Rotary tables behind the prefix: padding takes up room in the caches, and no position."""
        if valid is None:
            return self.model.rope(None, start, length)
        offset = valid.sum().long() + (start - len(valid))
        return self.model.rope((offset + torch.arange(length, device=self.device))[None], 0, 0)

    def _probe(self, phase: str, layer: int) -> Hidden:
        """The query heads of one layer for sampled inputs, over the K/V that the last pass of the phase left."""

        def heads(inputs: Tensor, tokens: Tensor, first: int, last: int) -> Tensor:
            part = next(p for p in self._last if p.first <= layer < p.last)
            acting, whole, cache = phase == "act", self._last[0].length, self.caches[layer]
            block = (self.model.expert if acting else self.model.lm)[layer].attention
            more = self.config.state_tokens + self.config.horizon if acting else 0
            if acting:
                valid = self._last[0].valid
                table = self._suffix_rope(valid, whole + self.config.state_tokens, self.config.horizon)
                rope = Rope(*(t[:, tokens] if t.dim() == 4 else t[tokens] for t in table))
            else:
                left = self._last[0].valid, part.valid
                places = tokens if part.stay is None else part.stay[fewer(tokens, part.length, whole, *left)]
                rope = self.model.rope(places[None], 0, 0)
            end = part.length + more
            keys = part.keys(len(inputs), more)
            return block.probe(inputs, rope, cache.keys[:, :, :end], cache.values[:, :, :end], keys, first, last)

        return heads


def _vision(seen: Seen) -> int:
    """Vision tokens of a frame: they come first."""
    return sum(len(tokens) for tokens in seen.vision.values())
