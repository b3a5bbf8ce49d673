"""A calibration from frames that a user recorded: the frames a replay answers, run dense, with their energies added up.

Messages meet as the node and a replay pair them, so that the calibration is of what the policy will see.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ecovla_ros.bags.ahead import ahead
from ecovla_ros.bags.clock import timed
from ecovla_ros.bags.inputs import Feed, Frame, Held, choose
from ecovla_ros.bags.read import Bag
from ecovla_ros.config import Config
from ecovla_ros.engine.calibration import calibration, flow_noise
from ecovla_ros.errors import BagError, ObservationError, PruningError
from ecovla_ros.models.base import PolicySpec
from ecovla_ros.types import Observation


@dataclass
class Taken:
    """What was taken of a source."""

    frames: int = 0
    instructions: dict[str, int] = field(default_factory=dict)
    """Words -> frames with them."""
    held: dict[str, int] = field(default_factory=dict)
    """Why frames were passed over -> how many."""
    damage: str = ""
    """What was wrong with the source after the last frame; empty when it was whole."""

    def take(self, obs: Observation) -> None:
        """One more frame."""
        self.frames += 1
        self.instructions[obs.instruction] = self.instructions.get(obs.instruction, 0) + 1

    def refuse(self, why: str) -> None:
        """One more that is passed over."""
        self.held[why] = self.held.get(why, 0) + 1


def frames(
    settings: Config,
    spec: PolicySpec,
    path: str | Path,
    topics: Mapping[str, str],
    instruction: str,
    rate_hz: float,
    taken: Taken,
) -> Iterator[Observation]:
    """Observations of a bag, `rate_hz` a second at most. What could be read of a damaged bag is given, and `taken` says
    what was wrong. Raises BagError for a bag that cannot be opened or lacks an input.
    """
    with Bag(path) as bag:
        default = settings.node.instruction
        chosen = choose(bag, topics, tuple(spec.cameras), instruction, default)
        feed = Feed(bag, chosen, settings.node, instruction or default, spec.instructions, rate_hz, settings.arm)
        for found in ahead(_due(bag, feed, taken)):
            if isinstance(found, Held):
                taken.refuse(found.why)
            else:
                yield found.observation


def _due(bag: Bag, feed: Feed, taken: Taken) -> Iterator[Frame | Held]:
    try:
        for raw in timed(bag, feed.topics):
            yield from feed.take(raw)
    except BagError as error:
        taken.damage = str(error)


def energies(policy: Any, observations: Iterator[Observation], taken: Taken, seed: int, where: str) -> dict[str, Any]:
    """Site key -> mean energies and activations, tensors, see `engine.calibration`; flow noise as in an engine of
    `seed`.

    Frames that the policy does not take are passed over and counted. Raises BagError where none is left, and
    PruningError where energies are not finite.
    """

    def counted() -> Iterator[Observation]:
        for obs in observations:
            taken.take(obs)
            yield obs

    def refused(obs: Observation, error: ObservationError) -> None:
        taken.refuse(str(error))
        taken.frames -= 1
        taken.instructions[obs.instruction] -= 1

    try:
        return calibration(policy, counted(), flow_noise(policy, seed), refused)
    except PruningError as error:
        if taken.frames:
            raise
        why = taken.damage or ", ".join(taken.held) or "no frame with a picture of every camera"
        raise BagError(f"'{where}': no frame to calibrate on: {why}") from error
