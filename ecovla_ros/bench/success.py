"""Closed-loop success, paired: every method meets the same scenes, the same flow noise and the same guard.

The loop is the one on the arm, in lock step: camera images to the engine, its chunk to the guard, the guard's
trajectories to the controller. Rows of one seed differ in nothing but the method.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ecovla_ros import build, config
from ecovla_ros.bench.statistics import mcnemar, wilson
from ecovla_ros.control.guard import Guard
from ecovla_ros.control.limits import load as load_limits
from ecovla_ros.engine.engine import Engine
from ecovla_ros.engine.streams import Inline
from ecovla_ros.errors import CheckpointError, ConfigError, ControlError, EcovlaError, unknown
from ecovla_ros.sim.env import PERIOD_TICKS, KinovaEnv
from ecovla_ros.sim.events import Event
from ecovla_ros.sim.tasks import TASKS, find
from ecovla_ros.sim.world import TICK_NS

ENVIRONMENTS = ("calm", "looks", "shift")
"""calm: the plain scene. looks: random lights, colours, textures, camera pose and distractors, new each episode.
shift: the light falls, a distractor appears and the object is moved while the arm is on its way."""


ARMING_TICKS = 3
"""Joint states the guard sees before it is enabled."""


@dataclass(frozen=True)
class Trial:
    """One episode to run."""

    method: str
    ratio: float
    task: str
    environment: str
    seed: int


def trials(
    methods: Sequence[str], ratios: Sequence[float], tasks: Sequence[str], environments: Sequence[str], episodes: int,
    seed: int,
) -> list[Trial]:
    """Every method and ratio on the same `episodes` seeds of each task and environment. Raises ConfigError."""
    for name in methods:
        if name not in config.METHODS:
            raise ConfigError(unknown("method", name, config.METHODS))
    for name in environments:
        if name not in ENVIRONMENTS:
            raise ConfigError(unknown("environment", name, ENVIRONMENTS))
    pairs = [(m, r) for m in methods for r in (ratios if m != "dense" else (0.0,))]
    return [
        Trial(m, r, find(t).name, e, seed + i)
        for i in range(episodes) for e in environments for t in tasks for m, r in pairs
    ]


def schedule(environment: str, seed: int, target: str) -> list[Event]:
    """What happens during an episode; drawn from the seed, the same for every method."""
    if environment != "shift":
        return []
    rng = np.random.default_rng([seed, 2])
    level, dx, dy = rng.uniform(0.5, 0.75), rng.uniform(-0.04, 0.04), rng.uniform(-0.04, 0.04)
    at = int(rng.integers(60, 160))
    return [
        Event("light_level", at, {"level": float(level)}),
        Event("distractor", at + 20, {"object": "cube_0", "x": 0.40, "y": -0.16}),
        Event("object_move", at + 40, {"object": target, "dx": float(dx), "dy": float(dy)}),
    ]


class Runner:
    """One environment and the engines of several methods, kept between episodes; one process holds one."""

    def __init__(self, settings: config.Config) -> None:
        self._settings = settings
        self._env = KinovaEnv(settings.sim)
        self._policy = build.policy(settings.policy)
        drawn, trained = self._env.renderer.name, self._policy.spec.renderer
        if trained not in ("any", drawn):
            raise CheckpointError(
                f"the checkpoint was trained on '{trained}' images and this run draws with '{drawn}'; "
                f"set sim.renderer to '{trained}'"
            )

    def run(self, trial: Trial) -> dict[str, Any]:
        """One episode: success, duration, policy time, trigger rate, and what the guard said."""
        prune = config.override(
            self._settings, **{"prune.method": trial.method, "prune.ratio": trial.ratio}
        ).prune
        engine = Engine(self._policy, prune, Inline(), seed=trial.seed)
        try:
            if trial.method != "dense" and self._policy.calibration:
                engine.calibrate(self._policy.calibration)
            return self._episode(engine, trial)
        finally:
            engine.close()

    def _episode(self, engine: Engine, trial: Trial) -> dict[str, Any]:
        env, control = self._env, self._settings.control
        events = schedule(trial.environment, trial.seed, TASKS[trial.task].object)
        env.reset(trial.task, trial.seed, looks=trial.environment == "looks", schedule=events)
        guard = self._armed_guard()
        every = max(1, round(control.replan_s * 1e9 / TICK_NS / PERIOD_TICKS)) * PERIOD_TICKS
        reports, solved, path, ticks = [], False, 0.0, 0
        limit = round(self._settings.sim.episode_s * 1e9 / TICK_NS)
        before, reason = env.world.tcp()[0], ""
        while ticks < limit and not solved:
            guard.on_joint_state(env.world.arm_state(), env.now_ns)
            if ticks % every == 0:
                try:
                    step = engine.step(env.observe())
                except EcovlaError as error:
                    return self._row(trial, False, ticks, reports, path, str(error))
                reports.append(step.report)
                guard.on_chunk(step.chunk, env.now_ns)
            command = guard.tick(env.now_ns)
            solved = env.follow(command.trajectory, command.gripper, 1)
            ticks, reason = ticks + 1, f"{command.status.state}: {command.status.reason}"
            now = env.world.tcp()[0]
            path, before = path + float(np.linalg.norm(now - before)), now
        return self._row(trial, solved, ticks, reports, path, reason)

    def _armed_guard(self) -> Guard:
        """An enabled guard that has seen the arm stand still. Raises ControlError with its reason when it refuses."""
        guard = Guard(self._settings.control, load_limits(self._settings.control.profile))
        for _ in range(ARMING_TICKS):
            guard.on_joint_state(self._env.world.arm_state(), self._env.now_ns)
            guard.tick(self._env.now_ns)
            self._env.follow(None, None, 1)
        guard.on_joint_state(self._env.world.arm_state(), self._env.now_ns)
        enabled, why = guard.enable(True, self._env.now_ns)
        if not enabled:
            raise ControlError(f"the guard does not allow motion: {why}")
        return guard

    def _row(
        self, trial: Trial, solved: bool, ticks: int, reports: list[Any], path: float, reason: str
    ) -> dict[str, Any]:
        times = [r.total_ms for r in reports] or [float("nan")]
        return {
            **vars(trial), "success": solved, "steps": ticks // PERIOD_TICKS, "path_m": path, "reason": reason,
            "frames": len(reports), "triggered": sum(r.triggered for r in reports),
            "policy_p50_ms": float(np.percentile(times, 50)), "policy_p95_ms": float(np.percentile(times, 95)),
        }


def run(
    settings: config.Config, todo: Sequence[Trial], processes: int, done: Callable[[dict[str, Any]], None]
) -> list[dict[str, Any]]:
    """Run every trial, in several processes when asked; `done` is handed each episode as it ends."""
    rows = []
    for row in _episodes(settings, todo, processes):
        done(row)
        rows.append(row)
    order = {trial: i for i, trial in enumerate(todo)}
    return sorted(rows, key=lambda r: order[Trial(*(r[k] for k in Trial.__dataclass_fields__))])


def _episodes(settings: config.Config, todo: Sequence[Trial], processes: int) -> Iterator[dict[str, Any]]:
    if processes <= 1:
        runner = Runner(settings)
        yield from (runner.run(trial) for trial in todo)
        return
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes, _open_runner, (settings,)) as pool:
        yield from pool.imap_unordered(_run_one, todo)


_runner: Runner | None = None


def _open_runner(settings: config.Config) -> None:
    global _runner
    _runner = Runner(settings)


def _run_one(trial: Trial) -> dict[str, Any]:
    assert _runner is not None
    return _runner.run(trial)


def table(episodes: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of `ecovla eval`: one per method, ratio, environment and task, and pooled over tasks."""
    rows = []
    keys = sorted({(e["environment"], e["method"], e["ratio"]) for e in episodes}, key=lambda k: (k[0], k[2], k[1]))
    for environment, method, ratio in keys:
        mine = [e for e in episodes if (e["environment"], e["method"], e["ratio"]) == (environment, method, ratio)]
        for task in ("all", *sorted({e["task"] for e in mine})):
            some = [e for e in mine if task in ("all", e["task"])]
            rows.append({
                "task": task, "environment": environment, "method": method, "ratio": ratio,
                "refresh": "dense" if method == "ecovla" else "none", **_summary(some),
                **_against_dense(some, episodes),
            })
    return rows


def _summary(episodes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    successes = sum(e["success"] for e in episodes)
    low, high = wilson(successes, len(episodes))
    frames = sum(e["frames"] for e in episodes)
    steps = [e["steps"] for e in episodes if e["success"]]
    return {
        "episodes": len(episodes), "successes": successes, "low": low, "high": high,
        "steps_p50": float(np.median(steps)) if steps else None,
        "trigger_rate": sum(e["triggered"] for e in episodes) / frames if frames else None,
    }


def _against_dense(episodes: Sequence[dict[str, Any]], everything: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """McNemar's exact test against dense on the same scenes; None where dense was not run."""
    dense = {(e["environment"], e["task"], e["seed"]): e["success"] for e in everything if e["method"] == "dense"}
    pairs = [(dense.get((e["environment"], e["task"], e["seed"])), e["success"]) for e in episodes]
    if any(before is None for before, _ in pairs) or all(e["method"] == "dense" for e in episodes):
        return {"only_dense": None, "only_this": None, "mcnemar_p": None}
    lost = sum(bool(before) and not now for before, now in pairs)
    won = sum(now and not before for before, now in pairs)
    return {"only_dense": lost, "only_this": won, "mcnemar_p": mcnemar(lost, won)}
