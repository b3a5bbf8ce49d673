"""Ways to run a policy that exist only to be compared with: no robot runs them.

oracle: a fixed pattern from every look of this very episode, driven dense once before; no method can know it.
shuffled: a new random pattern whenever the trigger of EcoVLA fires: what changing alone is worth.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ecovla_ros.bench.success.trials import Trial, compared
from ecovla_ros.bench.variants import Variant
from ecovla_ros.config import METHODS
from ecovla_ros.engine.engine import Engine
from ecovla_ros.errors import ConfigError, unknown

ORACLE, SHUFFLED = "oracle", "shuffled"
RUN_AS = {ORACLE: "static", SHUFFLED: "ecovla"}
"""The method of the engine under each of them."""


def method_of(trial: Trial) -> str:
    """The engine's method of a trial."""
    return RUN_AS.get(trial.method, trial.method)


def chosen(methods: Sequence[str], refreshes: Sequence[str], ratios: Sequence[float]) -> list[Variant]:
    """`trials.compared`, and these beside it. Raises ConfigError for an unknown name, or one named twice."""
    for name in methods:
        if name not in METHODS and name not in RUN_AS:
            raise ConfigError(unknown("method", name, (*METHODS, *RUN_AS)))
    known = [name for name in methods if name not in RUN_AS]
    found = compared(known, refreshes, ratios) if known else []
    found += [Variant(name, "none", ratio) for name in methods if name in RUN_AS for ratio in ratios]
    if not found or len(set(found)) != len(found):
        raise ConfigError("methods, refreshes and ratios must be named once each, and at least one method")
    return found


def shuffle(engine: Engine, generator: torch.Generator) -> None:
    """Give every site a random order of its channels, within each KV group alike, in place of the refresh's."""
    groups = {site.key: site.groups for site in engine.policy.sites}
    orders = {}
    for key, order in engine.patterns().items():
        ranks = torch.tensor(sorted(order)).unflatten(0, (-1, groups[key]))
        drawn = torch.stack([torch.randperm(len(ranks), generator=generator) for _ in range(groups[key])], 1)
        orders[key] = ranks.gather(0, drawn).flatten().tolist()
    engine.adopt(orders)


def mean_of(looks: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Mean energies of an episode's looks, by site."""
    return {key: torch.stack([look[key] for look in looks]).mean(0) for key in looks[0]}
