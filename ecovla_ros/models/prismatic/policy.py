"""What the two Prismatic policies share at batch 1: observations in, joint targets out (see models/base.py)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ecovla_ros.models.base import DENSE, Plan, PolicySpec, Seen, Site
from ecovla_ros.models.core.cache import Cache
from ecovla_ros.models.core.fastv import TokenPruning
from ecovla_ros.models.core.layers import Use
from ecovla_ros.models.core.staging import Embedded, Staging
from ecovla_ros.models.core.vla_cache import Reuse, ReuseCounts
from ecovla_ros.models.data.compatibility import example_texts, must_fit
from ecovla_ros.models.data.inputs import camera_images
from ecovla_ros.models.data.normalise import Normaliser
from ecovla_ros.models.prismatic.config import PrismaticConfig
from ecovla_ros.models.prismatic.model import Prismatic, Recall
from ecovla_ros.models.prismatic.prompt import QuestionPrompt
from ecovla_ros.types import ActionChunk, Observation


class PrismaticPolicy:
    """Encoding and decoding; what lies between is the family's own. Its weights are its own: sites reorder them."""

    sites: tuple[Site, ...]
    state_tokens = 0
    """Tokens between the vision tokens and the prompt's words."""

    def __init__(
        self,
        model: Prismatic,
        spec: PolicySpec,
        normaliser: Normaliser,
        prompt: QuestionPrompt,
        calibration: Mapping[str, Tensor] | None = None,
        bucket: int = 1,
    ) -> None:
        """`bucket`: prompts are padded to a multiple of so many tokens, so that free text has few shapes; 1: never.

        Raises CheckpointError where model, spec, statistics and tokenizer do not fit.
        """
        self.config: PrismaticConfig = model.config
        model.requires_grad_(False).eval()
        highest = max(prompt.size - 1, prompt.begin, *prompt.closing)
        must_fit(self.config, spec, normaliser, highest, prompt.max_tokens)
        self.spec, self.normaliser, self.prompt = spec, normaliser, prompt
        self.calibration: dict[str, Tensor] = dict(calibration or {})
        """Site key -> calibration energies (C * unit,), float32, channel order."""
        self.device, self.dtype = model.embedding.device, model.embedding.dtype
        self._prismatic = model
        self._pixels = Staging(len(self.config.cameras), self.config.image_size, self.device)
        self.bucket = bucket
        self.tokens: TokenPruning | None = None
        self.reuse: Reuse | None = None
        self.caches: list[Cache] = []
        """K/V of every layer, where they are kept from frame to frame."""
        longest = self.config.max_prompt
        self._embed = Embedded(prompt.ids, model.embed_prompt, bucket, longest, self.device, lead=1)

    @torch.inference_mode()
    def encode(self, obs: Observation) -> Seen:
        """Check, resize, run the vision towers, embed prompt and state, and lay the sequence out.

        Raises ObservationError for a wrong camera, image, instruction or state.
        """
        images = camera_images(obs.images, self.config)
        raw = self.normaliser.observed(obs)
        prompt, padding = self._embed(obs.instruction)
        tokens = self._prismatic.vision_tokens(self._pixels.copy(images))
        state = torch.zeros(self.config.state_dim)
        state[: len(raw)] = torch.from_numpy(np.clip(raw, -1.0, 1.0))
        state = state.to(self.dtype).to(self.device, non_blocking=True)
        vision = torch.cat([t[0] for t in tokens.values()])
        prefix = self.sequence(vision, state, prompt)
        size = self.config.tokens
        views = {name: prefix[1 + i * size : 1 + (i + 1) * size] for i, name in enumerate(tokens)}
        kept = None if self.reuse is None else self.reuse.choose(obs, images, len(prefix))
        empty = range(self._first_word, self._first_word + padding)
        return Seen(views, prefix, state, obs, self._valid(len(prefix), empty), empty, kept)

    def prune_tokens(self, layer: int, ratio: float) -> None:
        """From the next frame on let `ratio` of the vision tokens leave after `layer` layers. Raises ConfigError."""
        count = len(self.config.cameras) * self.config.tokens
        self.tokens = TokenPruning.of(count, self.config.layers - 1, layer, ratio)

    def reuse_tokens(self, shares: Sequence[float], excluded: float, layer: int, similarity: float) -> None:
        """From the next frame on keep K and V of vision tokens that stand still, see `ReuseCounts.of`."""
        config, cameras = self.config, len(self.config.cameras)
        counts = ReuseCounts.of(cameras * config.tokens, config.layers, shares, excluded, layer, similarity)
        side, longest = config.image_size // config.patch, self._prismatic.max_length
        self.reuse = None if counts is None else Reuse(counts, side, cameras, 1, self.device)
        like, shape = self._prismatic.embedding, (config.heads, longest, config.head_dim)
        self.caches = [Cache(*shape, like) for _ in range(config.layers)] if counts is not None else []

    def sequence(self, vision: Tensor, state: Tensor, prompt: Tensor) -> Tensor:
        """The begin token, then `vision` (cameras * N, width), then the rest: (S, width)."""
        raise NotImplementedError

    def prefill(self, seen: Seen, plan: Plan) -> Tensor:
        """Hidden states that the action head reads."""
        raise NotImplementedError

    def mark(self, seen: Seen) -> None:
        """A probe needs its sampled inputs alone; what is reused must know whose K and V lie there."""
        if self.reuse is not None:
            self.reuse.mark(seen)

    def act(self, seen: Seen, handoff: Tensor, plan: Plan, noise: Tensor) -> Tensor:
        """Hidden states to normalised actions (H, action_dim), float32."""
        raise NotImplementedError

    def decode(self, seen: Seen, actions: Tensor) -> ActionChunk:
        """Normalised actions (H, action_dim) to joint targets around the observed joints, in new arrays."""
        if self.reuse is not None:
            self.reuse.note()
        values = actions[:, : self.normaliser.widths[1]].float().cpu().numpy()
        return self.normaliser.chunk(values, seen.observation, self.spec.period_s)

    def examples(self) -> Iterator[Observation]:
        """A grey image with every instruction it was trained on; with free text one prompt of each bucket."""
        size = self.config.image_size
        images = {name: np.full((size, size, 3), 127, np.uint8) for name in self.config.cameras}
        texts = self.spec.instructions or example_texts(
            self.prompt.example(), lambda text: len(self.prompt.ids(text)), self.bucket
        )
        for text in texts:
            yield Observation(0, images, np.zeros(7), 0.0, text, np.zeros(self.normaliser.widths[0]))

    def warm_up(self) -> None:
        """Every example once, dense."""
        noise = torch.zeros(self.config.horizon, self.config.action_dim)
        for obs in self.examples():
            seen = self.encode(obs)
            self.decode(seen, self.act(seen, self.prefill(seen, DENSE), DENSE, noise))

    def read(self, seen: Seen, rows: slice, uses: Sequence[Use]) -> Tensor:
        """Normed hidden states (len(rows), width) of a frame at `rows`, with tokens pruned or reused as is set."""
        recall = None
        if self.reuse is not None:
            recall = Recall(self.reuse, self.caches, seen.reuse, slice(self._first_word, rows.start + 1))
        out = self._prismatic.read(seen.prefix[None], rows, uses, seen.valid, self.tokens, recall)[0]
        self.mark(seen)
        return out

    @property
    def _first_word(self) -> int:
        """Where the prompt begins in the sequence: behind the begin token, the vision tokens and the state."""
        return 1 + len(self.config.cameras) * self.config.tokens + self.state_tokens

    def _valid(self, length: int, padding: range) -> Tensor | None:
        """(S,) float32, 0 where the prompt is padded: before its words, so that what is read lies at fixed places."""
        if self.bucket == 1:
            return None
        valid = torch.ones(length, device=self.device)
        valid[padding.start : padding.stop] = 0.0
        return valid
