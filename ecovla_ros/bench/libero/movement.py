"""How alike the best channels of different looks are, and what a pattern keeps of a look it was not made for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from ecovla_ros.prune import importance
from ecovla_ros.prune.energy import estimate
from ecovla_ros.prune.select import kept_count
from ecovla_ros.prune.site import Site

PHASES = ("first third", "second third", "last third")


@dataclass(frozen=True)
class Look:
    """One recorded look: energies of every channel (Eq. 8), and over sampled tokens alone; site key -> (R,)."""

    task: str
    episode: int
    phase: int
    """Which third of its episode, 0 to 2."""
    energy: Mapping[str, Tensor]
    sampled: Mapping[str, Tensor]


def scores(site: Site, energy: Tensor) -> Tensor:
    """Importance (C,) by energy and weight (Eq. 11)."""
    factor = importance.ppsp_factor(site.consumer)
    return importance.ppsp(energy[None], factor[None], site.unit)[0]


def best(site: Site, score: Tensor, ratio: float) -> Tensor:
    """The kept channels of importance (C,), as a mask; within each KV group equally many."""
    kept = kept_count(site.channels, ratio, site.step)
    grouped = score.unflatten(0, (-1, site.groups))
    top = grouped.topk(kept // site.groups, dim=0).indices
    return torch.zeros_like(grouped, dtype=torch.bool).scatter_(0, top, True).flatten()


def mean_scores(site: Site, looks: Sequence[Look]) -> Tensor:
    """Importance of the mean energy of some looks."""
    return scores(site, torch.stack([look.energy[site.key] for look in looks]).mean(0))


def overlap(site: Site, groups: Sequence[Sequence[Look]], ratio: float) -> float | None:
    """Mean share of kept channels that two of these groups of looks have in common; None for fewer than two groups."""
    masks = [best(site, mean_scores(site, looks), ratio) for looks in groups if looks]
    shares = [float((a & b).sum() / a.sum()) for a, b in combinations(masks, 2)]
    return float(np.mean(shares)) if shares else None


def split(looks: Sequence[Look], by: Callable[[Look], object]) -> list[list[Look]]:
    """Groups of looks that agree in `by`, in the order they come."""
    groups: dict[object, list[Look]] = {}
    for look in looks:
        groups.setdefault(by(look), []).append(look)
    return list(groups.values())


def overlaps(site: Site, looks: Sequence[Look], ratio: float) -> dict[str, float | None]:
    """Of tasks, of episodes of one task, of phases of one task, and of two halves of the same looks."""
    tasks = split(looks, lambda look: look.task)

    def within(by: Callable[[Look], object]) -> float | None:
        found = [overlap(site, split(task, by), ratio) for task in tasks]
        known = [value for value in found if value is not None]
        return float(np.mean(known)) if known else None

    halves = [overlap(site, (task[::2], task[1::2]), ratio) for task in tasks if len(task) > 1]
    return {
        "tasks": overlap(site, tasks, ratio),
        "scenes": within(lambda look: look.episode),
        "phases": within(lambda look: look.phase),
        "halves": float(np.mean([h for h in halves if h is not None])) if halves else None,
    }


def kept_shares(site: Site, looks: Sequence[Look], ratio: float, seed: int = 0) -> dict[str, float]:
    """Mean share of what the best pattern of each look keeps that other patterns keep of it.

    oracle: one pattern from all looks of the same episode. same task: from its other episodes. other tasks. last look:
    what a dense look before it says. probe: what the pattern before it and sampled tokens say. random.
    """
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, list[float]] = {}
    for episode in split(looks, lambda look: (look.task, look.episode)):
        fixed = _fixed(site, looks, episode, ratio)
        before: Tensor | None = None
        probed: Tensor | None = None
        for look in episode:
            score = scores(site, look.energy[site.key])
            ceiling = float(score[best(site, score, ratio)].sum())
            masks = dict(fixed)
            masks["random"] = best(site, torch.rand(site.channels, generator=generator), ratio)
            if before is not None and probed is not None:
                masks["last look"], masks["probe"] = before, probed
            for name, mask in masks.items():
                found.setdefault(name, []).append(float(score[mask].sum()) / ceiling if ceiling > 0.0 else 1.0)
            last = probed if probed is not None else fixed.get("other tasks", fixed["oracle"])
            before, probed = best(site, score, ratio), _probe(site, look, last, ratio)
    return {name: float(np.mean(values)) for name, values in found.items()}


def _fixed(site: Site, looks: Sequence[Look], episode: Sequence[Look], ratio: float) -> dict[str, Tensor]:
    """Patterns that stay for the whole of an episode, from what is known of it, of its task, of others."""
    task, number = episode[0].task, episode[0].episode
    groups = {
        "oracle": list(episode),
        "same task": [look for look in looks if look.task == task and look.episode != number],
        "other tasks": [look for look in looks if look.task != task],
    }
    return {name: best(site, mean_scores(site, some), ratio) for name, some in groups.items() if some}


def _probe(site: Site, look: Look, pattern: Tensor, ratio: float) -> Tensor:
    """The pattern after a probe: kept channels are known exactly, pruned ones by sampled tokens (`energy.estimate`)."""
    rows = pattern.repeat_interleave(site.unit)
    order = torch.cat((rows.nonzero()[:, 0], (~rows).nonzero()[:, 0]))
    kept = int(rows.sum())
    record, sampled = look.energy[site.key][order][None], look.sampled[site.key][order][None]
    guess = torch.empty_like(look.energy[site.key])
    guess[order] = estimate(record, sampled, sampled[:, kept:], kept)[0]
    return best(site, scores(site, guess), ratio)
