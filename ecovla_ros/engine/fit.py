"""How many channels to keep where a machine's products prefer some counts to others (`prune.fit: time`).

A GPU computes in tiles and waves: 8192 of 16384 channels can take a quarter less time than 9824, and 10240 no more than
9824. So the products of a site are timed at counts around the one that the ratio asks for, and that count is taken
which computes most channels per second among those that take no longer. Heads are few, and keep the count asked for.

What was chosen is a fact of the machine; an exported pattern says it (prune/pattern), and whoever starts from that
pattern keeps as many, on any machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from ecovla_ros.config import PruneConfig
from ecovla_ros.engine.recorder import CudaRecorder
from ecovla_ros.errors import PruningError
from ecovla_ros.kernels.choice import KERNEL_CHOICE
from ecovla_ros.prune import pattern
from ecovla_ros.prune.select import kept_count
from ecovla_ros.prune.site import Site

Count = Callable[[Site, float], int]
"""(site, ratio) -> kept channels."""
Timer = Callable[[Sequence[Site], int, int], float]
"""(sites of one shape, kept channels, tokens) -> time of their products, one site after the other."""

REACH = 1 / 6
"""Counts so far from the one asked for are tried, as a share of it."""
TRIED = 24
"""Counts at most."""
AS_LONG = 0.01
"""A count takes no longer than the one asked for if it takes less than this share longer: what timing can tell."""
AS_FAST = 0.03
"""Of counts whose rates differ by less than this share the largest is taken."""


def asked(site: Site, ratio: float) -> int:
    """The count nearest to the ratio."""
    return kept_count(site.channels, ratio, site.step)


def counts(policy: Any, config: PruneConfig, timer: Timer | None = None) -> Count:
    """The count of every site and ratio as `prune.fit` says. `timer`: None for the machine itself.

    Raises PruningError where `prune.pattern` is to say it and does not fit the sites.
    """
    if config.fit == "count":
        return asked
    if config.pattern:
        return _of_pattern(policy.sites, config)
    lengths = _lengths(policy)
    found: dict[tuple[str, int, int, float], int] = {}
    for ratio in sorted({config.ratio, *config.tiers} - {0.0}):
        for sites in _by_shape(s for s in policy.sites if s.group in config.sites and s.unit == 1):
            first = sites[0]
            times = {
                kept: sum((timer or timed)(sites, kept, tokens) for tokens in lengths[first.phase])
                for kept in candidates(first, ratio)
            }
            found[(*_shape(first), ratio)] = best(asked(first, ratio), times)
    return lambda site, ratio: found.get((*_shape(site), ratio), asked(site, ratio))


def candidates(site: Site, ratio: float) -> list[int]:
    """Counts to time: the one asked for, and multiples of the site's step around it, evenly, `TRIED` at most."""
    middle = asked(site, ratio)
    low, high = middle * (1 - REACH), min(site.channels, middle * (1 + REACH))
    step = site.step
    while (high - low) / step > TRIED - 1:
        step *= 2
    some = range(-(-int(low) // step) * step, int(high) + 1, step)
    return sorted({middle, *(k for k in some if k > 0 and low <= k)})


def best(middle: int, times: Mapping[int, float]) -> int:
    """The count with most channels per time among those that take no longer than `middle`; of equals the largest."""
    limit = times[middle] * (1 + AS_LONG)
    rates = {kept: kept / took for kept, took in times.items() if took <= limit}
    top = max(rates.values())
    return max(kept for kept, rate in rates.items() if rate >= top * (1 - AS_FAST))


@torch.inference_mode()
def timed(sites: Sequence[Site], kept: int, tokens: int, repeats: int = 5) -> float:
    """Time of the products of `sites` at `kept` channels for `tokens` tokens, s: the least of `repeats`.

    One site after the other, as in a frame: when a weight comes to its turn again, no cache holds it any more. On CUDA
    out of a captured graph.
    """
    weight = sites[0].producers[0]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(tokens, weight.shape[1], generator=generator).to(weight)

    def run() -> None:
        for site in sites:
            if site.hidden is None:
                raise PruningError(f"prune.fit=time: the channels of site {site.key} cannot be run alone")
            site.hidden(x, torch.arange(0), 0, kept) @ site.consumer[:kept]

    with KERNEL_CHOICE.tuning():
        run()
    if not weight.is_cuda:
        return min(_host_s(run) for _ in range(repeats))
    replay, _ = CudaRecorder(weight.device).capture(run)
    return min(_device_s(replay) for _ in range(repeats))


def _host_s(run: Callable[[], None]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _device_s(replay: Callable[[], None]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    replay()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3


def _of_pattern(sites: Sequence[Site], config: PruneConfig) -> Count:
    """Of `prune.ratio` what the pattern's file says; of further tiers what their ratios ask for."""
    kept = pattern.kept(config.pattern)
    mine = [s for s in sites if s.group in config.sites and s.key in kept]
    for group in _by_shape(mine):
        found = sorted({kept[s.key] for s in group})
        if len(found) > 1:
            raise PruningError(
                f"pattern '{config.pattern}' keeps {found} channels of sites of {group[0].group}; valid: one count"
            )
    for site in mine:
        if not 0 < kept[site.key] <= site.channels or kept[site.key] % site.step:
            raise PruningError(
                f"pattern '{config.pattern}' keeps {kept[site.key]} channels of site {site.key}; valid: multiples of "
                f"{site.step} up to {site.channels}"
            )
    return lambda site, ratio: kept.get(site.key, asked(site, ratio)) if ratio == config.ratio else asked(site, ratio)


def _lengths(policy: Any) -> dict[str, list[int]]:
    """Phase -> tokens of one call, one entry for each shape that a frame can have. Nothing is captured."""
    while hasattr(policy, "inner"):
        policy = policy.inner
    with torch.inference_mode():
        prefixes = sorted({len(policy.encode(obs).prefix) for obs in policy.examples()})
    return {"prefill": prefixes, "act": [policy.spec.horizon]}


def _shape(site: Site) -> tuple[str, int, int]:
    return site.group, site.channels, site.unit


def _by_shape(sites: Any) -> list[list[Site]]:
    groups: dict[tuple[str, int, int], list[Site]] = {}
    for site in sites:
        groups.setdefault(_shape(site), []).append(site)
    return list(groups.values())
