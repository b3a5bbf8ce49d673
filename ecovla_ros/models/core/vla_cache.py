"""VLA-Cache (arXiv 2502.02175): vision tokens whose pixels stand still keep the K and V of an earlier frame.

A token may be reused if its patch is as it was when its K and V were computed, and if the prompt does not look at it
much: what matters for the task is always computed anew, and so is all that is not vision. Later layers may leave out
more tokens than earlier ones. What differs from the published method, and why:

- Counts are fixed, so that shapes are static. A frame with too few tokens that stand still computes all of them.
- A patch is compared with the one its K and V come from, not with the last frame's: slow drift cannot add up.
- Similarity is 2 a.b / (a.a + b.b), at most the published cosine: a change in brightness alone counts as a change.
- How many tokens a layer leaves out is set, not read off the entropy of the frame before; the most similar of all
  cameras together are taken, not so many of each.

Choosing runs on the host, from pixels that are there and from attention that came back with the last chunk: no frame
waits for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ecovla_ros.errors import ConfigError
from ecovla_ros.models.base import Seen
from ecovla_ros.models.core.cache import Cache
from ecovla_ros.models.core.fastv import Noted, Span
from ecovla_ros.models.core.layers import Extend, Use
from ecovla_ros.types import Observation


@dataclass(frozen=True)
class ReuseCounts:
    """How much is reused, and what never."""

    counts: tuple[int, ...]
    """Vision tokens that layer i does not run, one entry a layer, the last layer included; they do not fall."""
    excluded: int
    """Vision tokens that are computed anew because the prompt looks at them the most."""
    layer: int
    """Whose attention says so."""
    similarity: float
    """Least similarity of a patch that stands still."""

    @classmethod
    def of(
        cls, tokens: int, layers: int, shares: Sequence[float], excluded: float, layer: int, similarity: float
    ) -> ReuseCounts | None:
        """For `tokens` vision tokens and `layers` layers. `shares`: of the tokens, for equal stretches of the layers.

        `layer` counts from 1; 0: the middle one. None where nothing is reused. Raises ConfigError for shares that fall,
        a layer that is not there, or more tokens than there are.
        """
        counts = tuple(round(shares[i * len(shares) // layers] * tokens) for i in range(layers)) if shares else (0,)
        if list(counts) != sorted(counts):
            raise ConfigError(f"VLA-Cache: shares {list(shares)} fall; valid: each at least the one before it")
        if not 0 <= layer < layers:
            raise ConfigError(f"VLA-Cache: no attention in layer {layer}; valid: 1 to {layers - 1}, 0: the middle")
        left_out = round(excluded * tokens)
        if counts[-1] + left_out > tokens or counts[-1] >= tokens:
            raise ConfigError(
                f"VLA-Cache: {counts[-1]} of {tokens} vision tokens reused and {left_out} excluded are more than there "
                "are; valid: shares that sum to at most 1, and some token that is computed"
            )
        return cls(counts, left_out, (layer or layers // 2) - 1, similarity) if counts[-1] else None


class Reuse:
    """Belongs to the inference thread: `choose` while a frame is encoded, `run` in its prefill, then `mark`."""

    def __init__(self, counts: ReuseCounts, patches: int, cameras: int, first: int, device: torch.device) -> None:
        """`patches`: of one image along a side. `first`: where the vision tokens begin in the sequence."""
        self.counts, self.first = counts, first
        self._side, self._device = patches, device
        tokens = cameras * patches**2
        self._looked = torch.zeros(tokens, device=device)
        self._scores = torch.zeros(tokens, pin_memory=device.type == "cuda")
        self._known: NDArray[np.float32] | None = None  # what the K and V come from, (tokens, pixels of a patch)
        self._key: tuple[object, ...] = ()
        self._pending: tuple[Observation, NDArray[np.float32], NDArray[np.int64] | None] | None = None
        self._made: tuple[Observation, bool] | None = None

    def choose(self, obs: Observation, images: Mapping[str, NDArray[np.uint8]], length: int) -> Tensor | None:
        """All positions (length,) int64 of the sequence, those that may keep their K and V first; None: none may.

        The ones that stand still most come first; the rest is ascending. `images` are as the model gets them. Another
        task or other cameras forget what was known.
        """
        self._settle()
        now = np.concatenate([_patches(image, self._side) for image in images.values()])
        key = (obs.instruction, tuple(images))
        if key != self._key:
            self._key, self._known = key, None
        self._pending = (obs, now, None)
        chosen = None if self._known is None else self._still(now, self._known)
        if chosen is None:
            return None
        rest = np.setdiff1d(np.arange(length), chosen + self.first)
        self._pending = (obs, now, np.setdiff1d(np.arange(len(now)), chosen))
        order = torch.from_numpy(np.concatenate((chosen + self.first, rest)))
        return order.to(self._device, non_blocking=True)

    def run(
        self,
        blocks: Sequence[nn.Module],
        span: Span,
        caches: Sequence[Cache],
        uses: Sequence[Use],
        order: Tensor | None,
        rows: slice,
    ) -> tuple[Span, Extend]:
        """All layers but the last: the span that enters the last, and what it attends to.

        `order` as `choose` gave it. `rows`: where the prompt lies in the sequence, behind the vision tokens.
        """
        length, counts = span.x.shape[1], self.counts.counts
        extends: list[Extend] = [cache.at(0) for cache in caches]
        if order is not None:
            extends = [partial(c.put, order[n:], length) for c, n in zip(caches, counts)]
            span = span.narrowed(order[counts[0] :], keys=False)
        for i, block in enumerate(blocks):
            extend = Noted(extends[i])
            after = span.through([block], [extend], uses[i : i + 1])
            if i == self.counts.layer and self.counts.excluded:
                self._look(block, span, extend.keys, uses[i], shifted_rows(rows, span, length))
            more = counts[i + 1] - counts[i] if order is not None else 0
            span = after.narrowed(slice(more, None), keys=False) if more else after
        return span, extends[-1]

    def mark(self, seen: Seen) -> None:
        """The prefill of `seen` has just run: its K and V are there. The attention of the pass begins its way to the
        host, ahead of the frame's chunk: whoever has that has both."""
        self._made = (seen.observation, seen.reuse is not None)
        if not (self._looked.is_cuda and torch.cuda.is_current_stream_capturing()):  # who replays it marks again
            self._scores.copy_(self._looked, non_blocking=True)

    def _look(self, block: Any, span: Span, keys: Tensor, use: Use, rows: slice) -> None:
        scores = span.looks(block.attention, keys, rows, use.heads)[self.first : self.first + len(self._looked)]
        self._looked[: len(scores)].copy_(scores)

    def _settle(self) -> None:
        """What the last pass computed is known from now on; if it was another than the last chosen for, nothing is."""
        if self._pending is None:
            return
        (obs, now, fresh), made = self._pending, self._made
        if made is None or made[0] is not obs:
            self._known = None
        elif fresh is None or not made[1] or self._known is None:
            self._known = now
        else:
            self._known[fresh] = now[fresh]

    def _still(self, now: NDArray[np.float32], known: NDArray[np.float32]) -> NDArray[np.int64] | None:
        """Vision tokens that keep their K and V, the most similar first; None if too few stand still."""
        if self.counts.counts[-1] > len(now):  # a camera is gone
            return None
        likeness = patch_similarity(now, known)
        if self.counts.excluded:
            scores = self._scores.numpy()[: len(now)]
            likeness[np.argsort(-scores, kind="stable")[: self.counts.excluded]] = -1.0
        best = np.argsort(-likeness, kind="stable")[: self.counts.counts[-1]]
        return best if likeness[best[-1]] >= self.counts.similarity else None


def shifted_rows(rows: slice, span: Span, length: int) -> slice:
    """Where `rows` of a sequence of `length` lie in a span that has lost positions before them."""
    gone = length - span.x.shape[1]
    return slice(rows.start - gone, rows.stop - gone)


def patch_similarity(now: NDArray[np.float32], known: NDArray[np.float32]) -> NDArray[np.float64]:
    """2 a.b / (a.a + b.b) of each patch (N, pixels) with itself before: 1 where nothing changed, (N,)."""
    both = np.einsum("np,np->n", now, now, dtype=np.float64) + np.einsum("np,np->n", known, known, dtype=np.float64)
    product = 2.0 * np.einsum("np,np->n", now, known, dtype=np.float64)
    return np.divide(product, both, out=np.ones_like(both), where=both > 0)


def _patches(image: NDArray[np.uint8], side: int) -> NDArray[np.float32]:
    """(H, W, 3) to (side * side, pixels), row by row, as the vision tokens lie."""
    size = image.shape[0] // side
    cut = image.reshape(side, size, side, size, 3).swapaxes(1, 2)
    return cut.reshape(side * side, -1).astype(np.float32)
