"""What every family's policy does at batch 1, whatever its layers: checks, staging, warm-up, and the two token methods.

A family derives from `BatchOnePolicy` and adds `encode`, `prefill`, `act` and its sites (models/base.py `Policy`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ecovla_ros.errors import ConfigError
from ecovla_ros.models.base import DENSE, Plan, PolicySpec, Seen, Site, Staged
from ecovla_ros.models.core.fastv import TokenPruning
from ecovla_ros.models.core.staging import Images, Upload, Words
from ecovla_ros.models.core.vla_cache import Reuse, ReuseCounts
from ecovla_ros.models.data.compatibility import ModelShape, example_texts, must_fit
from ecovla_ros.models.data.inputs import CameraShape, camera_images, checked_images
from ecovla_ros.models.data.prompt import Prompt
from ecovla_ros.models.data.units import Units
from ecovla_ros.types import ActionChunk, Observation


class VlaShape(ModelShape, CameraShape, Protocol):
    """What a family's configuration says so that its policy can run at batch 1."""

    @property
    def tokens(self) -> int:
        """Vision tokens of one camera; a square number."""

    @property
    def layers(self) -> int:
        """Layers of the language model."""


class BatchOnePolicy:
    """The part of a policy that is the same in every family. Its weights are its own: sites reorder them."""

    config: VlaShape
    sites: Sequence[Site]
    vision_start = 0
    """Where the vision tokens begin in the sequence."""

    def __init__(
        self,
        config: VlaShape,
        spec: PolicySpec,
        normaliser: Units,
        prompt: Prompt,
        weight: Tensor,
        calibration: Mapping[str, Tensor] | None = None,
        bucket: int = 1,
        lead: int | None = None,
    ) -> None:
        """`weight`: any of the model's, for its device and type. `bucket`: prompts are padded to a multiple of so many
        tokens, so that free text has few shapes; 1: never. `lead`: tokens of a prompt before its padding; None: the
        padding comes last.

        Raises CheckpointError where model, spec, statistics and tokenizer do not fit.
        """
        must_fit(config, spec, normaliser, prompt.highest, prompt.max_tokens)
        self.spec, self.normaliser, self.prompt = spec, normaliser, prompt
        self.calibration: dict[str, Tensor] = dict(calibration or {})
        """Site key -> calibration energies (C * unit,), float32, channel order."""
        self.device, self.dtype, self.bucket = weight.device, weight.dtype, bucket
        self.tokens: TokenPruning | None = None
        self.reuse: Reuse | None = None
        self.config = config
        self._ids = Words(prompt.ids, bucket, config.max_prompt, self.device, lead)
        self._images = Images(len(config.cameras), config.image_size, config.fit, self.device)
        self._state = Upload((config.state_dim,), torch.float32, self.device)
        self._valids: dict[tuple[int, range], Tensor] = {}
        self._gaps: dict[range, Tensor] = {}

    def prune_tokens(self, layer: int, ratio: float) -> None:
        """From the next frame on let `ratio` of the vision tokens leave after `layer` layers. Raises ConfigError."""
        count = len(self.config.cameras) * self.config.tokens
        self.tokens = TokenPruning.of(count, self.config.layers - 1, layer, ratio)

    def reuse_tokens(self, shares: Sequence[float], excluded: float, layer: int, similarity: float) -> None:
        """From the next frame on keep K and V of vision tokens that stand still, see `ReuseCounts.of`."""
        cameras, layers = len(self.config.cameras), self.config.layers
        counts = ReuseCounts.of(cameras * self.config.tokens, layers, shares, excluded, layer, similarity)
        side = math.isqrt(self.config.tokens)
        self.reuse = None if counts is None else Reuse(counts, side, cameras, self.vision_start, self.device)

    def float8_mlp(self) -> None:
        """From now on let the prefill's gate and up run in e4m3, one scale a row. Raises ConfigError where they cannot.

        Before an engine takes the policy: what the rows are in e4m3 travels with them.
        """
        blocks: dict[str, Any] = {f"lm.{i}.mlp": block for i, block in enumerate(self.prefill_blocks)}
        if any(block.mlp.packed is None for block in blocks.values()):
            raise ConfigError("policy.mlp_dtype=float8 needs kernels of our own; valid: on CUDA, with kernels: auto")
        more = {key: block.mlp.to_float8() for key, block in blocks.items()}
        self.sites = tuple(replace(s, extra=(*s.extra, *more.get(s.key, ()))) for s in self.sites)

    @property
    def prefill_blocks(self) -> Sequence[Any]:
        """Layers of the language model whose MLP may be pruned."""
        raise NotImplementedError

    @property
    def follows_chunks(self) -> bool:
        """Whether it has `follow_chunks`: real-time chunking."""
        return False

    def encode(self, obs: Observation) -> Seen:
        """Check, resize, run the vision towers, embed prompt and state. Raises ObservationError."""
        staged = self.stage(obs)
        return self.seen(staged, self.look(staged))

    def stage(self, obs: Observation) -> Staged:
        """Images checked, resized and on their way to the device. Raises ObservationError: a wrong camera or image."""
        raw = (checked_images if self.reuse is None else camera_images)(obs.images, self.config)
        with torch.inference_mode():
            return Staged(self._images.copy(raw), obs, None if self.reuse is None else raw)

    def look(self, staged: Staged) -> Mapping[str, Tensor]:
        """Staged images to vision tokens."""
        raise NotImplementedError

    @torch.inference_mode()
    def seen(self, staged: Staged, vision: Mapping[str, Tensor]) -> Seen:
        """Prompt and state beside the vision tokens, with padding and what may be reused.

        Raises ObservationError: a wrong instruction or state.
        """
        obs = staged.observation
        values = self.normaliser.observed(obs)
        ids, padded = self._ids(self.words(obs.instruction, values))
        state = np.zeros(self.config.state_dim, np.float32)
        state[: len(values)] = self.shown(values)
        there = self._state.copy(state).to(self.dtype)
        prefix = self.lay_out(vision, there, ids)
        length = len(prefix)
        empty = self.padding(length, padded)
        kept = None
        if self.reuse is not None and staged.squares is not None:
            kept = self.reuse.choose(obs, staged.squares, length)
        return Seen(vision, prefix, there, obs, self._valid(length, empty), empty, kept, self._gap(empty))

    def lay_out(self, vision: Mapping[str, Tensor], state: Tensor, ids: Tensor) -> Tensor:
        """The prefix (S, width) of vision tokens, normalised state (state_dim,) and token ids (1, T) of the prompt."""
        raise NotImplementedError

    def padding(self, length: int, count: int) -> range:
        """Which positions of a sequence of `length` tokens are the `count` that a prompt is padded with: the last."""
        return range(length - count, length)

    def shown(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """The normalised state as the model is shown it."""
        return values

    def prefill(self, seen: Seen, plan: Plan) -> Any:
        """Prefix to what the action head reads."""
        raise NotImplementedError

    def mark(self, seen: Seen) -> None:
        """A probe needs its sampled inputs alone; what is reused must know whose K and V lie there."""
        if self.reuse is not None:
            self.reuse.mark(seen)

    def act(self, seen: Seen, handoff: Any, plan: Plan, noise: Tensor) -> Tensor:
        """What `prefill` gave to normalised actions (H, action_dim), float32."""
        raise NotImplementedError

    def to_chunk(self, seen: Seen, actions: Tensor) -> ActionChunk:
        """Normalised actions (H, action_dim) to joint targets around the observed joints, in new arrays."""
        values = actions[:, : self.normaliser.widths[1]].float().cpu().numpy()
        chunk: ActionChunk = self.normaliser.chunk(values, seen.observation, self.spec.period_s)
        return chunk

    def examples(self) -> Iterator[Observation]:
        """A grey image with every instruction it was trained on; with free text one prompt of each bucket."""
        size = self.config.image_size
        images = {name: np.full((size, size, 3), 127, np.uint8) for name in self.config.cameras}
        still = Observation(0, images, np.zeros(7), 0.0, "", np.zeros(self.normaliser.widths[0]))
        state = self.normaliser.observed(still)
        texts = self.spec.instructions or example_texts(
            self.prompt.example(), lambda text: len(self.prompt.ids(self.words(text, state))), self.bucket
        )
        for text in texts:
            yield replace(still, instruction=text)

    def warm_up(self) -> None:
        """Every example once, dense."""
        noise = torch.zeros(self.config.horizon, self.config.action_dim)
        for obs in self.examples():
            seen = self.encode(obs)
            self.to_chunk(seen, self.act(seen, self.prefill(seen, DENSE), DENSE, noise))

    def words(self, instruction: str, state: NDArray[np.float64]) -> str:
        """What the prompt says of an instruction and the normalised state (state_dim,): the instruction alone."""
        return instruction

    def _valid(self, length: int, padding: range) -> Tensor | None:
        """(S,) float32, 0 where the prompt is padded; None where prompts are never padded."""
        if self.bucket == 1:
            return None
        if (length, padding) not in self._valids:
            valid = torch.ones(length, device=self.device)
            valid[padding.start : padding.stop] = 0.0
            self._valids[length, padding] = valid
        return self._valids[length, padding]

    def _gap(self, padding: range) -> Tensor | None:
        """(2,) int32: where the padding begins and ends; None where prompts are never padded."""
        if self.bucket == 1:
            return None
        if padding not in self._gaps:
            self._gaps[padding] = torch.tensor((padding.start, padding.stop), dtype=torch.int32, device=self.device)
        return self._gaps[padding]
