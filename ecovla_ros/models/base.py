"""What the engine needs to know of a model: its sites, and `encode`, `prefill`, `act`. No names of models here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from ecovla_ros.types import ActionChunk, Observation


@dataclass(frozen=True)
class Site:
    """One group of coupled rows that may be reordered without changing the function (paper, Eq. 1-4).

    Every weight is channel-major: row block c (of `unit` rows) belongs to channel c, so that the layer restricted
    to its first k channels is the layer run on the views `w[: k * unit]`.
    """

    key: str
    """Unique name, e.g. "lm.3.mlp", "expert.0.heads"."""
    group: str
    """What the configuration selects: "lm.mlp", "lm.heads", "expert.mlp", "expert.heads"."""
    phase: str
    """When it runs: "prefill" or "act"."""
    channels: int
    """C: hidden channels of an MLP, or query heads."""
    unit: int
    """Rows per channel: 1 (MLP) or the head dimension."""
    producers: tuple[Tensor, ...]
    """Weights whose out-rows are the channels, each (C * unit, D): gate and up, or query."""
    consumer: Tensor
    """Transposed W_down or W_O, (C * unit, D)."""
    step: int = 32
    """Kept counts are a multiple of this: 32 for MLP channels, the number of KV groups for heads."""
    calls: int = 1
    """How often the site runs in one frame (flow steps for the expert)."""
    extra: tuple[Tensor, ...] = ()
    """Per-row vectors that travel with the rows, each (C * unit,): biases."""


@dataclass(frozen=True)
class Plan:
    """How one pass runs: how many leading channels of each site, and whether energies are recorded."""

    kept: Mapping[str, int] = field(default_factory=dict)
    """Site key -> kept channels k (a prefix). A site not named runs with all its channels."""
    energy: Mapping[str, Tensor] | None = None
    """Site key -> float32 buffer (C * unit,); a pass ADDS sum over the sequence of X_int^2 (Eq. 8) to its first
    k * unit entries, in slot order. None: nothing is recorded."""


DENSE = Plan()


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

    def encode(self, obs: Observation) -> Seen:
        """Images and instruction to vision tokens and prefix. Raises ObservationError."""
        ...

    def prefill(self, seen: Seen, plan: Plan) -> Any:
        """Prefix to what the action head reads: K/V per layer, a hidden state, a vector."""
        ...

    def act(self, seen: Seen, handoff: Any, plan: Plan, noise: Tensor) -> Tensor:
        """Hand-off to normalised actions (H, action_dim). `noise`: (H, action_dim), handed in."""
        ...

    def decode(self, seen: Seen, actions: Tensor) -> ActionChunk:
        """Normalised actions to an absolute joint chunk with the observation's stamp. The one copy to the host."""
        ...

    def warm_up(self) -> None:
        """Run every shape once on synthetic input; after it the loop allocates nothing of its own."""
        ...
