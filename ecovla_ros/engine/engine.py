"""One frame through the model. Read `Engine.step` top to bottom: it is the schedule of the paper (sec. 4.2)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ecovla_ros.config import PruneConfig
from ecovla_ros.engine.refresh import Refresh, RefreshState
from ecovla_ros.engine.streams import Streams
from ecovla_ros.engine.timing import Stopwatch
from ecovla_ros.errors import ControlError, EcovlaError, PruningError
from ecovla_ros.models.base import DENSE, Plan, Policy, Seen
from ecovla_ros.prune.similarity import scene_similarity
from ecovla_ros.prune.trigger import Decision, Trigger
from ecovla_ros.types import ActionChunk, FrameReport, Observation


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
        self, policy: Policy, config: PruneConfig, streams: Streams, seed: int = 0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.policy, self.config = policy, config
        self._streams, self._watch = streams, Stopwatch(clock)
        self._refresh = Refresh(policy.sites, config, clock) if config.method != "dense" else None
        self._adaptive = config.method == "ecovla"
        self._trigger = Trigger(config.p, config.window)
        self.reset(seed)

    def calibrate(self, energies: dict[str, Tensor]) -> None:
        """Start from calibration energies (site key -> (R,), channel order). Does nothing when dense.

        Raises PruningError where they do not fit the sites.
        """
        self._streams.join()
        if self._refresh is not None:
            self._refresh.calibrate(energies)

    def reset(self, seed: int) -> None:
        """A new episode: forget the scene and draw the flow noise, which stays the same for the whole episode.

        With one noise per episode the policy is a function of the observation: consecutive chunks of a multi-modal
        policy do not jump between modes, and a replay may start at any frame.
        """
        spec = self.policy.spec
        generator = torch.Generator().manual_seed(seed)
        self._noise = torch.randn((spec.horizon, spec.action_dim), generator=generator)
        self._trigger.reset()
        self._before: Seen | None = None
        self._age, self._last = 0, RefreshState()

    @torch.inference_mode()
    def step(self, obs: Observation) -> Step:
        """Answer one observation. Raises ObservationError or ControlError; the pattern and the weights stay valid."""
        watch = self._watch
        watch.start()
        seen = self.policy.encode(obs)
        watch.lap("encode")
        decision = self._look(seen)
        watch.lap("trigger")
        fault = self._join()
        watch.lap("join")
        plan = self._plan(decision)
        handoff = self.policy.prefill(seen, plan)
        watch.lap("prefill")
        self._set_aside(plan, "prefill")
        actions = self.policy.act(seen, handoff, plan, self._noise)
        watch.lap("act")
        self._set_aside(plan, "act")
        chunk, fault = self._decode(seen, actions, plan, fault)
        watch.lap("post")
        self._streams.rest()
        return Step(chunk, self._report(obs, decision, plan, fault))

    @property
    def sparse_plan(self) -> dict[str, int]:
        """Site key -> channels a sparse frame runs; empty when dense."""
        return {} if self._refresh is None else dict(self._refresh.sparse.kept)

    def patterns(self) -> dict[str, list[int]]:
        """Site key -> its channels by slot, the kept ones first; empty when dense."""
        self._streams.join()
        stacks = [] if self._refresh is None else self._refresh.stacks
        return {p.site.key: p.channel.tolist() for stack in stacks for p in stack.partitions}

    def settle(self) -> None:
        """Wait until the pattern of the last frame is in place."""
        self._streams.join()

    def close(self) -> None:
        """End the side stream and put the weights back in their own order."""
        self._streams.join()
        self._streams.close()
        if self._refresh is not None:
            self._refresh.close()

    def _look(self, seen: Seen) -> Decision:
        if not self._adaptive:
            return Decision(False, float("nan"), float("nan"))
        before = None if self._before is None else self._before.vision
        self._before = seen
        return self._trigger.update(scene_similarity(seen.vision, before))

    def _join(self) -> str:
        """The last refresh is in place, or has failed and left its last good pattern: then why."""
        failed = ""
        try:
            self._streams.join()
        except (EcovlaError, RuntimeError) as error:
            failed = f"refresh failed, the last pattern stays: {error}"
        if self._refresh is None:
            return failed
        state = self._refresh.state  # a later refresh writes a state of its own
        self._age = 0 if state.pattern_id != self._last.pattern_id else self._age + 1
        self._last = state
        return failed or state.fault

    def _plan(self, decision: Decision) -> Plan:
        if self._refresh is None:
            return DENSE
        if self._adaptive and (decision.fired or not self._refresh.calibrated):
            self._refresh.clear_record()
            return self._refresh.recording
        if not self._refresh.calibrated:
            raise PruningError(f"method {self.config.method} needs calibration energies; call calibrate first")
        return self._refresh.sparse

    def _set_aside(self, plan: Plan, phase: str) -> None:
        refresh = self._refresh
        if refresh is not None and plan is refresh.recording and (phase == "prefill" or refresh.runs_in(phase)):
            self._streams.aside(lambda: refresh.run(phase))

    def _decode(self, seen: Seen, actions: Tensor, plan: Plan, fault: str) -> tuple[ActionChunk, str]:
        """Actions to a chunk; a sparse frame that is not finite is answered again, dense."""
        chunk = self.policy.decode(seen, actions)
        if _finite(chunk):
            return chunk, fault
        if plan.kept:
            handoff = self.policy.prefill(seen, DENSE)
            chunk = self.policy.decode(seen, self.policy.act(seen, handoff, DENSE, self._noise))
            if _finite(chunk):
                return chunk, "sparse frame was not finite: answered dense"
        raise ControlError("the policy's actions are not finite; no chunk is sent")

    def _report(self, obs: Observation, decision: Decision, plan: Plan, fault: str) -> FrameReport:
        watch, last, sparse = self._watch, self._last, bool(plan.kept)
        return FrameReport(
            stamp_ns=obs.stamp_ns,
            stages_ms=watch.stages_ms,
            total_ms=watch.total_ms(),
            exposed_ms=watch.stages_ms["join"],
            refresh_ms=last.duration_ms,
            method=self.config.method,
            kind="sparse" if sparse else "refresh" if plan.energy is not None else "dense",
            similarity=decision.similarity,
            threshold=decision.threshold,
            triggered=decision.fired,
            ratio=self._refresh.ratio if self._refresh is not None and sparse else 0.0,
            pattern_age=self._age,
            pattern_id=last.pattern_id,
            swaps=last.swaps,
            fault=fault,
        )


def _finite(chunk: ActionChunk) -> bool:
    return bool(np.isfinite(chunk.joints).all() and np.isfinite(chunk.gripper).all())
