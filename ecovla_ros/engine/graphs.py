"""Vision towers, prefill and act as captured graphs. The engine sees an ordinary policy.

The towers and the comparison of their tokens with those of the last frame are one graph for each set of cameras (and
for each engine, where several share a policy), prefill and act one for each plan and shape: a frame issues the three
one behind the other and waits for nothing between them. While the towers run the host tokenises the prompt.

A graph bakes addresses, not contents. Weights are swapped in place, records, biases and K/V lie in buffers that are
allocated once, and the inputs of a frame are copied into the tensors that were captured: so a graph stays valid
whatever the pattern, the image or the noise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ecovla_ros.engine.recorder import Recorder
from ecovla_ros.engine.wrapped import WrappedPolicy
from ecovla_ros.models.base import Behind, Plan, Policy, Seen, Staged, StagedPolicy
from ecovla_ros.types import Observation

INPUTS = ("prefix", "state", "valid", "gap", "reuse")
"""Fields of an encoded frame that a pass reads."""


@dataclass
class Captured:
    """Graphs of one plan and shape, and the tensors they read."""

    seen: Seen
    noise: Tensor
    prefill: Callable[[], None] | None = None
    act: Callable[[], None] | None = None
    handoff: Any = None
    actions: Any = None


class Graphed(WrappedPolicy):
    """A policy whose towers, `prefill` and `act` are replayed. Capturing belongs to `warm_up`: see `Engine.warm_up`.

    A shape that was not captured then (free text of an unforeseen length) is captured when it first comes; that frame
    takes longer. What a policy does on the host runs as it is.
    """

    def __init__(self, policy: Policy, recorder: Recorder) -> None:
        super().__init__(policy)
        self._recorder = recorder
        self._staged = policy if isinstance(policy, StagedPolicy) else None
        self._captured: dict[tuple[Plan, int, bool], Captured] = {}
        self._looks: dict[
            tuple[tuple[str, ...], Behind | None], tuple[Staged, Callable[[], None], Mapping[str, Tensor]]
        ] = {}

    @property
    def graphs(self) -> int:
        """How many graphs were captured."""
        passes = sum((c.prefill is not None) + (c.act is not None) for c in self._captured.values())
        return len(self._looks) + passes

    def encode(self, obs: Observation) -> Seen:
        """Stage the frame and replay the towers, where the policy can do these apart; else the policy's."""
        return self._encode(obs, None)

    def encode_and(self, obs: Observation, behind: Behind) -> Seen:
        """As `encode`; `behind` is captured with the towers."""
        return self._encode(obs, behind)

    @torch.inference_mode()
    def _encode(self, obs: Observation, behind: Behind | None) -> Seen:
        if self._staged is None:
            return self.inner.encode(obs) if behind is None else super().encode_and(obs, behind)
        staged = self._staged.stage(obs)
        key = tuple(staged.images), behind
        if key not in self._looks:
            images = {name: image if image.is_cuda else image.clone() for name, image in staged.images.items()}
            own = replace(staged, images=images)  # on a device the same memory every frame
            self._looks[key] = (own, *self._recorder.capture(partial(_look, self._staged, own, behind)))
        own, replay, vision = self._looks[key]
        _hand_over(list(own.images.values()), list(staged.images.values()))
        replay()
        return self._staged.seen(staged, vision)

    @torch.inference_mode()
    def prefill(self, seen: Seen, plan: Plan) -> Any:
        """Copy the frame in and replay; the hand-off is the same object every time."""
        graphs = self._of(seen, plan)
        _hand_over(_inputs(graphs.seen), _inputs(seen))
        if graphs.prefill is None:
            kept = _saved(plan)
            run = self._recorder.capture(lambda: self.inner.prefill(graphs.seen, plan))
            graphs.prefill, graphs.handoff = run
            _restore(plan, kept)
        graphs.prefill()
        self.inner.mark(seen)
        return graphs.handoff

    @torch.inference_mode()
    def act(self, seen: Seen, handoff: Any, plan: Plan, noise: Tensor) -> Tensor:
        """Copy the noise in and replay; the actions lie in the same tensor every time."""
        graphs = self._of(seen, plan)
        graphs.noise.copy_(noise, non_blocking=True)
        if graphs.act is None:
            kept = _saved(plan)
            run = self._recorder.capture(lambda: self.inner.act(graphs.seen, handoff, plan, graphs.noise))
            graphs.act, graphs.actions = run
            _restore(plan, kept)
        graphs.act()
        out: Tensor = graphs.actions
        return out

    def _of(self, seen: Seen, plan: Plan) -> Captured:
        key = (plan, len(seen.prefix), seen.reuse is not None)
        if key not in self._captured:
            spec = self.inner.spec
            own = replace(seen, **{n: t.clone() for n in INPUTS if (t := getattr(seen, n)) is not None})
            noise = torch.zeros((spec.horizon, spec.action_dim), device=seen.prefix.device)
            self._captured[key] = Captured(own, noise)
        return self._captured[key]


def _look(policy: StagedPolicy, staged: Staged, behind: Behind | None) -> Mapping[str, Tensor]:
    vision = policy.look(staged)
    if behind is not None:
        behind(vision)
    return vision


def _inputs(seen: Seen) -> list[Tensor]:
    return [t for n in INPUTS if (t := getattr(seen, n)) is not None]


def _hand_over(there: Sequence[Tensor], here: Sequence[Tensor]) -> None:
    """A frame's tensors into the captured ones, but for those that are the captured ones."""
    for old, new in zip(there, here):
        if old.data_ptr() != new.data_ptr():
            old.copy_(new, non_blocking=True)


def _saved(plan: Plan) -> list[Tensor]:
    """What the runs of a capture would add to the records twice."""
    return [t.clone() for record in (plan.record or {}).values() for t in record.added()]


def _restore(plan: Plan, kept: list[Tensor]) -> None:
    buffers = [t for record in (plan.record or {}).values() for t in record.added()]
    for buffer, value in zip(buffers, kept):
        buffer.copy_(value)
