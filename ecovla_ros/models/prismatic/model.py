"""Prismatic: images to tokens, prompt to tokens, and Llama over both, read where an action head wants it.

Exact savings against the published code: no logits, no padding, no K/V cache, and of the last layer only the rows that
are read. The last layer's rows are never pruned: it runs on few positions, and there is next to nothing to win.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ecovla_ros.errors import ObservationError, unknown
from ecovla_ros.models.core.cache import Cache
from ecovla_ros.models.core.fastv import Span, TokenPruning, shortened
from ecovla_ros.models.core.keys import Keys, gap_of
from ecovla_ros.models.core.layers import FULL, Extend, RMSNorm, Rope, Use, rope_tables
from ecovla_ros.models.core.vla_cache import Reuse, shifted_rows
from ecovla_ros.models.prismatic.config import PrismaticConfig
from ecovla_ros.models.prismatic.layers import LlamaBlock, own
from ecovla_ros.models.prismatic.vision import Projector, Vision

OWN: Extend = own


class Prismatic(nn.Module):
    """Vision towers, projector and Llama. `max_length`: the longest sequence, tokens."""

    rope_cos: Tensor
    rope_sin: Tensor
    past: Tensor | None

    def __init__(self, config: PrismaticConfig, max_length: int, causal: bool) -> None:
        super().__init__()
        self.config, self.max_length = config, max_length
        self.vision = Vision(config)
        self.projector = Projector(config.vision_width, config.width)
        self.embedding = nn.Parameter(torch.randn(config.vocab, config.width) * config.width**-0.5)
        shape = (config.width, config.mlp, config.heads, config.head_dim, config.norm_eps, config.layers)
        self.lm = nn.ModuleList(LlamaBlock(*shape) for _ in range(config.layers - 1))
        self.lm_last = LlamaBlock(*shape)
        self.norm = RMSNorm(config.width, config.norm_eps, offset=0.0)
        cos, sin = rope_tables(max_length, config.head_dim, config.rope_theta)
        self.register_buffer("rope_cos", cos, persistent=False)
        self.register_buffer("rope_sin", sin, persistent=False)
        self.causal = causal
        """Whether a position sees only what lies before it."""

    def vision_tokens(self, images: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Images, uint8 (B, H, W, 3) or float (B, 3, H, W) in [-1, 1], to tokens (B, N, width) of Llama, by camera.

        Raises ObservationError for a camera the model does not have.
        """
        for name in images:
            if name not in self.config.cameras:
                raise ObservationError(unknown("camera", name, self.config.cameras))
        tokens = self.projector(self.vision(torch.cat(list(images.values()))))
        return dict(zip(images, tokens.chunk(len(images))))

    def embed_prompt(self, ids: Tensor) -> Tensor:
        """Token ids (B, T) to embeddings (B, T, width)."""
        return F.embedding(ids, self.embedding)

    def read(
        self,
        sequence: Tensor,
        rows: slice,
        uses: Sequence[Use] | None = None,
        valid: Tensor | None = None,
        tokens: TokenPruning | None = None,
        recall: Recall | None = None,
        gap: Tensor | None = None,
    ) -> Tensor:
        """Normed hidden states (B, len(rows), width) of Llama over `sequence` (B, S, width) at `rows`.

        `valid` (S,): 0 for padding, which is not seen and takes no position; None: no padding. `gap` (2,) int32: where
        that padding, one stretch, begins and ends; None: found from `valid`. `tokens`: vision tokens
        leave the sequence on the way; `recall`: some of them keep K and V of an earlier frame (both: B = 1, `rows`
        behind the vision tokens).
        """
        length, blocks, uses = sequence.shape[1], list(self.lm), list(uses or [FULL] * len(self.lm))
        span, extends, last = self._span(sequence, valid, gap), [own] * len(blocks), OWN
        vision = slice(1, 1 + len(self.config.cameras) * self.config.tokens)
        if recall is not None:
            span, last = recall.reuse.run(blocks, span, recall.caches, uses, recall.order, recall.prompt)
        elif tokens is not None:
            span, stay = tokens.begin(blocks, span, extends, uses, vision, rows)
            later = [shortened(use, stay, length) for use in uses[tokens.layer :]]
            span = span.through(blocks[tokens.layer :], extends, later)
        else:
            span = span.through(blocks, extends, uses)
        rows = shifted_rows(rows, span, length)
        keys = None if span.keys is None else span.keys.of(rows)
        return self.norm(self.lm_last.read(span.x, span.rope, last, rows, keys))

    def _span(self, sequence: Tensor, valid: Tensor | None, gap: Tensor | None = None) -> Span:
        length = sequence.shape[1]
        index = slice(0, length) if valid is None else (valid.long().cumsum(0) - 1).clamp(min=0)
        rope = Rope(self.rope_cos[index].unsqueeze(-2), self.rope_sin[index].unsqueeze(-2))
        gap = gap_of(valid) if gap is None and valid is not None else gap
        plain = gap is None and not self.causal
        keys = None if plain else Keys(length, length, gap, self.causal, device=sequence.device)
        return Span(sequence, rope, keys, valid)


class Recall(NamedTuple):
    """What a pass needs to keep K and V from frame to frame (models/core/vla_cache.py)."""

    reuse: Reuse
    caches: Sequence[Cache]
    """One a layer, the last layer's included."""
    order: Tensor | None
    """As `Reuse.choose` gave it."""
    prompt: slice
    """Where the prompt lies behind the vision tokens."""
