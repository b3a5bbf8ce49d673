"""One frame through the model. Read `Engine.step` top to bottom: it is the schedule of the paper (sec. 4.2)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ecovla_ros.config import ADAPTIVE, PruneConfig
from ecovla_ros.engine.calibration import flow_noise
from ecovla_ros.engine.cold import ColdStart
from ecovla_ros.engine.deadline import Deadline
from ecovla_ros.engine.fit import counts
from ecovla_ros.engine.host_copy import HostCopy
from ecovla_ros.engine.order import asks_first
from ecovla_ros.engine.outcome import OUTSTANDING, PHASES, RefreshState
from ecovla_ros.engine.refresh import Refresh
from ecovla_ros.engine.sight import Sight
from ecovla_ros.engine.situation import OwnPattern, Situation
from ecovla_ros.engine.streams import Streams
from ecovla_ros.engine.timing import Stopwatch
from ecovla_ros.errors import ControlError, PruningError
from ecovla_ros.kernels.choice import KERNEL_CHOICE
from ecovla_ros.models.base import DENSE, BoundPolicy, LookingPolicy, Plan, Policy, Seen, TakesTurns
from ecovla_ros.prune.trigger import Decision, Trigger
from ecovla_ros.types import ActionChunk, FrameReport, Observation

UNDECIDED = Decision(False, float("nan"), float("nan"))


@dataclass(frozen=True)
class Step:
    """One answered frame."""

    chunk: ActionChunk
    report: FrameReport


class Engine:
    """Policy, trigger, refresh and streams.

    Threads: every method belongs to the inference thread. The refresh may write weights only between the end of the
    prefill that recorded it and the next `join`, which `step` calls before it reads a pattern or writes a record.
    """

    def __init__(
        self,
        policy: Policy,
        config: PruneConfig,
        streams: Streams,
        seed: int = 0,
        clock: Callable[[], float] = time.perf_counter,
        ahead: bool | None = False,
    ) -> None:
        """`ahead`: issue a whole frame before its trigger is read, where the trigger does not change what it computes.
        Every frame of refresh `probe` then may record: a device finds by itself whether that is wanted. For a device,
        which otherwise stands still; not with VLA-Cache, whose tokens keep nothing over a frame that records. None: as
        `warm_up` times it (engine/order).

        Raises PruningError where sites, ratios and settings do not fit.
        """
        self.policy, self.config = policy, config
        self._streams, self._watch, self._host_copy = streams, Stopwatch(clock), HostCopy()
        self._refresh = (
            Refresh(policy.sites, config, clock, counts(policy, config)) if config.method != "dense" else None
        )
        self._cold = ColdStart(config.cold_frames)
        if config.method in ("dense", "random"):
            self._cold.end()
        self._trigger = Trigger(config.p, config.window)
        self._bound = policy if isinstance(policy, BoundPolicy) else None
        own = hasattr(type(policy), "encode_and")  # what an instance passes on is not of a wrapper that encodes itself
        self._looking = policy if own and isinstance(policy, LookingPolicy) else None
        self._lets_go = self._bound is not None and self._bound.lets_go
        self._watches = config.method == "ecovla" or self._lets_go
        """Whether frames are compared: for a new pattern, or to let go of a chunk."""
        self._ahead = ahead is not False and config.refresh == "probe" and config.method in ADAPTIVE
        self._by_time = ahead is None and self._ahead
        known = self._refresh if self._ahead else None
        self._sight = Sight(None if known is None or not known.stacks else known.similarity)
        self._deadline: Deadline | None = None
        self._refreshes = 0
        self._kept_by: Plan | None = None
        self._refreshes_now: bool | None = False
        self._fault = ""
        """Of the last refresh of an arm that was left before it was told."""
        self._start: OwnPattern | None = None
        """The pattern and the histories of an adaptive method that every episode begins from."""
        self._cold_start = self._anew = False
        """Whether there were no energies to begin from; and whether an episode is still to begin from its start."""
        self._takes_turns = False
        """Whether other arms may have been left: what is in place is theirs too."""
        self._held: list[tuple[str, Any]] = []
        """Jobs of this frame that wait for its trigger: phase, and what on the main stream they come behind."""
        if self._refresh is not None:
            self._remember_start(self._refresh)
        self.reset(seed)

    def calibrate(self, energies: Mapping[str, Tensor]) -> None:
        """Start from calibration energies (site key -> (R,), channel order). Does nothing when dense.

        Raises PruningError where they do not fit the sites.
        """
        self._settled()
        self._kept_by = None
        if self._refresh is not None:
            self._refresh.calibrate(energies)
            self._cold.end()
            self._remember_start(self._refresh)

    def warm_up(self, repeats: int = 3) -> None:
        """Run every shape with every plan and its refresh, and measure the tiers if a deadline is set.

        Before the first frame, which then finds patterns, histories, weights and what draws tokens as they were. Raises
        PruningError where a refresh cannot run.
        """
        with nullcontext() if self._refresh is None else self._refresh.undrawn():
            self._run_all(self._refresh, repeats)

    @torch.inference_mode()
    def reset(self, seed: int, pattern: bool = True) -> None:
        """A new episode: forget the scene and draw the flow noise, which stays the same for the whole episode.

        With one noise per episode the policy is a function of the observation: consecutive chunks of a multi-modal
        policy do not jump between modes, and a replay may start at any frame.

        `pattern`: an adaptive method begins anew from its calibration too (without one, with dense frames), because
        what a pattern has followed in one task costs success in the next (docs/results/libero.md, "switched").
        False: the pattern in place is of several arms, and stays.
        """
        self._anew = self._anew or pattern
        if self._refresh is not None:
            self._begin_anew(self._refresh)
        self._noise = flow_noise(self.policy, seed)
        self._trigger.reset()
        self._sight.reset()
        if self._bound is not None:
            self._bound.forget_chunk()
        self._kept_by = None
        self._age = self._since = 0
        self._last = RefreshState() if self._refresh is None else self._refresh.state

    @torch.inference_mode()
    def leave(self, own: bool = False) -> Situation:
        """What is remembered of the arm whose frames came last, to come back to it with `enter`.

        `own`: with its pattern and histories; every refresh has then ended, and the device is idle. Else these stay in
        place, for whoever comes next.
        """
        pattern, fault, refresh = None, "", self._refresh
        self._takes_turns = True
        if own and refresh is not None:
            fault = self._ended(refresh)
            pattern = refresh.leave() if self._cold.over else None  # what is no pattern yet is everybody's
        counts = (self._age, self._since, self._refreshes)
        answer = self.policy.leave() if isinstance(self.policy, TakesTurns) else None
        return Situation(
            self._noise,
            deepcopy(self._trigger),
            self._sight.leave(),
            answer,
            pattern,
            self._last,
            counts,
            fault or self._fault,
            self._anew,
        )

    @torch.inference_mode()
    def enter(self, situation: Situation | None) -> int:
        """Go on where an arm was left; None: one that has not been seen yet, and finds the pattern that is in place.
        K and V that tokens kept of another arm are not used. Returns how many rows of the weights moved."""
        self._kept_by, self._fault = None, ""
        self._anew = situation is not None and situation.anew
        self._trigger = Trigger(self.config.p, self.config.window) if situation is None else deepcopy(situation.trigger)
        self._sight.enter(None if situation is None else situation.tokens)
        if isinstance(self.policy, TakesTurns):
            self.policy.enter(None if situation is None else situation.answer)
        if situation is None:
            return 0
        self._noise = situation.noise
        if situation.pattern is None or self._refresh is None:
            return 0
        self._settled()
        self._last, self._fault = situation.last, situation.fault
        self._age, self._since, self._refreshes = situation.counts
        return self._refresh.enter(situation.pattern)

    @torch.inference_mode()
    def step(self, obs: Observation, rest: bool = True) -> Step:
        """Answer one observation. `rest` False: the caller says with `rest` when the answer is on its way.

        Raises ObservationError, ControlError or PruningError; what is valid stays valid.
        """
        watch = self._watch
        watch.start()
        seen = self._encode(obs)
        watch.lap("encode")
        decision = None if self._goes_ahead() else self._decide()
        watch.lap("trigger")
        fault = self._join()
        watch.lap("join")
        plan = self._plan(decision, seen)
        seen = self._recall(seen, plan)
        handoff = self.policy.prefill(seen, plan)
        self._kept_by = None if plan.record is not None else plan
        watch.lap("prefill")
        self._sight.fetch()  # behind what a device would otherwise wait for
        self._set_aside(plan, "prefill")
        decision = self._let_go(decision, plan)
        self._host_copy.start(self.policy.act(seen, handoff, plan, self._noise))
        watch.lap("act")
        self._set_aside(plan, "act")
        decision = decision or self._decide_late(plan)
        self._streams.release(later=not rest)
        chunk, fault = self._to_chunk(seen, plan, fault)
        watch.lap("post")
        if rest:
            self.rest()
        return Step(chunk, self._report(seen, decision, plan, fault))

    @torch.inference_mode()
    def rest(self) -> None:
        """Behind a `step` that was told not to: a refresh may have the time until the next one. Without it that one
        begins the refresh and waits. What the next frame needs and is known already is made ready."""
        self._streams.rest()
        if self._refresh is not None and self._cold.over and self._refreshes_now is False:
            self._make_ready(self._refresh)

    @property
    def sparse_plan(self) -> Plan:
        """What a sparse frame of the configured ratio runs; the dense plan when dense."""
        return DENSE if self._refresh is None else self._refresh.sparse[self._refresh.home]

    @property
    def cold_frames(self) -> int:
        """Dense frames to come before the first pattern, where no calibration was given; 0: a pattern is in place."""
        return self._cold.left

    @property
    def refresh_bytes(self) -> int:
        """Memory the refresh owns beside the weights, bytes."""
        return 0 if self._refresh is None else self._refresh.bytes

    def patterns(self) -> dict[str, list[int]]:
        """Site key -> its channels by slot, the kept ones first; empty when dense. See prune/pattern for files."""
        self._settled()
        return {} if self._refresh is None else self._refresh.patterns()

    def adopt(self, orders: Mapping[str, Sequence[int]]) -> None:
        """Start from exported patterns. Raises PruningError where they do not fit.

        A method whose pattern stays needs no calibration then; an adaptive one still wants to know the energies.
        """
        self._settled()
        self._kept_by = None
        if self._refresh is not None:
            self._refresh.adopt(orders)
            if self.config.method not in ADAPTIVE:
                self._cold.end()
            self._remember_start(self._refresh)

    def settle(self) -> None:
        """Wait until the pattern of the last frame is in place, and the device idle."""
        failed = self._settled()
        self._streams.finish()
        if self._refresh is not None:
            self._publish(self._refresh)
            self._cold.look(self._refresh, failed)

    def close(self) -> None:
        """End the side stream and put the weights back in their own order."""
        self._settled()
        self._streams.close()
        if self._refresh is not None:
            self._refresh.close()

    def _settled(self) -> str:
        """Every refresh set aside is in place, or has failed and left the last good pattern: then why."""
        try:
            self._streams.join(self.config.refresh_limit_s)
        except PruningError as error:
            return f"{error}; the last pattern stays"
        return ""

    def _ended(self, refresh: Refresh) -> str:
        """Every refresh has ended and was counted, and the device is idle; what one of them failed for."""
        fault = self._settled()
        self._streams.finish()
        for _ in range(OUTSTANDING):
            refresh.poll()
        self._cold.look(refresh, fault)
        return fault

    def _remember_start(self, refresh: Refresh) -> None:
        """What is in place now is what episodes begin from."""
        if self.config.method in ADAPTIVE:
            self._start, self._cold_start = refresh.leave(), not self._cold.over

    def _begin_anew(self, refresh: Refresh) -> None:
        """If that is due: pattern and histories as the engine started with them. Frames that a cold start has added up
        so far stay; so does what is in place where it is other arms' too, and its start was cold."""
        if not self._anew or not self._streams.free:
            return
        self._anew = False
        kept = self._cold_start and (self._takes_turns or not self._cold.over)
        if self._start is None or kept:
            return
        failed, known = self._ended(refresh), self._last
        before = refresh.state
        self._fault = self._fault or failed or (before.fault if before is not known else "")
        if refresh.torn:
            return
        moved = refresh.enter(self._start)
        refresh.state = RefreshState(pattern_id=before.pattern_id + bool(moved))
        self._refreshes = 0
        if self._cold_start:
            self._cold.begin_anew(refresh)

    def _publish(self, refresh: Refresh) -> None:
        """One more refresh that has ended; not before the last one was reported, so that no fault is lost."""
        if refresh.state is self._last:
            refresh.poll()

    def _encode(self, obs: Observation) -> Seen:
        """The towers, and the comparison with the frame before (Eq. 5), of which nothing is read yet."""
        try:
            seen = self._look(obs)
        except Exception:
            self._sight.reset()  # it may have been seen and not answered: a change that came with it is not lost
            raise
        if self._watches:
            self._sight.compare(seen)
            if self._lets_go:  # the trigger is read before the action head is issued
                self._sight.fetch()
        return seen

    def _look(self, obs: Observation) -> Seen:
        """The towers, and behind them the device's part of the comparison, where frames are compared."""
        if not self._watches:
            return self.policy.encode(obs)
        if self._looking is not None:
            return self._looking.encode_and(obs, self._sight.renew)
        seen = self.policy.encode(obs)
        self._sight.renew(seen.vision)
        return seen

    def _goes_ahead(self) -> bool:
        """True if this frame is computed alike whether its trigger fires or not: then nobody waits to know."""
        sure = self.config.method == "ecovla" and self._cold.over
        return self._ahead and sure and not self._next_is_dense()

    def _decide(self) -> Decision:
        """What the trigger says of this frame: waits for the comparison."""
        return self._trigger.update(self._sight.read()) if self._watches else UNDECIDED

    def _let_go(self, decision: Decision | None, plan: Plan) -> Decision | None:
        """Behind the prefill, which the device may still be at: where the scene has changed, the chunk of this frame is
        not bound to the one before."""
        if self._bound is None or not self._lets_go:
            return decision
        decision = decision or self._decide_late(plan)
        if decision.fired:
            self._bound.let_go()
        return decision

    def _decide_late(self, plan: Plan) -> Decision:
        """What the trigger says, with the whole frame on its way; a refresh begins behind the passes it reads."""
        decision, refresh = self._decide(), self._refresh
        assert refresh is not None, "a frame goes ahead only of a refresh"
        self._refreshes_now = self._wants_refresh(decision, refresh)
        if self._refreshes_now:
            self._begin(refresh, plan)
        for phase, mark in self._held if self._refreshes_now else ():
            self._streams.aside(partial(refresh.prepare, phase, plan), mark)
        self._held.clear()
        self._watch.lap("trigger")
        return decision

    def _join(self) -> str:
        told, self._fault = self._fault, ""
        failed = self._settled() or told
        if self._refresh is None:
            return failed
        self._begin_anew(self._refresh)
        if self._refresh.torn:
            raise PruningError("writing a pattern failed half-way, the weights are not valid: load the policy anew")
        self._publish(self._refresh)
        self._cold.look(self._refresh, failed)
        state = self._refresh.state
        self._age = 0 if state.pattern_id != self._last.pattern_id else self._age + 1
        fresh, self._last = state is not self._last, state
        if not failed and not self._streams.free:
            failed = "a refresh that was given up has not ended: the last pattern stays"
        return failed or (state.fault if fresh else "")

    def _plan(self, decision: Decision | None, seen: Seen) -> Plan:
        """How this frame runs, and whether a refresh follows it; `decision` None: that is not known yet."""
        refresh = self._refresh
        self._refreshes_now = False
        self._held.clear()
        if refresh is None:
            return DENSE
        if self.config.deadline_ms > 0 and self._deadline is None:
            raise PruningError("prune.deadline_ms needs times of the tiers: call warm_up before the first frame")
        tier = refresh.home if self._deadline is None else self._deadline.choose()
        self._since += 1
        if not self._cold.over:
            return self._cold.plan(
                refresh, seen, self.policy.spec.horizon, self._streams.free, partial(self._begin_first, refresh)
            )
        self._refreshes_now = None if decision is None else self._wants_refresh(decision, refresh)
        plan = self._between(refresh)[tier]
        if self._refreshes_now:
            plan = refresh.recording if self._next_is_dense() else refresh.probing[tier]
        if plan.record is not None:
            refresh.watch(plan, len(seen.prefix), self.policy.spec.horizon, seen.padding)
            refresh.want(self._wanted_below())
        if self._refreshes_now:
            self._begin(refresh, plan)
        return plan

    def _make_ready(self, refresh: Refresh) -> None:
        """While nobody waits: records are zeroed, and a frame that goes ahead finds the bound of its trigger set. What
        it needs otherwise (another arm's trigger, an old pattern) it still sets itself."""
        if self._goes_ahead():
            refresh.clear()
            refresh.want(self._trigger.bound())

    def _wanted_below(self) -> float:
        """The similarity below which a frame of this plan records."""
        if self._refreshes_now is None:
            return math.inf if self._is_old() else self._trigger.bound()
        return math.inf if self._refreshes_now else -math.inf

    def _begin(self, refresh: Refresh, plan: Plan) -> None:
        """One more refresh, behind a frame of `plan`."""
        self._since = 0
        self._refreshes += 1
        refresh.begin(plan)

    def _begin_first(self, refresh: Refresh, plan: Plan) -> None:
        """The refresh that makes the first pattern of frames that ran dense."""
        self._refreshes_now = True
        self._begin(refresh, plan)

    def _next_is_dense(self) -> bool:
        """Whether the next refresh measures every channel in a dense frame."""
        audit = self.config.audit and (self._refreshes + 1) % self.config.audit == 0
        return bool(audit) or self.config.refresh == "dense"

    def _between(self, refresh: Refresh) -> Sequence[Plan]:
        """Plans, one a tier, of frames that no refresh follows."""
        return refresh.probing if self._ahead else refresh.sparse

    def _recall(self, seen: Seen, plan: Plan) -> Seen:
        """`seen`; it may keep K and V of earlier frames only where this plan and pattern made them (VLA-Cache).

        A frame that records sees every token, so that its energies are of the whole sequence. The refresh behind it may
        change the pattern, so that the frame after it begins anew; so does one of another tier, and a new episode.
        """
        before, self._kept_by = self._kept_by, None
        if seen.reuse is None or (before is not None and plan.record is None and before.kept == plan.kept):
            return seen
        return replace(seen, reuse=None)

    def _wants_refresh(self, decision: Decision, refresh: Refresh) -> bool:
        if self.config.method not in ADAPTIVE or not self._streams.free:
            return False
        return decision.fired or self.config.method == "every" or self._is_old()

    def _is_old(self) -> bool:
        """Whether a refresh is due whatever the trigger says."""
        return 0 < self.config.max_age <= self._since

    def _set_aside(self, plan: Plan, phase: str) -> None:
        """The job of the phase that has just been issued; held back where it is not known if a refresh follows."""
        refresh = self._refresh
        if refresh is None or self._refreshes_now is False or not refresh.runs_in(phase):
            return
        if self._refreshes_now:
            self._streams.aside(partial(refresh.prepare, phase, plan), self._streams.mark())
        else:
            self._held.append((phase, self._streams.mark()))

    def _to_chunk(self, seen: Seen, plan: Plan, fault: str) -> tuple[ActionChunk, str]:
        """Actions that land to a chunk; a sparse frame that is not finite is answered again, dense."""
        chunk = self.policy.to_chunk(seen, self._host_copy.take())
        if _finite(chunk):
            return chunk, fault
        if plan.kept:
            self._settled()
            seen, self._kept_by = replace(seen, reuse=None), None
            chunk = self._pass(seen, DENSE)
            if _finite(chunk):
                return chunk, "sparse frame was not finite: answered dense"
        raise ControlError("the policy's actions are not finite; no chunk is sent")

    def _report(self, seen: Seen, decision: Decision, plan: Plan, fault: str) -> FrameReport:
        watch, last = self._watch, self._last
        total_ms, waited_ms = watch.total_ms(), self._streams.waited_ms()
        exposed_ms = watch.stages_ms["join"] if waited_ms is None else waited_ms
        refreshes = bool(self._refreshes_now)
        if self._deadline is not None and plan.kept and not refreshes and self._refresh is not None:
            self._deadline.measured(self._between(self._refresh).index(plan), total_ms - exposed_ms)
        return FrameReport(
            stamp_ns=seen.observation.stamp_ns,
            stages_ms=watch.stages_ms,
            total_ms=total_ms,
            exposed_ms=exposed_ms,
            refresh_ms=last.duration_ms,
            method=self.config.method,
            refresh=self.config.refresh if self.config.method in ADAPTIVE else "none",
            kind="refresh" if refreshes else "sparse" if plan.kept else "dense",
            similarity=decision.similarity,
            threshold=decision.threshold,
            triggered=decision.fired,
            ratio=plan.ratio,
            pattern_age=self._age,
            pattern_id=last.pattern_id,
            swaps=last.swaps,
            fault=fault,
            reused=seen.reuse is not None,
            cold_frames=self._cold.left,
        )

    @torch.inference_mode()
    def _answer(self, obs: Observation, plan: Plan, reuse: bool = False) -> float:
        """Run one observation with a plan and nothing else; ms. `reuse`: with K and V of the last one."""
        watch = self._watch
        if self._refresh is not None:
            self._refresh.clear()  # as behind the answer before
        watch.start()
        seen = self._look(obs)
        seen = seen if reuse else replace(seen, reuse=None)
        if self._refresh is not None and plan.record is not None:
            self._refresh.watch(plan, len(seen.prefix), self.policy.spec.horizon, seen.padding)
            self._refresh.want(-math.inf if self._ahead else math.inf)  # as in most frames of this plan
        self._pass(seen, plan)
        return watch.total_ms()

    @torch.inference_mode()
    def _rehearse(self, plan: Plan) -> None:
        """The refresh of the pass that has just run, where refreshes run, without effect."""
        refresh = self._refresh
        if refresh is None or plan.record is None:
            return
        for phase in filter(refresh.runs_in, PHASES):
            self._streams.aside(partial(refresh.rehearse, phase, plan), self._streams.mark())
        self._streams.release()
        self._streams.join()
        self._streams.finish()
        if self._streams.recorder is not None:
            for phase in filter(refresh.runs_in, PHASES):
                refresh.capture(phase, plan, self._streams.recorder)

    def _rehearse_sight(self, obs: Observation) -> Seen:
        """One observation compared with itself, as two frames are, and then forgotten."""
        for _ in range(2):
            seen = self._encode(obs)
        self._sight.read()
        self._sight.reset()
        return seen

    def _run_all(self, refresh: Refresh | None, repeats: int) -> None:
        plans = [DENSE, *(() if refresh is None else refresh.plans(without_records=self._by_time or not self._ahead))]
        if refresh is not None and self.cold_frames and refresh.recording not in plans:
            plans.append(refresh.recording)
        for obs in self.policy.examples():
            for plan in plans:
                with KERNEL_CHOICE.tuning():
                    self._answer(obs, plan)
                self._rehearse(plan)
            with torch.inference_mode():
                seen = self._rehearse_sight(obs)
            if seen.reuse is not None:
                for plan in (p for p in plans if p.record is None):
                    self._answer(obs, plan, reuse=True)
        if refresh is not None and self._by_time:
            ways = (partial(self._answer, obs, of[refresh.home]) for of in (refresh.sparse, refresh.probing))
            self._ahead = not asks_first(*ways)
        if refresh is not None and self.config.deadline_ms > 0:
            tiers = [min(self._answer(obs, plan) for _ in range(repeats)) for plan in self._between(refresh)]
            self._deadline = Deadline(self.config.deadline_ms, tiers)
        if refresh is not None:
            refresh.forget_tokens()

    def _pass(self, seen: Seen, plan: Plan) -> ActionChunk:
        """`prefill`, `act` and `to_chunk`, with nothing beside them."""
        self._host_copy.start(self.policy.act(seen, self.policy.prefill(seen, plan), plan, self._noise))
        return self.policy.to_chunk(seen, self._host_copy.take())


def _finite(chunk: ActionChunk) -> bool:
    return bool(np.isfinite(chunk.joints).all() and np.isfinite(chunk.gripper).all())
