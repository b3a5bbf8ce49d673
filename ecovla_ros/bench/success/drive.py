"""One episode in lock step: camera images to the engine, its chunk to the guard, trajectories to the controller.

The loop is the one on the arm, with the same guard. In the environment `latency` a chunk reaches the guard as late as
was measured, and the arm goes on meanwhile with the one before; in the others it arrives at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from ecovla_ros import build, config
from ecovla_ros.bench.success.compatibility import check
from ecovla_ros.bench.success.environments import Delays, schedule
from ecovla_ros.bench.success.trials import Trial
from ecovla_ros.control.guard import Guard
from ecovla_ros.control.limits import load as load_limits
from ecovla_ros.control.status import Command
from ecovla_ros.engine.engine import Engine, Step
from ecovla_ros.engine.streams import Inline
from ecovla_ros.errors import ConfigError, ControlError, EcovlaError
from ecovla_ros.sim.env import KinovaEnv
from ecovla_ros.sim.tasks import TASKS
from ecovla_ros.sim.world import PERIOD_TICKS, TICK_NS
from ecovla_ros.types import ActionChunk, ArmState, FrameReport, Observation

ARMING_TICKS = 3
"""Joint states the guard sees before it is enabled."""
TICK_S = TICK_NS * 1e-9
Over = Callable[[int, Command], bool]
"""Is shown each command and the time since the scene was laid, ns; True ends the episode."""

Watch = Callable[[Engine, Observation, Step, int], None]
"""Is shown every frame: what the policy saw, what it answered, and the tick."""


class Motion:
    """What the arm did: the tool's path and the joints' jerk, from measured states once a tick."""

    def __init__(self) -> None:
        self.path_m = 0.0
        self._tool: np.ndarray | None = None
        self._velocities: list[np.ndarray] = []

    def add(self, tool: np.ndarray, state: ArmState) -> None:
        """One tick: tool point (3,), m, and the arm's state."""
        if self._tool is not None:
            self.path_m += float(np.linalg.norm(tool - self._tool))
        self._tool = tool
        self._velocities.append(state.velocity)

    @property
    def jerk(self) -> float:
        """Root mean square over joints and time of the second difference of joint velocities, rad/s^3."""
        if len(self._velocities) < 3:
            return 0.0
        second = np.diff(np.array(self._velocities), 2, axis=0) / TICK_S**2
        return float(np.sqrt(np.mean(second**2)))


class Runner:
    """One environment and one policy, kept between episodes; one process holds one."""

    def __init__(self, settings: config.Config, delays: Delays | None = None, look_s: float = 0.0) -> None:
        """`look_s`: time between two pictures, s; 0: the policy sees those alone whose chunk has its turn, as the guard
        would pass over the others. Raises CheckpointError for a policy that does not fit the simulator.
        """
        self._look_s = look_s or settings.control.replan_s
        self._settings, self._delays = settings, delays
        self._env = KinovaEnv(settings.sim)
        self._policy = build.policy(settings.policy)
        check(self._policy.spec, settings, self._env.renderer.name)

    def run(self, trial: Trial, watch: Watch | None = None, over: Over | None = None) -> dict[str, Any]:
        """One episode: success, duration, path, jerk, policy time, trigger rate, and what the guard said last.

        `over`: is shown every command, and may end the episode.

        Raises ConfigError for the environment `latency` without measured times.
        """
        if trial.environment == "latency" and self._delays is None:
            raise ConfigError("the environment 'latency' needs measured times: --latency FILE, written by ecovla bench")
        prune = config.override(self._settings, **trial.overrides()).prune
        engine = Engine(self._policy, prune, Inline(), seed=trial.seed)
        try:
            if energies := build.calibration_of(prune, self._policy):
                engine.calibrate(energies)
            return self._episode(engine, trial, watch, over or (lambda begun_s, command: False))
        finally:
            engine.close()

    def _episode(self, engine: Engine, trial: Trial, watch: Watch | None, over: Over) -> dict[str, Any]:
        env = self._env
        events = schedule(trial.environment, trial.seed, TASKS[trial.task].object)
        env.begin(trial.task, trial.seed, looks=trial.environment == "looks", schedule=events)
        guard, motion = self._armed_guard(), Motion()
        every = max(1, round(self._look_s / TICK_S / PERIOD_TICKS)) * PERIOD_TICKS
        begun_ns = env.now_ns
        reports: list[FrameReport] = []
        waiting: ActionChunk | None = None
        due, solved, ticks, reason = 0, False, 0, ""
        limit = round(self._settings.sim.episode_s / TICK_S)
        state = env.world.arm_state()
        while ticks < limit and not solved:
            guard.on_joint_state(state, env.now_ns)
            if ticks % every == 0 and waiting is None:
                seen = env.observe()
                try:
                    step = engine.step(seen)
                except EcovlaError as error:
                    return self._row(trial, False, ticks, reports, motion, str(error))
                if watch is not None:
                    watch(engine, seen, step, ticks)
                reports.append(step.report)
                waiting, due = step.chunk, ticks + self._delay(trial, step.report.kind)
            if waiting is not None and ticks >= due:
                if reports[-1].triggered:
                    guard.on_scene_change(waiting.stamp_ns, env.now_ns)
                guard.on_chunk(waiting, env.now_ns)
                waiting = None
            command = guard.tick(env.now_ns)
            if over(env.now_ns - begun_ns, command):
                break
            solved = env.follow(command.trajectory, command.gripper, 1, command.begin_ns)
            ticks, reason = ticks + 1, f"{command.status.state}: {command.status.reason}"
            state = env.world.arm_state()
            motion.add(env.world.tcp()[0], state)
            if env.world.fallen():
                return self._row(trial, False, ticks, reports, motion, "the object fell off the table")
        return self._row(trial, solved, ticks, reports, motion, reason)

    def _delay(self, trial: Trial, kind: str) -> int:
        if trial.environment != "latency" or self._delays is None:
            return 0
        return self._delays.ticks((trial.method, trial.refresh, trial.ratio), kind, TICK_S)

    def _armed_guard(self) -> Guard:
        """An enabled guard that has seen the arm stand still. Raises ControlError with its reason when it refuses."""
        one_clock = dataclasses.replace(self._settings.control, stamp_commands="always")
        guard = Guard(one_clock, load_limits(one_clock.profile))
        for _ in range(ARMING_TICKS):
            guard.on_joint_state(self._env.world.arm_state(), self._env.now_ns)
            guard.tick(self._env.now_ns)
            self._env.follow(None, None, 1)
        guard.on_joint_state(self._env.world.arm_state(), self._env.now_ns)
        guard.on_controller_state(self._env.world.controller_state(), self._env.now_ns)
        enabled, why = guard.enable(True, self._env.now_ns)
        if not enabled:
            raise ControlError(f"the guard does not allow motion: {why}")
        return guard

    def _row(
        self, trial: Trial, solved: bool, ticks: int, reports: list[FrameReport], motion: Motion, reason: str
    ) -> dict[str, Any]:
        times = [r.total_ms for r in reports] or [float("nan")]
        return {
            **vars(trial),
            "success": solved,
            "steps": ticks // PERIOD_TICKS,
            "seconds": round(ticks * TICK_S, 2),
            "path_m": round(motion.path_m, 4),
            "jerk": round(motion.jerk, 3),
            "reason": reason,
            "frames": len(reports),
            "triggered": sum(r.triggered for r in reports),
            "policy_p50_ms": round(float(np.percentile(times, 50)), 3),
            "policy_p95_ms": round(float(np.percentile(times, 95)), 3),
        }
