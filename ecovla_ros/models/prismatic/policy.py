"""What the two Prismatic policies share at batch 1: observations in, joint targets out (see models/base.py)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ecovla_ros.models.base import PolicySpec, Seen, Staged
from ecovla_ros.models.core.cache import Cache
from ecovla_ros.models.core.layers import Use, pack
from ecovla_ros.models.core.policy import BatchOnePolicy
from ecovla_ros.models.data.units import Units
from ecovla_ros.models.prismatic.config import PrismaticConfig
from ecovla_ros.models.prismatic.model import Prismatic, Recall
from ecovla_ros.models.prismatic.prompt import QuestionPrompt


class PrismaticPolicy(BatchOnePolicy):
    """Encoding, and the pass through the language model; the action head is the family's own."""

    config: PrismaticConfig
    vision_start = 1
    state_tokens = 0
    """Tokens between the vision tokens and the prompt's words."""

    def __init__(
        self,
        model: Prismatic,
        spec: PolicySpec,
        normaliser: Units,
        prompt: QuestionPrompt,
        calibration: Mapping[str, Tensor] | None = None,
        bucket: int = 1,
    ) -> None:
        """`bucket`: prompts are padded to a multiple of so many tokens, so that free text has few shapes; 1: never.

        Raises CheckpointError where model, spec, statistics and tokenizer do not fit.
        """
        like = model.embedding
        super().__init__(model.config, spec, normaliser, prompt, like, calibration, bucket, lead=1)
        self._prismatic = model.requires_grad_(False).eval()
        pack(model.lm)
        self.caches: list[Cache] = []
        """K/V of every layer, where they are kept from frame to frame."""

    @property
    def prefill_blocks(self) -> Sequence[Any]:
        """Layers of the language model but the last."""
        return list(self._prismatic.lm)

    @torch.inference_mode()
    def look(self, staged: Staged) -> Mapping[str, Tensor]:
        """Vision towers and projector."""
        return {name: tokens[0] for name, tokens in self._prismatic.vision_tokens(staged.images).items()}

    def lay_out(self, vision: Mapping[str, Tensor], state: Tensor, ids: Tensor) -> Tensor:
        """Vision tokens, state and prompt as one sequence."""
        return self.sequence(torch.cat(list(vision.values())), state, self._prismatic.embed_prompt(ids)[0])

    def padding(self, length: int, count: int) -> range:
        """Padding lies before the words, so that what is read lies at fixed places."""
        return range(self._first_word, self._first_word + count)

    def shown(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Within -1..1, as the published models see it."""
        return np.clip(values, -1.0, 1.0)

    def reuse_tokens(self, shares: Sequence[float], excluded: float, layer: int, similarity: float) -> None:
        """As the base; K and V of every layer are kept from frame to frame from then on."""
        super().reuse_tokens(shares, excluded, layer, similarity)
        like, shape = self._prismatic.embedding, (self.config.heads, self._prismatic.max_length, self.config.head_dim)
        self.caches = [Cache(*shape, like) for _ in range(self.config.layers)] if self.reuse is not None else []

    def sequence(self, vision: Tensor, state: Tensor, prompt: Tensor) -> Tensor:
        """The begin token, then `vision` (cameras * N, width), then the rest: (S, width)."""
        raise NotImplementedError

    def read(self, seen: Seen, rows: slice, uses: Sequence[Use]) -> Tensor:
        """Normed hidden states (len(rows), width) of a frame at `rows`, with tokens pruned or reused as is set."""
        recall = None
        if self.reuse is not None:
            recall = Recall(self.reuse, self.caches, seen.reuse, slice(self._first_word, rows.start + 1))
        out = self._prismatic.read(seen.prefix[None], rows, uses, seen.valid, self.tokens, recall, seen.gap)[0]
        self.mark(seen)
        return out

    @property
    def _first_word(self) -> int:
        """Where the prompt begins in the sequence: behind the begin token, the vision tokens and the state."""
        return 1 + len(self.config.cameras) * self.config.tokens + self.state_tokens
