"""What the engine needs to know of a model: its sites, and `encode`, `prefill`, `act`. No names of models here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from ecovla_ros.prune.site import DENSE, Plan, Site
from ecovla_ros.types import ActionChunk, Observation

__all__ = [
    "DENSE",
    "Behind",
    "BoundPolicy",
    "LookingPolicy",
    "Plan",
    "Policy",
    "PolicySpec",
    "Seen",
    "Site",
    "Staged",
    "StagedPolicy",
]


@dataclass(frozen=True)
class Seen:
    """An encoded observation, before the language model."""

    vision: Mapping[str, Tensor]
    """Camera -> vision tokens f_t (N, D) that the trigger compares (Eq. 5)."""
    prefix: Tensor
    """Embedded prefix (S, D): vision tokens of all cameras, then the prompt."""
    state: Tensor
    """Normalised state (state_dim,)."""
    observation: Observation
    valid: Tensor | None = None
    """(S,) float32: 1 for a token of the prefix, 0 for the padding of a prompt bucket; None: no padding."""
    padding: range = range(0)
    """Positions of the prefix that are padding: what `valid` says, for the host."""
    reuse: Tensor | None = None
    """(S,) int64: every position, those first that may keep K and V of an earlier frame (VLA-Cache); None: none.

    Only for a pass of the plan that made them; the engine takes it away from any other."""
    gap: Tensor | None = None
    """(2,) int32: positions gap[0]..gap[1]-1 are the padding, for kernels that attend to lengths; None: no padding."""


@dataclass(frozen=True)
class Staged:
    """The images of an observation on the device, before any of the model runs: there the same memory every frame."""

    images: Mapping[str, Tensor]
    """Camera -> (1, H, W, 3) uint8, as the model takes it."""
    observation: Observation
    squares: Mapping[str, Any] | None = None
    """Camera -> the image as an array (H, W, 3) on the host, where something there looks at it (VLA-Cache)."""


@dataclass(frozen=True)
class PolicySpec:
    """What a checkpoint was trained for; checked against the request before anything runs."""

    name: str
    cameras: Mapping[str, tuple[int, int]]
    """Camera -> (height, width) the model takes; images of other sizes are resized."""
    horizon: int
    period_s: float
    action_dim: int = 8
    """7 joint positions and the gripper."""
    renderer: str = "any"
    """Renderer of the training images: egl, osmesa, ray; "any" where it does not matter."""
    instructions: tuple[str, ...] = ()
    """Instructions it was trained on; empty: free text."""


class Policy(Protocol):
    """One VLA. Batch 1; every buffer the loop writes is allocated by `warm_up`."""

    spec: PolicySpec
    sites: Sequence[Site]
    device: torch.device

    def examples(self) -> Iterator[Observation]:
        """Synthetic observations, one for each shape that a frame can have."""
        ...

    def encode(self, obs: Observation) -> Seen:
        """Images and instruction to vision tokens and prefix. Raises ObservationError."""
        ...

    def prefill(self, seen: Seen, plan: Plan) -> Any:
        """Prefix to what the action head reads: K/V per layer, a hidden state, a vector."""
        ...

    def mark(self, seen: Seen) -> None:
        """Remember what a probe must know of the prefill that has just run. `prefill` does it, and who replays one."""
        ...

    def act(self, seen: Seen, handoff: Any, plan: Plan, noise: Tensor) -> Tensor:
        """Hand-off to normalised actions (H, action_dim). `noise`: (H, action_dim), handed in."""
        ...

    def to_chunk(self, seen: Seen, actions: Tensor) -> ActionChunk:
        """Normalised actions to an absolute joint chunk with the observation's stamp.

        The engine gives them on the host. The chunk shares no memory with them: the next frame's actions land there."""
        ...

    def warm_up(self) -> None:
        """Run every shape once on synthetic input; after it the loop allocates nothing of its own."""
        ...


@runtime_checkable
class TakesTurns(Protocol):
    """A policy that remembers something of its last answer, and can lay it aside for another arm."""

    def leave(self) -> Any:
        """What is remembered of the arm whose frame came last."""
        ...

    def enter(self, left: Any) -> None:
        """Go on from there; None: nothing is known of the arm."""
        ...


@runtime_checkable
class StagedPolicy(Policy, Protocol):
    """A policy whose `encode` comes in three steps, of which the middle one can be captured as a graph."""

    def stage(self, obs: Observation) -> Staged:
        """Check and resize the images and send them to the device. Raises ObservationError."""
        ...

    def look(self, staged: Staged) -> Mapping[str, Tensor]:
        """Camera -> vision tokens (N, D): nothing but device work on what was staged."""
        ...

    def seen(self, staged: Staged, vision: Mapping[str, Tensor]) -> Seen:
        """What `encode` gives: the rest of the host's work, done while the towers run. Raises ObservationError."""
        ...


Behind = Callable[[Mapping[str, Tensor]], None]
"""Device work on camera -> vision tokens (N, D), over the same memory every time."""


@runtime_checkable
class LookingPolicy(Policy, Protocol):
    """A policy that takes device work along behind its towers: where these are captured, in the same graph. One without
    it does as well: the work then follows `encode`."""

    def encode_and(self, obs: Observation, behind: Behind) -> Seen:
        """As `encode`; `behind` runs on the vision tokens. It may have run where ObservationError is raised."""
        ...


@runtime_checkable
class BoundPolicy(Policy, Protocol):
    """A policy whose chunk may be bound to the chunk before it (real-time chunking)."""

    @property
    def lets_go(self) -> bool:
        """Whether chunks are bound until the scene changes, as configured."""
        ...

    def let_go(self) -> None:
        """Between `encode` and `act`: the chunk of this frame is not bound. Issued to the device, never waited for."""
        ...

    def forget_chunk(self) -> None:
        """A new episode: the next chunk is bound to none."""
        ...
