"""A policy around a policy: everything is the inner one's until a subclass says otherwise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ecovla_ros.models.base import (
    Behind,
    BoundPolicy,
    LookingPolicy,
    Plan,
    Policy,
    PolicySpec,
    Seen,
    Site,
    TakesTurns,
)
from ecovla_ros.types import ActionChunk, Observation


class WrappedPolicy:
    """Has every member that an engine asks for, so that it counts as what the inner policy is: from Python 3.12 on a
    protocol is not met by what `__getattr__` finds."""

    def __init__(self, policy: Policy) -> None:
        self.inner = policy
        self._looking = policy if isinstance(policy, LookingPolicy) else None

    @property
    def spec(self) -> PolicySpec:
        """The policy's."""
        return self.inner.spec

    @property
    def sites(self) -> Sequence[Site]:
        """The policy's."""
        return self.inner.sites

    @property
    def device(self) -> torch.device:
        """The policy's."""
        return self.inner.device

    def examples(self) -> Iterator[Observation]:
        """The policy's."""
        return self.inner.examples()

    def encode(self, obs: Observation) -> Seen:
        """The policy's."""
        return self.inner.encode(obs)

    def encode_and(self, obs: Observation, behind: Behind) -> Seen:
        """The policy's; where it takes nothing along, `behind` runs once it has encoded."""
        if self._looking is not None:
            return self._looking.encode_and(obs, behind)
        seen = self.inner.encode(obs)
        behind(seen.vision)
        return seen

    def prefill(self, seen: Seen, plan: Plan) -> Any:
        """The policy's."""
        return self.inner.prefill(seen, plan)

    def mark(self, seen: Seen) -> None:
        """The policy's."""
        self.inner.mark(seen)

    def act(self, seen: Seen, handoff: Any, plan: Plan, noise: Tensor) -> Tensor:
        """The policy's."""
        return self.inner.act(seen, handoff, plan, noise)

    def to_chunk(self, seen: Seen, actions: Tensor) -> ActionChunk:
        """The policy's."""
        return self.inner.to_chunk(seen, actions)

    def warm_up(self) -> None:
        """The policy's."""
        self.inner.warm_up()

    def leave(self) -> Any:
        """The policy's; None where it remembers nothing."""
        return self.inner.leave() if isinstance(self.inner, TakesTurns) else None

    def enter(self, left: Any) -> None:
        """The policy's."""
        if isinstance(self.inner, TakesTurns):
            self.inner.enter(left)

    @property
    def lets_go(self) -> bool:
        """The policy's; False where it knows nothing of chunks before."""
        return isinstance(self.inner, BoundPolicy) and self.inner.lets_go

    def let_go(self) -> None:
        """The policy's: what it writes is read by a captured pass too."""
        if isinstance(self.inner, BoundPolicy):
            self.inner.let_go()

    def forget_chunk(self) -> None:
        """The policy's."""
        if isinstance(self.inner, BoundPolicy):
            self.inner.forget_chunk()
