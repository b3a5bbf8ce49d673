"""What the trigger goes by: how like the last frame's this frame's vision tokens are, measured where they lie."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ecovla_ros.engine.host_copy import HostCopy
from ecovla_ros.kernels.available import triton_runs_on
from ecovla_ros.kernels.likeness import renewed
from ecovla_ros.models.base import Seen
from ecovla_ros.prune.similarity import scene_similarity

Shapes = tuple[tuple[str, torch.Size], ...]


class Sight:
    """Compares each frame with the one before (Eq. 5). `renew` is the device's part, behind the towers and in one graph
    with them where they are captured; `compare` says whether what it found means anything, `fetch` begins the copy of
    its one number to the host, and `read` waits for that."""

    def __init__(self, into: Tensor | None = None) -> None:
        """`into`, () float32 where the tokens lie: gets s_t too, for those on the device who must not wait for the
        host."""
        self._copy, self._into, self._found = HostCopy(), into, into
        self._stores: dict[Shapes, dict[str, Tensor]] = {}
        """Tokens of the frame before, by cameras: a captured tower writes those of the next frame over its own."""
        self._before: Shapes = ()
        self._compared = self._fetched = False

    def reset(self) -> None:
        """Forget the scene: nothing is known of the frame before the next one."""
        self._before, self._compared = (), False

    def leave(self) -> dict[str, Tensor] | None:
        """A copy of the tokens of the last frame, to come back to; None where there was none."""
        if not self._before:
            return None
        return {name: tokens.clone() for name, tokens in self._stores[self._before].items()}

    def enter(self, tokens: Mapping[str, Tensor] | None) -> None:
        """The frame before the next one had these tokens; None: nothing is known of it."""
        self.reset()
        if tokens is not None:
            self._before = _shapes(tokens)
            self._keep(self._store(tokens), tokens)

    def renew(self, vision: Mapping[str, Tensor]) -> None:
        """Compare camera -> tokens (N, D) with those of the last frame of such shapes, which they then replace. Nothing
        but device work over the same memory every time, once it has run for these shapes: it may be captured."""
        before = self._store(vision)
        if self._found is None:
            self._found = torch.zeros((), device=next(iter(vision.values())).device)
        if all(triton_runs_on(tokens) and tokens.stride(1) == 1 for tokens in vision.values()):
            renewed(list(vision.values()), [before[name] for name in vision], self._found)
            return
        similarity = scene_similarity(vision, before)
        assert similarity is not None, "equal shapes can be compared"
        self._found.copy_(similarity)
        self._keep(before, vision)

    def compare(self, seen: Seen) -> None:
        """`renew` has run for `seen`: what it found holds if the frame before had tokens of the same shapes."""
        shapes = _shapes(seen.vision)
        self._compared, self._before, self._fetched = shapes == self._before, shapes, False
        if not self._compared and self._into is not None:
            self._into.fill_(torch.nan)

    def fetch(self) -> None:
        """Let s_t of the frame compared last be on its way to the host, behind what was issued so far; again does
        nothing. Before the next `renew`."""
        if self._compared and not self._fetched and self._found is not None:
            self._fetched = True
            self._copy.start(self._found)

    def read(self) -> float:
        """s_t of the frame compared last; NaN where nothing could be compared (see `scene_similarity`)."""
        self.fetch()
        return float(self._copy.take()) if self._compared else float("nan")

    def _store(self, vision: Mapping[str, Tensor]) -> dict[str, Tensor]:
        shapes = _shapes(vision)
        if shapes not in self._stores:
            self._stores[shapes] = _room(vision)
        return self._stores[shapes]

    @staticmethod
    def _keep(store: Mapping[str, Tensor], vision: Mapping[str, Tensor]) -> None:
        for name, tokens in vision.items():
            store[name].copy_(tokens)


def _room(vision: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Room for tokens like these; one block where all cameras have as many, which one kernel then compares."""
    kinds = {(t.shape, t.dtype, t.device) for t in vision.values()}
    if len(kinds) == 1:
        shape, dtype, device = kinds.pop()
        return dict(zip(vision, torch.zeros((len(vision), *shape), dtype=dtype, device=device)))
    return {name: torch.zeros(t.shape, dtype=t.dtype, device=t.device) for name, t in vision.items()}


def _shapes(vision: Mapping[str, Tensor]) -> Shapes:
    return tuple((name, tokens.shape) for name, tokens in vision.items())
