"""The pi0 family, batched: vision tower, language model as a bidirectional prefix, flow-matching action expert.

Two savings are exact and built in. Of the LM's last layer only K and V are read, so nothing else of it exists. The
state token of pi0 sees the prefix and itself but no action, so its K/V do not depend on noise or time: it runs once per
prefix, and the actions then see prefix, state and one another without any causal mask. pi0.5 has no such token.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ecovla_ros.errors import ObservationError, unknown
from ecovla_ros.models.core.layers import (
    Block,
    Blocks,
    Extend,
    KeyValue,
    RMSNorm,
    Rope,
    Use,
    key_mask,
    rope_tables,
    run,
)
from ecovla_ros.models.core.modulation import Modulation, Modulator
from ecovla_ros.models.pi.config import PiConfig
from ecovla_ros.models.pi.vision import Siglip, Stem

KV = tuple[Tensor, Tensor]
"""Post-rotary K and V of one layer, each (B, kv_heads, L, head_dim)."""


class PiModel(nn.Module):
    """B observations at once, and R flow draws for each: for training, and the reference of `PiPolicy`."""

    rope_cos: Tensor
    rope_sin: Tensor

    def __init__(self, config: PiConfig) -> None:
        super().__init__()
        self.config = config
        stem = config.vision == "stem"
        self.vision: nn.Module = Stem(config) if stem else Siglip(config)
        self.projector = nn.Linear(config.vision_width, config.lm_width)
        self.camera = nn.Parameter(torch.randn(len(config.cameras), config.lm_width) * 0.02) if stem else None
        self.embedding = nn.Parameter(torch.randn(config.vocab, config.lm_width) * config.lm_width**-0.5)
        self.lm = _blocks(config, config.lm_width, config.lm_mlp, config.layers - 1)
        self.lm_last = KeyValue(config.lm_width, config.kv_heads, config.head_dim, config.norm_eps)
        width, modulated = config.expert_width, config.variant == "pi05"
        self.expert = _blocks(config, width, config.expert_mlp, config.layers, modulated)
        self.expert_norm = RMSNorm(width, config.norm_eps, weighted=not modulated)
        self.modulator = Modulator(width, 2 * config.layers + 1) if modulated else None
        self.state_in = None if modulated else nn.Linear(config.state_dim, width)
        self.action_in = nn.Linear(config.action_dim, width)
        self.time_in, self.time_out = nn.Linear((1 if modulated else 2) * width, width), nn.Linear(width, width)
        self.action_out = nn.Linear(width, config.action_dim)
        cos, sin = rope_tables(config.max_prefix + 1 + config.horizon, config.head_dim, config.rope_theta)
        self.register_buffer("rope_cos", cos, persistent=False)
        self.register_buffer("rope_sin", sin, persistent=False)

    def vision_tokens(self, images: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Images to tower output (B, N, vision_width), by camera: uint8 (B, H, W, 3) or float (B, 3, H, W) in [-1, 1].

        The tower runs once for all cameras. Raises ObservationError for a camera the model does not have.
        """
        for name in images:
            if name not in self.config.cameras:
                raise ObservationError(unknown("camera", name, self.config.cameras))
        tokens = self.vision(torch.cat(list(images.values())))
        return dict(zip(images, tokens.chunk(len(images))))

    def project(self, tokens: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tower output (B, N, vision_width) to LM tokens (B, N, lm_width); the stem's get their camera's embedding."""
        out = {name: self.projector(t) for name, t in tokens.items()}
        if self.camera is not None:
            out = {name: t + self.camera[self.config.cameras.index(name)] for name, t in out.items()}
        return out

    def embed_prompt(self, ids: Tensor) -> Tensor:
        """Token ids (B, T) to embeddings (B, T, lm_width), scaled by sqrt(lm_width) as Gemma does."""
        return F.embedding(ids, self.embedding) * self.config.lm_width**0.5

    def prefix(self, tokens: Tensor, mask: Tensor | None = None) -> tuple[list[KV], Tensor]:
        """LM over the prefix (B, S, lm_width), bidirectional among the positions where `mask` (B, S) is True.

        Positions count the unmasked tokens, as transformers' PI0 does. Returns K/V of every layer and the hidden state
        before the last layer (B, S, lm_width).
        """
        rope = self.rope(None if mask is None else mask.long().cumsum(1) - 1, 0, tokens.shape[1])
        kv: list[KV] = []
        hidden = run(self.lm, tokens, rope, [partial(_keep, kv)] * len(self.lm), key_mask(mask))
        kv.append(self.lm_last.keys_values(hidden, rope))
        return kv, hidden

    def velocity(self, kv: Sequence[KV], mask: Tensor | None, state: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Flow velocity (B * R, H, action_dim) of the noisy actions x_t (B * R, H, action_dim) at times t (B * R,).

        `kv`, `mask` (B, S) and `state` (B, state_dim) are of B prefixes; draws b * R .. b * R + R - 1 are of prefix b.
        """
        draws, horizon = len(x_t) // len(state), x_t.shape[1]
        start = None if mask is None else mask.long().sum(1, keepdim=True)
        past, seen = self.state_kv(kv, mask, state, start)
        before = self.config.state_tokens
        if seen is not None and start is not None:
            seen = F.pad(seen.repeat_interleave(draws, 0), (0, horizon), value=True)
            start = start.repeat_interleave(draws, 0) + torch.arange(before, before + horizon, device=x_t.device)
        rope = self.rope(start, kv[0][0].shape[2] + before, horizon)
        x = self.embed_actions(x_t, t).to(self.action_in.weight.dtype)
        uses, last = self.modulate(t)
        x = run(self.expert, x, rope, [partial(_append, *layer) for layer in past], key_mask(seen), uses)
        return self.action_out(self.expert_norm(x, last))

    def state_kv(
        self, kv: Sequence[KV], mask: Tensor | None, state: Tensor, position: Tensor | None
    ) -> tuple[list[KV], Tensor | None]:
        """K/V of prefix and state token (B, G, S + 1, head_dim) per layer, and the mask (B, S + 1) that fits.

        pi0.5 has no state token: K/V of the prefix, and its mask.
        """
        if self.state_in is None:
            return list(kv), None if mask is None else mask.bool()
        seen = None if mask is None else F.pad(mask.bool(), (0, 1), value=True)
        rope = self.rope(position, kv[0][0].shape[2], 1)
        past: list[KV] = []
        extends: list[Extend] = [partial(_append_keep, past, *layer) for layer in kv]
        x = self.state_in(state)[:, None].to(self.state_in.weight.dtype)
        x = run(list(self.expert)[:-1], x, rope, extends, key_mask(seen))
        extends[-1](*self.expert[-1].attention.keys_values(x, rope))
        return past, seen

    def embed_actions(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Noisy actions (B, H, action_dim) and times (B,) to expert tokens (B, H, expert_width)."""
        actions = self.action_in(x_t)
        if self.modulator is not None:
            return actions
        times = self.time_embedding(t)[:, None].to(actions.dtype).expand_as(actions)
        return self.time_out(F.silu(self.time_in(torch.cat((actions, times), -1))))

    def modulate(self, t: Tensor) -> tuple[list[Use] | None, Modulation | None]:
        """What times (B,) make of the expert's blocks and of its last norm (pi0.5); pi0: nothing."""
        if self.modulator is None:
            return None, None
        waves = self.time_embedding(t).to(self.time_in.weight.dtype)
        *blocks, last = self.modulator(F.silu(self.time_out(F.silu(self.time_in(waves)))))
        return [Use(modulation=pair) for pair in zip(blocks[::2], blocks[1::2])], last

    def time_embedding(self, t: Tensor) -> Tensor:
        """Sine and cosine of t (B,) with log-spaced periods, (B, expert_width), float32 (pi0)."""
        low, high = self.config.min_period, self.config.max_period
        fraction = torch.linspace(0.0, 1.0, self.config.expert_width // 2, dtype=torch.float32, device=t.device)
        angle = t.float()[:, None] * (2.0 * math.pi / (low * (high / low) ** fraction))
        return torch.cat((angle.sin(), angle.cos()), 1)

    def rope(self, positions: Tensor | None, start: int, length: int) -> Rope:
        """Rotary tables at `positions` (B, L), or at start .. start + length - 1 when None."""
        index = slice(start, start + length) if positions is None else positions.clamp(min=0)
        cos, sin = self.rope_cos[index], self.rope_sin[index]
        return Rope(cos.unsqueeze(-2), sin.unsqueeze(-2))


def _blocks(config: PiConfig, width: int, mlp: int, count: int, modulated: bool = False) -> Blocks:
    heads = (config.heads, config.kv_heads, config.head_dim)
    return Blocks(Block(width, mlp, *heads, config.norm_eps, config.layers, modulated) for _ in range(count))


def _keep(kept: list[KV], k: Tensor, v: Tensor) -> KV:
    kept.append((k, v))
    return k, v


def _append(past_k: Tensor, past_v: Tensor, k: Tensor, v: Tensor) -> KV:
    """Past of B prefixes before K/V of B * R draws; the past is read once for all draws of a prefix."""
    joined = []
    for past, new in ((past_k, k), (past_v, v)):
        batch = len(past)
        new = new.unflatten(0, (batch, -1))
        joined.append(torch.cat((past[:, None].expand(-1, new.shape[1], -1, -1, -1), new), 3).flatten(0, 1))
    return joined[0], joined[1]


def _append_keep(kept: list[KV], past_k: Tensor, past_v: Tensor, k: Tensor, v: Tensor) -> KV:
    return _keep(kept, *_append(past_k, past_v, k, v))
