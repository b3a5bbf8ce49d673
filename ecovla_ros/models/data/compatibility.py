"""Whether the parts of a policy belong together (model, specification, statistics, tokenizer), and example prompts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ecovla_ros.errors import CheckpointError, ObservationError
from ecovla_ros.models.base import PolicySpec
from ecovla_ros.models.data.units import Units


class ModelShape(Protocol):
    """What every family's configuration says."""

    @property
    def cameras(self) -> tuple[str, ...]:
        """Camera slots."""

    @property
    def image_size(self) -> int:
        """Height and width, px."""

    @property
    def horizon(self) -> int:
        """Actions of a chunk."""

    @property
    def action_dim(self) -> int:
        """Numbers of an action."""

    @property
    def state_dim(self) -> int:
        """Numbers of a state."""

    @property
    def vocab(self) -> int:
        """Token ids lie below it."""

    @property
    def max_prompt(self) -> int:
        """Longest prompt, tokens."""


def must_fit(config: ModelShape, spec: PolicySpec, normaliser: Units, highest: int, longest: int) -> None:
    """`highest`: largest token id; `longest`: prompt, tokens. Raises CheckpointError that names what does not fit."""
    expected = {name: (config.image_size, config.image_size) for name in config.cameras}
    found = {name: tuple(hw) for name, hw in spec.cameras.items()}
    if found != expected:
        raise CheckpointError(f"cameras of the specification {found} are not the model's: {expected}")
    for name, value in (("horizon", config.horizon), ("action_dim", config.action_dim)):
        if getattr(spec, name) != value:
            raise CheckpointError(f"{name} of the specification is {getattr(spec, name)}, the model's is {value}")
    rows = len(normaliser.action_mean)
    if rows != config.horizon:
        raise CheckpointError(f"normalisation has statistics of {rows} actions; the horizon is {config.horizon}")
    if highest >= config.vocab or longest > config.max_prompt:
        raise CheckpointError(
            f"token ids up to {highest}, prompts to {longest}; the model takes ids below {config.vocab} and prompts to "
            f"{config.max_prompt}"
        )
    for name, needed in zip(("state_dim", "action_dim"), normaliser.widths):
        if getattr(config, name) < needed:
            raise CheckpointError(f"{name} must be at least {needed}, as the data's; it is {getattr(config, name)}")


def example_texts(word: str, tokens: Callable[[str], int], bucket: int) -> tuple[str, ...]:
    """`word` so often that one prompt falls into each bucket, from the shortest prompt's to the longest's.

    `tokens`: instruction -> tokens of its prompt; it raises ObservationError where that is too long. Bucket k holds
    prompts of k * bucket + 1 to (k + 1) * bucket tokens. Prompts that are not padded (bucket 1) have too many shapes:
    one word.
    """
    found, words = {(tokens(word) - 1) // bucket: word}, 2
    while bucket > 1:
        text = " ".join([word] * words)
        try:
            found.setdefault((tokens(text) - 1) // bucket, text)
        except ObservationError:
            break
        words += 1
    return tuple(found.values())
