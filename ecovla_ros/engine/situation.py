"""What an engine remembers of one arm between two of its frames, so that several arms may take turns at its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ecovla_ros.engine.outcome import RefreshState
from ecovla_ros.prune.trigger import Trigger


@dataclass(frozen=True)
class StackRows:
    """Order of the rows of one stack, and all that is known of them in that order."""

    channel: Tensor
    history: Tensor
    mean: Tensor | None
    bias: Mapping[int, list[Tensor]]
    seen: bool
    mean_known: bool


@dataclass(frozen=True)
class OwnPattern:
    """A pattern and the histories that it came from: what a refresh goes on from."""

    stacks: tuple[StackRows, ...]
    state: RefreshState
    offsets: Mapping[str, float]
    generator: Tensor
    """State of what draws sampled tokens."""


@dataclass(frozen=True)
class Situation:
    """Of one arm. `pattern` None: the arms share one pattern, which stays in place when they take turns."""

    noise: Tensor
    trigger: Trigger
    tokens: Mapping[str, Tensor] | None
    """Vision tokens of its last frame; None where there was none."""
    answer: Any
    """What the policy remembers of its last answer (real-time chunking)."""
    pattern: OwnPattern | None = None
    last: RefreshState = RefreshState()
    counts: tuple[int, int, int] = (0, 0, 0)
    """Frames since the pattern changed and since a refresh began, and how many refreshes there were."""
    fault: str = ""
    """Of its last refresh, not told yet."""
    anew: bool = False
    """Whether its episode is still to begin from the engine's start: a refresh had not ended."""
