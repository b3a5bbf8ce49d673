"""Prismatic: images to tokens, prompt to tokens, and Llama over both, read where an action head wants it.

Exact savings against the published code: no logits, no padding, no K/V cache, and of the last layer only the rows that
are read. The last layer's rows are never pruned: it runs on few positions, and there is next to nothing to win.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ecovla_ros.errors import ObservationError, unknown
from ecovla_ros.models.pi.layers import FULL, RMSNorm, Rope, Use, rope_tables, run
from ecovla_ros.models.prismatic.config import PrismaticConfig
from ecovla_ros.models.prismatic.layers import LlamaBlock, own
from ecovla_ros.models.prismatic.tokens import TokenPruning, attention_to, shortened, staying
from ecovla_ros.models.prismatic.vision import Projector, Vision


class Prismatic(nn.Module):
    """Vision towers, projector and Llama. `max_length`: the longest sequence, tokens."""

    def __init__(self, config: PrismaticConfig, max_length: int, causal: bool) -> None:
        super().__init__()
        self.config = config
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
        past = torch.ones(max_length, max_length, dtype=torch.bool).tril() if causal else None
        self.register_buffer("past", past, persistent=False)

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
        self, sequence: Tensor, rows: slice, uses: Sequence[Use] | None = None, valid: Tensor | None = None,
        tokens: TokenPruning | None = None,
    ) -> Tensor:
        """Normed hidden states (B, len(rows), width) of Llama over `sequence` (B, S, width) at `rows`.

        `valid` (S,): 0 for padding, which is not seen and takes no position; None: no padding. `tokens`: vision tokens
        leave the sequence on the way (B = 1, and `rows` behind them).
        """
        length = sequence.shape[1]
        index = slice(0, length) if valid is None else (valid.long().cumsum(0) - 1).clamp(min=0)
        rope = Rope(self.rope_cos[index].unsqueeze(-2), self.rope_sin[index].unsqueeze(-2))
        mask = None if self.past is None else self.past[:length, :length]
        if valid is not None:
            keys = valid.bool().expand(length, -1)
            mask = keys if mask is None else keys & mask
        blocks, hidden, uses = list(self.lm), sequence, uses or [FULL] * len(self.lm)
        if tokens is not None:
            hidden, stay = self._look(hidden, rope, mask, uses[: tokens.layer], rows, tokens)
            uses = [shortened(use, stay, length) for use in uses[tokens.layer :]]
            rope, blocks = Rope(rope.cos[stay], rope.sin[stay]), blocks[tokens.layer :]
            mask = None if mask is None else mask[stay][:, stay]
            rows = slice(rows.start - length + len(stay), rows.stop - length + len(stay))
        hidden = run(blocks, hidden, rope, [own] * len(blocks), mask, uses)
        return self.norm(self.lm_last.read(hidden, rope, rows, None if mask is None else mask[rows]))

    def _look(
        self, x: Tensor, rope: Rope, mask: Tensor | None, uses: Sequence[Use], rows: slice, tokens: TokenPruning
    ) -> tuple[Tensor, Tensor]:
        """The first layers over all tokens: hidden states of the positions that stay, and these positions."""
        last = len(uses) - 1
        x = run(list(self.lm)[:last], x, rope, [own] * last, mask, uses[:last])
        keys: list[Tensor] = []

        def noting(k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
            keys.append(k)
            return k, v

        block = self.lm[last]
        after = run([block], x, rope, [noting], mask, uses[last:])
        scores = attention_to(block.attention, x, keys[0], rope, rows, mask)
        stay = staying(scores, 1, len(self.config.cameras) * self.config.tokens, tokens.keep)
        return after[:, stay], stay
