"""The side door: what a pass recorded -> history -> importance -> next pattern -> row swaps (paper, Eq. 8-11).

Two kinds behind one switch. `dense` is the paper's: the frame that triggers runs dense and records every channel.
`probe` is ours: the frame stays sparse; its kept channels' energies fall out of the pass, those of the pruned channels
come from a few sampled tokens that the refresh runs through the pruned rows, beside the frame.

A refresh has two halves. `prepare` reads records and weights and may be abandoned; what it returns writes weights, and
is all that may not be interrupted. On CUDA the number of kernels in both is fixed: nothing loops on data or waits.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from ecovla_ros.config import ADAPTIVE, PruneConfig
from ecovla_ros.engine.fit import Count, asked
from ecovla_ros.engine.outcome import PHASES, Outcome, Outcomes, RefreshState
from ecovla_ros.engine.recorder import Recorder
from ecovla_ros.engine.situation import OwnPattern
from ecovla_ros.engine.stack import Change, Stack
from ecovla_ros.errors import PruningError
from ecovla_ros.kernels import sums
from ecovla_ros.prune.energy import spread
from ecovla_ros.prune.site import Plan, Record, Site


class Refresh:
    """Patterns of all selected sites of one policy, and the plans a frame may run with.

    Tier i leaves out the i-th smallest of the configured ratios; its kept channels contain those of every later tier.
    """

    def __init__(
        self,
        sites: Sequence[Site],
        config: PruneConfig,
        clock: Callable[[], float] = time.perf_counter,
        count: Count = asked,
    ) -> None:
        """`count`: channels that a site keeps at a ratio. Raises PruningError for ratios and sites that do not fit."""
        chosen = [
            s.recording(config.record_steps)
            for s in sites
            if s.group in config.sites and _layer(s) not in config.skip_layers
        ]
        if config.ratio > 0 and not chosen:
            have = sorted({s.group for s in sites})
            raise PruningError(f"no site of groups {list(config.sites)} outside skip_layers; this model has {have}")
        if config.deadline_ms > 0 and not config.tiers:
            raise PruningError("prune.deadline_ms chooses among tiers; valid with prune.tiers, e.g. [0.0, 0.25, 0.5]")
        self._config, self._count = config, count
        self.ratios = sorted({config.ratio, *config.tiers})
        self.home = self.ratios.index(config.ratio)
        """The tier of the configured ratio."""
        device = chosen[0].consumer.device if chosen else torch.device("cpu")
        self._tokens = {p: torch.zeros(config.probe_tokens, dtype=torch.int64, device=device) for p in PHASES}
        self._generator = torch.Generator().manual_seed(config.seed)
        self.stacks = [self._stack(group) for group in _by_shape(chosen)]
        self.sparse = tuple(self._plan(tier) for tier in range(len(self.ratios)))
        self._gate, self._bound = sums.gate(device), math.inf
        self.probing = tuple(replace(plan, record=self._records(probe=True)) for plan in self.sparse)
        self.recording = Plan(record=self._records(probe=False))
        self.state = RefreshState()
        self.torn = False
        """True if writing a pattern failed half-way: rows of one channel may lie in different slots."""
        self._outcomes = Outcomes(device, clock)
        self._lengths = dict.fromkeys(PHASES, 1)
        self._frames = 1
        """Passes whose records are added up, and the tokens of all of them by phase."""
        self._clean = False
        """Whether nothing was added to the records since they were zeroed."""
        self._offsets: dict[str, float] = {}
        """Where the next probe's tokens lie between one another (see prune/energy `spread`); empty: to be drawn."""
        self._laid: dict[str, tuple[int, range, float]] = {}
        self._found = {p: torch.zeros(2, dtype=torch.int64, device=device) for p in PHASES}
        """What a job found: pairs that were swapped, and 1 if all its energies were finite."""
        self._graphs: dict[tuple[str, Plan, int], Callable[[], None]] = {}
        if config.method == "random":
            self._arrange_at_random()

    def plans(self, without_records: bool = True) -> tuple[Plan, ...]:
        """Every plan a frame of this method may run with; of the sparse ones those alone that record, if it is so."""
        adaptive = (self.recording, *self.probing) if self._config.method in ADAPTIVE else ()
        return (*(self.sparse if without_records else ()), *adaptive)

    @property
    def bytes(self) -> int:
        """Memory of all buffers of the refresh."""
        return sum(s.bytes for s in self.stacks) + sum(t.nbytes for t in self._tokens.values())

    def calibrate(self, energies: Mapping[str, Tensor]) -> None:
        """Start the histories from calibration energies (site key -> (R,), channel order) and set the first pattern.

        Raises PruningError for a missing site, a wrong shape, or energies that are negative or not finite.
        """
        for stack in self.stacks:
            stack.start(energies)
            if self._config.compensate and not stack.mean_known and self._config.method not in ADAPTIVE:
                raise PruningError(
                    f"compensation with method {self._config.method} needs mean activations, and the calibration of "
                    f"{stack.sites[0].group} has none; valid: prune.compensate=false, or method {' or '.join(ADAPTIVE)}"
                )
        for stack in self.stacks if self._config.method != "random" else ():
            yes = torch.ones((), dtype=torch.bool, device=stack.history.device)
            stack.arrange(stack.exchanges(stack.score(stack.history), yes, settled=False))

    def patterns(self) -> dict[str, list[int]]:
        """Site key -> its channels by slot: the kept ones of every tier first."""
        return {
            site.key: order
            for stack in self.stacks
            for site, order in zip(stack.sites, stack.partition.channel.tolist())
        }

    def adopt(self, orders: Mapping[str, Sequence[int]]) -> None:
        """Rebuild exported patterns. Raises PruningError for a site, length or order that does not fit."""
        for stack in self.stacks:
            stack.adopt(orders)

    def forget(self) -> None:
        """Histories hold nothing, as before the first frame."""
        for stack in self.stacks:
            stack.seen = stack.mean_known = False

    def watch(self, plan: Plan, prefix: int, horizon: int, padding: range = range(0), more: bool = False) -> None:
        """Before a pass that records: zero what it adds to (with `more`: add to what is there), and say which tokens it
        samples.

        `prefix` tokens in the prefill, of which those in `padding` are none, and `horizon` in the action head. Tokens
        are drawn once for each refresh: passes that record and are followed by none sample the same ones again.
        """
        if not more:
            self.clear()
        self._clean = False
        before, self._frames = (self._lengths, self._frames + 1) if more else (dict.fromkeys(PHASES, 0), 1)
        self._lengths = {"prefill": before["prefill"] + prefix - len(padding), "act": before["act"] + horizon}
        if not plan.kept:
            return
        if not self._offsets:
            self._offsets = {phase: float(torch.rand((), generator=self._generator)) for phase in PHASES}
        for phase, length, empty in (("prefill", prefix, padding), ("act", horizon, range(0))):
            laid = (length, empty, self._offsets[phase])
            if self._laid.get(phase) != laid:
                self._laid[phase], tokens = laid, self._tokens[phase]
                tokens.copy_(spread(len(tokens), *laid[:1], laid[2], empty), non_blocking=True)

    def clear(self) -> None:
        """Zero what passes add to, unless that was done since the last one."""
        for stack in () if self._clean else self.stacks:
            stack.clear()
        self._clean = True

    @property
    def similarity(self) -> Tensor:
        """(): where the similarity of a frame belongs whose probing pass is issued before anybody has read it."""
        return self._gate[0]

    def want(self, below: float) -> None:
        """Before a probing pass: what it records is wanted if `similarity` is less than `below`, or no number. Where
        it is not, kernels may leave the records as they are."""
        if below == self._bound:
            return
        self._bound = below
        self._gate[1].fill_(below)  # a kernel's argument: a copy from the host would wait its turn between kernels

    def begin(self, plan: Plan) -> None:
        """A refresh follows the pass of `plan`: its outcome has a place, and the next one samples other tokens."""
        self._outcomes.begin()
        if plan.kept:
            self.forget_tokens()

    def forget_tokens(self) -> None:
        """The next pass that samples tokens draws them anew."""
        self._offsets = {}

    @contextmanager
    def undrawn(self) -> Iterator[None]:
        """The passes inside draw tokens, and the next one draws what it would have drawn without them."""
        before = self._generator.get_state()
        try:
            yield
        finally:
            self._generator.set_state(before)

    def prepare(self, phase: str, plan: Plan) -> Callable[[], None]:
        """First half of the job of a phase: what should change. The second half, returned, writes it."""
        known, outcome = all(s.known for s in self._of(phase)), self._outcomes.newest
        replay = self._graphs.get(self._key(phase, plan)) if known and self._frames == 1 else None
        if replay is None:
            return self._job(phase, plan, outcome, rehearsed=False)

        def replayed() -> None:
            outcome.timers[phase].begin()
            before, self.torn = self.torn, True
            replay()
            self.torn = before
            outcome.end(phase, self._found[phase])

        return replayed

    def rehearse(self, phase: str, plan: Plan) -> Callable[[], None]:
        """As `prepare`, of a pass of `warm_up`: kernels are compiled and memory is allocated, and nothing changes."""
        return self._job(phase, plan, self._outcomes.spare(), rehearsed=True)

    def capture(self, phase: str, plan: Plan, recorder: Recorder) -> None:
        """Record the job of a phase, after a rehearsal; nothing runs. It is replayed where every history is known. Not
        a job that probes what goes by the frame (`Site.of_frame`): that one is issued anew every time."""
        stacks, key = self._of(phase), self._key(phase, plan)
        records = plan.record or {}
        of_frame = [site.key for stack in stacks for site in stack.sites if site.of_frame]
        if key in self._graphs or any(records[k].inputs is not None for k in of_frame if k in records):
            return

        def run() -> None:
            changes = [s.prepare(plan.kept.get(s.sites[0].key), self._lengths[phase]) for s in stacks]
            self._write(phase, stacks, changes)

        before = [(s.seen, s.mean_known) for s in stacks]
        for stack in stacks:
            stack.learnt()
        self._graphs[key], _ = recorder.capture(run, warm_ups=0)
        for stack, (seen, mean_known) in zip(stacks, before):
            stack.seen, stack.mean_known = seen, mean_known

    def _job(self, phase: str, plan: Plan, outcome: Outcome, rehearsed: bool) -> Callable[[], None]:
        timer, stacks = outcome.timers[phase], self._of(phase)
        timer.begin()
        changes = [s.prepare(plan.kept.get(s.sites[0].key), self._lengths[phase], self._frames) for s in stacks]
        changes = [c.void() for c in changes] if rehearsed else changes
        timer.pause()

        def write() -> None:
            timer.resume()
            before, self.torn = self.torn, True
            self._write(phase, stacks, changes)
            for stack in () if rehearsed else stacks:
                stack.learnt()
            self.torn = before
            outcome.end(phase, self._found[phase])

        return write

    def _write(self, phase: str, stacks: Sequence[Stack], changes: Sequence[Change]) -> None:
        swaps, finite = [s.apply(c) for s, c in zip(stacks, changes)], [c.finite for c in changes]
        found = self._found[phase]
        found[0] = swaps[0] if len(swaps) == 1 else torch.stack(swaps).sum()
        found[1] = finite[0] if len(finite) == 1 else torch.stack(finite).all()

    def _key(self, phase: str, plan: Plan) -> tuple[str, Plan, int]:
        """What a captured job depends on: means are divided by the number of tokens, which a graph bakes."""
        return phase, plan, self._lengths[phase] if self._config.compensate else 0

    def _of(self, phase: str) -> list[Stack]:
        return [s for s in self.stacks if s.phase == phase]

    def runs_in(self, phase: str) -> bool:
        """True if some selected site belongs to the phase."""
        return any(stack.phase == phase for stack in self.stacks)

    def poll(self) -> None:
        """Let `state` tell of one more refresh that has ended, the oldest first; never waits for one that has not."""
        ended = self._outcomes.ended()
        if ended is not None:
            self.state = ended.take(self.state)

    def leave(self) -> OwnPattern:
        """The pattern and its histories, to come back to. Only with every refresh ended."""
        stacks = tuple(stack.leave() for stack in self.stacks)
        return OwnPattern(stacks, self.state, dict(self._offsets), self._generator.get_state())

    def enter(self, left: OwnPattern) -> int:
        """Go on from a pattern that was left. Returns how many rows moved; torn weights stay so if that fails."""
        before, self.torn = self.torn, True
        moved = sum(stack.enter(rows) for stack, rows in zip(self.stacks, left.stacks))
        self.torn = before
        self.state, self._offsets = left.state, dict(left.offsets)
        self._generator.set_state(left.generator)
        return moved

    def close(self) -> None:
        """Put every channel back into its own slot: the weights are as they were loaded."""
        for stack in self.stacks:
            stack.partition.restore()

    def _stack(self, sites: list[Site]) -> Stack:
        first = sites[0]
        kept = [self._count(first, ratio) for ratio in self.ratios]
        return Stack(sites, kept, self._config, self._tokens[first.phase])

    def _plan(self, tier: int) -> Plan:
        ratio = self.ratios[tier]
        kept = {s.key: self._count(s, ratio) for stack in self.stacks for s in stack.sites}
        bias = {
            s.key: stack.bias[kept[s.key]][row]
            for stack in self.stacks
            for row, s in enumerate(stack.sites)
            if kept[s.key] in stack.bias
        }
        rows = sum(s.rows for stack in self.stacks for s in stack.sites)
        left = sum(kept[s.key] * s.unit for stack in self.stacks for s in stack.sites)
        return Plan(kept, None, bias, 1.0 - left / rows if rows else 0.0)

    def _records(self, probe: bool) -> dict[str, Record]:
        gate = self._gate if probe else None
        return {key: record for stack in self.stacks for key, record in stack.records(probe, gate).items()}

    def _arrange_at_random(self) -> None:
        generator = torch.Generator().manual_seed(self._config.seed)
        for stack in self.stacks:
            scores = torch.rand(stack.partition.channel.shape, generator=generator).to(stack.history.device)
            yes = torch.ones((), dtype=torch.bool, device=scores.device)
            stack.arrange(stack.exchanges(scores, yes, settled=False))


def _layer(site: Site) -> int:
    return int(site.key.split(".")[1])


def _by_shape(sites: Sequence[Site]) -> list[list[Site]]:
    groups: dict[tuple[str, int, int], list[Site]] = {}
    for site in sites:
        groups.setdefault((site.group, site.channels, site.unit), []).append(site)
    return list(groups.values())
