"""Statistics and patterns of the sites of one shape: every formula runs on all of them at once.

L sites, C channels, R = C * unit rows. Everything known of a channel lies in slot order and travels with its rows, so
that histories never mix channels when a pattern changes. All buffers are allocated once and belong to the refresh.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ecovla_ros.config import PruneConfig
from ecovla_ros.engine.situation import StackRows
from ecovla_ros.errors import PruningError
from ecovla_ros.kernels.available import triton_runs_on
from ecovla_ros.kernels.probe import GatedProbe
from ecovla_ros.kernels.sums import PARTS
from ecovla_ros.prune import importance
from ecovla_ros.prune.energy import estimate
from ecovla_ros.prune.partition import Partition, travel
from ecovla_ros.prune.select import Exchange, bands, exchange
from ecovla_ros.prune.site import Record, Site


@dataclass(frozen=True)
class Change:
    """What a refresh of one stack found, before anything is written."""

    history: Tensor
    """E after the frame (Eq. 10), (L, R), in the slots of before the swaps."""
    mean: Tensor | None
    """Mean activations after the frame, likewise; None without compensation."""
    swaps: tuple[Exchange, ...]
    """One for each border, inner first."""
    finite: Tensor
    """(): False if the frame's statistics were not finite; then nothing changes."""

    def void(self) -> Change:
        """The same work without effect: no pair is wanted, and no statistic is taken."""
        swaps = tuple(one._replace(wanted=torch.zeros_like(one.wanted)) for one in self.swaps)
        return replace(self, swaps=swaps, finite=torch.zeros_like(self.finite))


class Stack:
    """Sites of one shape and phase, with one border for each kept count."""

    def __init__(self, sites: Sequence[Site], kept: Sequence[int], config: PruneConfig, tokens: Tensor) -> None:
        """`kept`: kept channels of every tier. `tokens` (m,): positions a probe samples, shared by a phase.

        Raises PruningError for sites that do not fit their weights.
        """
        first = sites[0]
        self.sites, self.phase, self.unit = list(sites), first.phase, first.unit
        self.borders = sorted({k for k in kept if k < first.channels})
        self._config, self._tokens = config, tokens
        shape, device = (len(sites), first.rows), first.consumer.device
        parts = PARTS if triton_runs_on(first.consumer) else 1
        self._sums = torch.zeros((3 if config.compensate else 2, parts, *shape), device=device)
        """Energies, energies of sampled tokens and sums, as a pass adds them up, (kinds, parts, L, R)."""
        self.history = torch.zeros(shape, device=device)
        wanda = config.method == "wanda"
        weigh = importance.wanda_factor if wanda else importance.ppsp_factor
        self._importance = importance.wanda if wanda else importance.ppsp
        self.factor = torch.stack([weigh(s.consumer) for s in sites])
        self.mean = torch.zeros(shape, device=device) if config.compensate else None
        self.bias = {k: [torch.zeros_like(s.consumer[0]) for s in sites] for k in self.borders if config.compensate}
        self.partition = Partition(sites, [t for t in (self.history, self.factor, self.mean) if t is not None])
        probed = config.refresh == "probe" and all(s.hidden is not None for s in sites)
        self.inputs = _inputs(sites, len(tokens)) if probed else None
        """Inputs of the layers at the sampled tokens, (L, samples, m, D); None where nothing is probed."""
        self._gated = _gated_probe(sites) if probed else None
        self.seen = self.mean_known = False
        """True once the history, or the mean, holds what some frame or the calibration gave."""

    @property
    def bytes(self) -> int:
        """Memory of the buffers this stack owns."""
        own = (self._sums, self.history, self.factor, self.mean, self.partition.channel, self.inputs)
        return sum(t.nbytes for t in (*own, *sum(self.bias.values(), [])) if t is not None)

    def records(self, probe: bool, gate: Tensor | None = None) -> dict[str, Record]:
        """Where a pass leaves its statistics, where `gate` wants them; with `probe` it also leaves samples."""
        out = {}
        for row, site in enumerate(self.sites):
            energy, sampled, *rest = self._sums[:, 0, row]
            parts = self._sums[:, :, row] if self._sums.shape[1] > 1 else None
            record = Record(energy, rest[0] if rest else None, parts=parts, calls=site.recorded, gate=gate)
            if probe and self.inputs is not None:
                record = record._replace(sampled=sampled, inputs=self.inputs[row], tokens=self._tokens)
            out[site.key] = record
        return out

    @property
    def energy(self) -> Tensor:
        """What the last pass recorded, (L, R)."""
        return self._added()[0]

    def _added(self) -> Tensor:
        """Energies, energies of sampled tokens and sums, as a pass adds them up, (kinds, parts, L, R)."""
        return self._sums[:, 0] if self._sums.shape[1] == 1 else self._sums.sum(1)

    def clear(self) -> None:
        """Zero what a pass adds to."""
        self._sums.zero_()

    def start(self, energies: Mapping[str, Tensor]) -> None:
        """History from calibration: site key -> (R,), channel order, "<key>.mean" likewise. Raises PruningError."""
        for suffix, buffer in (("", self.history), (".mean", self.mean)):
            if buffer is None:
                continue
            rows = [_calibrated(energies, site, suffix) for site in self.sites]
            if suffix and any(row is None for row in rows):
                continue
            buffer.copy_(self.partition.by_slot(torch.stack([r.to(buffer) for r in rows if r is not None])))
            self.mean_known |= bool(suffix)
        self.seen = True

    def prepare(self, kept: int | None, tokens: int, frames: int = 1) -> Change:
        """Energies of the last recorded pass to what should change (Eq. 8-11). Writes nothing a frame reads.

        `kept`: channels that pass ran, None: all. `tokens`: tokens of the pass, for means. `frames`: so many passes
        were added up, of `tokens` tokens together; energies are then those of a mean frame.
        """
        rows = self.history.shape[1] if kept is None else kept * self.unit
        probed = self._probe(rows) if rows < self.history.shape[1] and self.inputs is not None else None
        energy, sampled, *total = self._added()
        now = self._energies(rows, energy, sampled, probed)
        now = now if frames == 1 else now / frames
        if self.sites[0].recorded:  # the history counts every call of a frame
            now = now * (self.sites[0].calls / self.sites[0].recorded)
        mean = self._means(rows, total[0], probed, tokens) if total else None
        finite = torch.isfinite(now).all()
        history = now if not self.seen else self.history
        fused = importance.fuse(history, now, self._config.alpha)
        history = history.lerp(now, 1.0 - self._config.decay)  # Eq. 10, kept aside until `apply`
        return Change(history, mean, self.exchanges(self.score(fused), finite, settled=self.seen), finite)

    def score(self, energy: Tensor) -> Tensor:
        """Importance (L, C) in slot order of energies (L, R) (Eq. 11)."""
        return self._importance(energy, self.factor, self.unit)

    def exchanges(self, scores: Tensor, allowed: Tensor, settled: bool = True) -> tuple[Exchange, ...]:
        """Pairs for every border, inner first. `settled` False: a first pattern, without budget and hysteresis."""
        budget = self._config.swap_budget or None if settled else None
        hysteresis = self._config.hysteresis if settled else 0.0
        found: list[Exchange] = []
        for border in self.borders:
            if found:
                scores = scores.clone()
                travel(scores, found[-1], 1)
            swaps = exchange(scores, border, self.sites[0].groups, budget, hysteresis)
            found.append(swaps._replace(wanted=swaps.wanted & allowed))
        return tuple(found)

    def apply(self, change: Change) -> Tensor:
        """Write a change: history, rows, biases. Returns the number of swapped pairs, ()."""
        self.history.copy_(torch.where(change.finite, change.history, self.history))
        if self.mean is not None and change.mean is not None:
            self.mean.copy_(torch.where(change.finite, change.mean, self.mean))
        return self.arrange(change.swaps)

    @property
    def known(self) -> bool:
        """True once history and means hold what some frame or the calibration gave."""
        return self.seen and (self.mean is None or self.mean_known)

    def learnt(self) -> None:
        """A change was applied: the history, and with compensation the mean, are known from now on."""
        self.seen, self.mean_known = True, self.mean is not None

    def arrange(self, swaps: Sequence[Exchange]) -> Tensor:
        """Exchange rows and all that is known of them; biases for the channels that are pruned then."""
        for one in swaps:
            self.partition.apply(one)
        if self.mean is not None:
            for kept, biases in self.bias.items():
                rows = kept * self.unit
                for row, (site, bias) in enumerate(zip(self.sites, biases)):
                    pruned = self.mean[row, rows:].to(site.consumer.dtype)
                    bias.copy_(pruned @ site.consumer[rows:])
        counts = [one.wanted.sum() for one in swaps]
        if len(counts) == 1:  # a kernel or two less
            return counts[0]
        return torch.stack(counts).sum() if counts else self.history.new_zeros(())

    def adopt(self, orders: Mapping[str, Sequence[int]]) -> None:
        """Rebuild an exported pattern: site key -> channels by slot. Raises PruningError."""
        missing = [s.key for s in self.sites if s.key not in orders]
        if missing:
            have = ", ".join(sorted(orders))
            raise PruningError(f"the pattern names no channels of site {missing[0]}; it has {have}")
        site = self.sites[0]
        for s in self.sites:
            if len(orders[s.key]) != s.channels:
                count = len(orders[s.key])
                raise PruningError(f"the pattern of site {s.key} has {count} channels; the site {s.channels}")
        wanted = torch.stack([bands(orders[s.key], self.borders, site.groups) for s in self.sites])
        scores = wanted.to(self.history.device).gather(1, self.partition.channel)
        self.arrange(self.exchanges(scores, torch.ones((), dtype=torch.bool, device=scores.device), settled=False))

    def leave(self) -> StackRows:
        """A copy of the order of the rows and of what is known of them."""
        bias = {kept: [b.clone() for b in biases] for kept, biases in self.bias.items()}
        mean = None if self.mean is None else self.mean.clone()
        return StackRows(self.partition.channel.clone(), self.history.clone(), mean, bias, self.seen, self.mean_known)

    def enter(self, left: StackRows) -> int:
        """Put the rows into that order again, bit by bit as it was. Returns how many rows moved."""
        moved = self.partition.reorder(left.channel) * self.unit
        self.history.copy_(left.history)
        if self.mean is not None and left.mean is not None:
            self.mean.copy_(left.mean)
        for kept, biases in self.bias.items():
            for bias, before in zip(biases, left.bias[kept]):
                bias.copy_(before)
        self.seen, self.mean_known = left.seen, left.mean_known
        return moved

    def _energies(self, rows: int, energy: Tensor, sampled: Tensor, probed: Tensor | None) -> Tensor:
        """(L, R): exact where the pass ran, estimated from the probe or as the history has it elsewhere."""
        if rows == energy.shape[1]:
            return energy.clone()
        if probed is None:
            return torch.cat((energy[:, :rows], self.history[:, rows:]), 1)
        return estimate(energy, sampled, probed[0], rows)

    def _probe(self, rows: int) -> Tensor:
        """Sums of squares and of values of the rows that did not run, over the sampled tokens, (2, L, R - rows)."""
        assert self.inputs is not None
        first, found = rows // self.unit, []
        if self._gated is not None:
            return self._gated.sums(self.inputs.flatten(1, 2), first)
        for site, inputs in zip(self.sites, self.inputs):
            assert site.hidden is not None
            tokens = self._tokens.repeat(len(inputs))
            hidden = site.hidden(inputs.flatten(0, 1), tokens, first, site.channels).float()
            found.append(torch.stack((hidden.square().sum(0), hidden.sum(0))))
        return torch.stack(found, 1)

    def _means(self, rows: int, total: Tensor, probed: Tensor | None, tokens: int) -> Tensor:
        """Mean activation of every row, averaged over time like the history; None without compensation.

        A token that runs besides the `tokens` of each call (the state token, once a frame) is in the sum alone.
        """
        assert self.mean is not None, "sums are recorded for means alone"
        now = total / (tokens * self.sites[0].recorded_calls)
        if rows < now.shape[1]:
            sampled = self.sites[0].samples * len(self._tokens)
            now = torch.cat((now[:, :rows], self.mean[:, rows:] if probed is None else probed[1] / sampled), 1)
        return now if not self.mean_known else self.mean.lerp(now, 1.0 - self._config.decay)


def _inputs(sites: Sequence[Site], tokens: int) -> Tensor:
    weight, samples = sites[0].producers[0], sites[0].samples
    return torch.zeros((len(sites), samples, tokens, weight.shape[1]), dtype=weight.dtype, device=weight.device)


def _gated_probe(sites: Sequence[Site]) -> GatedProbe | None:
    """The probe of gated MLPs in one kernel; None for other sites."""
    if any(not s.activation or s.activation != sites[0].activation or len(s.producers) != 2 for s in sites):
        return None
    return GatedProbe([s.producers[0] for s in sites], [s.producers[1] for s in sites], sites[0].activation)


def _calibrated(energies: Mapping[str, Tensor], site: Site, suffix: str) -> Tensor | None:
    found = energies.get(site.key + suffix)
    if found is None and suffix:
        return None
    if found is None or found.shape != (site.rows,):
        shape = None if found is None else tuple(found.shape)
        raise PruningError(f"calibration of site {site.key}{suffix}: {shape}; valid: ({site.rows},)")
    if not torch.isfinite(found).all() or (not suffix and (found < 0).any()):
        raise PruningError(f"calibration of site {site.key}{suffix} holds negative or non-finite energies")
    return found
