"""The side door: recorded energies -> history -> importance -> next pattern -> row swaps (paper, Eq. 8-11).

A refresh owns all it touches: energy records, histories, factors and partitions, allocated once. Sites of one shape
form a stack, and every formula runs on a whole stack at once: (L, R) with L sites and R = channels * unit rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ecovla_ros.config import PruneConfig
from ecovla_ros.errors import PruningError
from ecovla_ros.prune import importance
from ecovla_ros.prune.partition import Partition
from ecovla_ros.prune.select import keep_best, kept_count
from ecovla_ros.prune.site import Plan, Site


@dataclass
class Stack:
    """Sites of one shape and phase."""

    sites: list[Site]
    kept: int
    record: Tensor
    """Energies of the last recorded frame, slot order, (L, R) float32."""
    history: Tensor
    """E of Eq. 9 and 10, channel order, (L, R) float32."""
    ppsp: Tensor
    wanda: Tensor
    partitions: list[Partition] = field(default_factory=list)
    seen: bool = False
    """True once the history holds energies of some frame."""


@dataclass
class RefreshState:
    """What the last refresh that has ended did. Written by the job, read after `join`."""

    swaps: int = 0
    pattern_id: int = 0
    duration_ms: float = 0.0
    fault: str = ""


class Refresh:
    """Patterns of all selected sites of one policy.

    `recording` and `sparse` are the two plans a frame may run with; the first records into this refresh's buffers.
    """

    def __init__(
        self, sites: Sequence[Site], config: PruneConfig, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._config, self._clock = config, clock
        chosen = [s for s in sites if s.group in config.sites and _layer(s) not in config.skip_layers]
        if config.ratio > 0 and not chosen:
            have = sorted({s.group for s in sites})
            raise PruningError(f"no site of groups {list(config.sites)} outside skip_layers; this model has {have}")
        self.stacks = [_stack(group, config.ratio) for group in _by_shape(chosen)]
        self.state = RefreshState()
        records = {
            site.key: stack.record[row] for stack in self.stacks for row, site in enumerate(stack.sites)
        }
        self.recording = Plan(energy=records)
        self.sparse = Plan(kept={s.key: stack.kept for stack in self.stacks for s in stack.sites})

    @property
    def calibrated(self) -> bool:
        """True once every history holds energies of some frame."""
        return all(stack.seen for stack in self.stacks)

    @property
    def ratio(self) -> float:
        """Share of the selected sites' rows that a sparse frame leaves out, as the exact counts have it."""
        rows = sum(s.channels * s.unit for stack in self.stacks for s in stack.sites)
        kept = sum(stack.kept * s.unit for stack in self.stacks for s in stack.sites)
        return 1.0 - kept / rows if rows else 0.0

    def clear_record(self) -> None:
        """Zero the energy record: the next recorded pass adds into it."""
        for stack in self.stacks:
            stack.record.zero_()

    def calibrate(self, energies: Mapping[str, Tensor]) -> None:
        """Start the histories from calibration energies (site key -> (R,), channel order) and set the first pattern.

        Raises PruningError for a missing site, a wrong shape, or energies that are negative or not finite.
        """
        for stack in self.stacks:
            for row, site in enumerate(stack.sites):
                energy = energies.get(site.key)
                if energy is None or energy.shape != stack.history[row].shape:
                    shape = None if energy is None else tuple(energy.shape)
                    raise PruningError(
                        f"calibration of site {site.key}: {shape}; valid: ({site.channels * site.unit},)"
                    )
                if not torch.isfinite(energy).all() or (energy < 0).any():
                    raise PruningError(f"calibration of site {site.key} holds negative or non-finite energies")
                stack.history[row].copy_(energy)
        for stack in self.stacks:
            stack.seen = True
            self._rearrange(stack, self._first_scores(stack))

    def run(self, phase: str) -> None:
        """Refresh the sites of a phase ("prefill" or "act"): the job that is set aside. "prefill" comes first."""
        start = self._clock()
        if phase == "prefill":
            self.state = RefreshState(pattern_id=self.state.pattern_id)
        swaps = sum(self._refresh(stack) for stack in self.stacks if stack.sites[0].phase == phase)
        self.state.swaps += swaps
        self.state.pattern_id += bool(swaps)
        self.state.duration_ms += (self._clock() - start) * 1e3

    def runs_in(self, phase: str) -> bool:
        """True if some selected site belongs to the phase."""
        return any(stack.sites[0].phase == phase for stack in self.stacks)

    def close(self) -> None:
        """Put every channel back into its own slot: the weights are as they were loaded."""
        for stack in self.stacks:
            for partition in stack.partitions:
                partition.restore()

    def _refresh(self, stack: Stack) -> int:
        now = torch.stack([p.to_channels(r) for p, r in zip(stack.partitions, stack.record)])  # (L, R)
        if not torch.isfinite(now).all():
            self.state.fault = f"energies of {stack.sites[0].group} are not finite: the last pattern stays"
            return 0
        if not stack.seen:
            stack.history.copy_(now)
            stack.seen = True
        fused = importance.fuse(stack.history, now, self._config.alpha)
        importance.update_history(stack.history, now, self._config.decay)
        return self._rearrange(stack, importance.ppsp(fused, stack.ppsp, stack.sites[0].unit))

    def _rearrange(self, stack: Stack, scores: Tensor) -> int:
        keep = keep_best(scores, stack.kept, stack.sites[0].groups)
        return sum(p.arrange(mask, stack.kept) for p, mask in zip(stack.partitions, keep))

    def _first_scores(self, stack: Stack) -> Tensor:
        unit = stack.sites[0].unit
        if self._config.method == "wanda":
            return importance.wanda(stack.history, stack.wanda, unit)
        if self._config.method == "random":
            generator = torch.Generator().manual_seed(self._config.seed)
            shape = (len(stack.sites), stack.sites[0].channels)
            return torch.rand(shape, generator=generator).to(stack.history.device)
        return importance.ppsp(stack.history, stack.ppsp, unit)


def _layer(site: Site) -> int:
    return int(site.key.split(".")[1])


def _by_shape(sites: Sequence[Site]) -> list[list[Site]]:
    groups: dict[tuple[str, int, int], list[Site]] = {}
    for site in sites:
        groups.setdefault((site.group, site.channels, site.unit), []).append(site)
    return list(groups.values())


def _stack(sites: list[Site], ratio: float) -> Stack:
    first = sites[0]
    shape = (len(sites), first.channels * first.unit)
    device = first.consumer.device
    return Stack(
        sites=sites,
        kept=kept_count(first.channels, ratio, first.step),
        record=torch.zeros(shape, device=device),
        history=torch.zeros(shape, device=device),
        ppsp=torch.stack([importance.ppsp_factor(s.consumer) for s in sites]),
        wanda=torch.stack([importance.wanda_factor(s.consumer) for s in sites]),
        partitions=[Partition(s) for s in sites],
    )
