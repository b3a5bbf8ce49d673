"""What the trigger goes by: how like the last frame's this frame's vision tokens are, measured where they lie."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ecovla_ros.engine.host_copy import HostCopy
from ecovla_ros.engine.recorder import Recorder
from ecovla_ros.kernels.available import triton_runs_on
from ecovla_ros.kernels.likeness import renewed
from ecovla_ros.models.base import Seen
from ecovla_ros.prune.similarity import scene_similarity

Shapes = tuple[tuple[str, torch.Size], ...]
Places = tuple[int, ...]


class Sight:
    """Compares each frame with the one before (Eq. 5). `compare` issues the work, `fetch` the copy of its one number to
    the host, `read` waits for that."""

    def __init__(self, recorder: Recorder | None = None, into: Tensor | None = None) -> None:
        """`recorder`: captures the comparison of frames whose tokens lie where those of the warm-up lay. `into`, ()
        float32 where the tokens lie: gets s_t too, for those on the device who must not wait for the host."""
        self._recorder, self._copy, self._into = recorder, HostCopy(), into
        self._stores: dict[Shapes, dict[str, Tensor]] = {}
        """Tokens of the frame before, by cameras: a captured tower writes those of the next frame over its own."""
        self._replays: dict[tuple[Shapes, Places], tuple[Callable[[], None], Tensor]] = {}
        self._before: Shapes = ()
        self._compared = False
        self._found: Tensor | None = None
        """s_t of the frame compared last, until it is on its way to the host."""

    def reset(self) -> None:
        """Forget the scene: nothing is known of the frame before the next one."""
        self._before, self._compared, self._found = (), False, None

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
            self._keep(self._before, tokens)

    def rehearse(self, seen: Seen) -> None:
        """In warm-up: capture the comparison of frames like `seen`, twice run and then forgotten."""
        if self._recorder is None:
            return
        for _ in range(2):
            self.compare(seen)
            self.fetch()
        shapes, vision = _shapes(seen.vision), dict(seen.vision)
        value = torch.zeros((), device=next(iter(vision.values())).device) if self._into is None else self._into

        def run() -> None:
            self._renewed(shapes, vision, value)

        if (key := (shapes, _places(vision))) not in self._replays:
            self._replays[key] = self._recorder.capture(run, warm_ups=0)[0], value
        self.reset()

    def compare(self, seen: Seen) -> None:
        """Begin to compare `seen` with the frame before. Nothing is waited for."""
        shapes, self._found = _shapes(seen.vision), None
        self._compared, self._before = shapes == self._before, shapes
        replay = self._replays.get((shapes, _places(seen.vision))) if self._compared else None
        if replay is not None:
            replay[0]()
            self._found = replay[1]
            return
        if self._compared:
            self._found = self._renewed(shapes, seen.vision, self._into)
            return
        self._keep(shapes, seen.vision)
        if self._into is not None:
            self._into.fill_(torch.nan)

    def fetch(self) -> None:
        """Let s_t of the frame compared last be on its way to the host, behind what was issued so far. Before the next
        `compare`; again does nothing."""
        found, self._found = self._found, None
        if found is not None:
            self._copy.start(found)

    def read(self) -> float:
        """s_t of the frame compared last; NaN where nothing could be compared (see `scene_similarity`)."""
        self.fetch()
        return float(self._copy.take()) if self._compared else float("nan")

    def _renewed(self, shapes: Shapes, vision: Mapping[str, Tensor], into: Tensor | None) -> Tensor:
        """s_t of frames of equal shapes, in `into` if there is one; the tokens are kept for the next."""
        before = self._stores[shapes]
        if all(triton_runs_on(tokens) and tokens.stride(1) == 1 for tokens in vision.values()):
            return renewed(list(vision.values()), [before[name] for name in vision], into)
        similarity = scene_similarity(vision, before)
        assert similarity is not None, "equal shapes can be compared"
        self._keep(shapes, vision)
        return similarity if into is None else into.copy_(similarity)

    def _keep(self, shapes: Shapes, vision: Mapping[str, Tensor]) -> None:
        if shapes not in self._stores:
            self._stores[shapes] = _store(vision)
        for name, tokens in vision.items():
            self._stores[shapes][name].copy_(tokens)


def _store(vision: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Room for tokens like these; one block where all cameras have as many, which one kernel then compares."""
    kinds = {(t.shape, t.dtype, t.device) for t in vision.values()}
    if len(kinds) == 1:
        shape, dtype, device = kinds.pop()
        return dict(zip(vision, torch.empty((len(vision), *shape), dtype=dtype, device=device)))
    return {name: torch.empty(t.shape, dtype=t.dtype, device=t.device) for name, t in vision.items()}


def _shapes(vision: Mapping[str, Tensor]) -> Shapes:
    return tuple((name, tokens.shape) for name, tokens in vision.items())


def _places(vision: Mapping[str, Tensor]) -> Places:
    return tuple(tokens.data_ptr() for tokens in vision.values())
