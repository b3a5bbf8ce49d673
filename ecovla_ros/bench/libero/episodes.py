"""A policy on LIBERO in closed loop: one look, some actions of its chunk, the next look; pictures only at looks.

Every variant meets the same initial states. A trial's task is "libero_object/3", its environment the suite, its seed
the number of the initial state; so the pairs, journal and statistics of `bench.success` are used as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ecovla_ros import build, config
from ecovla_ros.bench.libero import controls
from ecovla_ros.bench.libero.calibrations import OWN, energies
from ecovla_ros.bench.libero.looks import LookRecorder
from ecovla_ros.bench.success.environments import Delays
from ecovla_ros.bench.success.trials import Trial
from ecovla_ros.bench.variants import Variant
from ecovla_ros.engine.engine import Engine, Step
from ecovla_ros.engine.streams import Inline
from ecovla_ros.errors import CheckpointError, ConfigError, EcovlaError
from ecovla_ros.models.data.statistics import OtherArmUnits
from ecovla_ros.sim.libero import suites
from ecovla_ros.sim.libero.scene import ACTION_WIDTH, PERIOD_S, STATE_WIDTH, LiberoScene
from ecovla_ros.types import Observation

EXECUTE = 8
"""Actions of a chunk that are carried out before the next look."""
Watch = Callable[[Engine, Observation, Step, int], None]
"""Is shown every look: what the policy saw, what it answered, and the control step."""


class EpisodeAnswers(Protocol):
    """Whoever answers a look with a chunk of LIBERO's actions."""

    def begin(self, trial: Trial) -> None:
        """A new episode."""
        ...

    def chunk(self, seen: Observation, step: int) -> np.ndarray:
        """Actions (H, 7)."""
        ...

    def report(self) -> Mapping[str, Any]:
        """frames, triggered, policy_p50_ms, policy_p95_ms of the episode."""
        ...

    def end(self) -> None:
        """The episode is over."""
        ...


class EngineAnswers:
    """The engine, in this process."""

    def __init__(self, settings: config.Config, calibration: str = OWN, demos: Path = Path("data/libero")) -> None:
        """`calibration`: see `calibrations.energies`. Raises CheckpointError, see `check_space`."""
        embodiment = replace(settings.policy.embodiment, other=True)
        self._settings = replace(settings, policy=replace(settings.policy, embodiment=embodiment))
        self.policy = build.policy(self._settings.policy, serving=True)
        check_space(self.policy, str(settings.policy.checkpoint or settings.policy.model))
        self._energies = energies(self.policy, calibration, demos)
        self._of_episode: dict[str, Tensor] = {}
        self._shuffler: torch.Generator | None = None
        self._engine: Engine | None = None
        self.watch: Watch | None = None

    def begin(self, trial: Trial) -> None:
        """Weights in their own order, the calibration's pattern, no memory of a scene."""
        asked = replace(trial, method=controls.method_of(trial))
        prune = config.override(self._settings, **asked.overrides()).prune
        self._reports: list[Any] = []
        self._engine = Engine(self.policy, prune, Inline(), seed=trial.seed)
        energies = self._of_episode if trial.method == controls.ORACLE else self._energies
        if trial.method != "dense" and energies:
            self._engine.calibrate(energies)
        self._shuffler = torch.Generator().manual_seed(trial.seed) if trial.method == controls.SHUFFLED else None
        if self._shuffler is not None:
            controls.shuffle(self._engine, self._shuffler)

    def go_on(self) -> None:
        """Another task begins, and nobody tells the engine: pattern, energies and memory of the last scene stay."""
        self._reports = []

    def know(self, looks: Sequence[dict[str, Tensor]]) -> None:
        """Energies of every look of the episode that `begin` starts next, for its oracle."""
        self._of_episode = controls.mean_of(looks)

    def chunk(self, seen: Observation, step: int) -> np.ndarray:
        """Of one engine step."""
        assert self._engine is not None
        answered = self._engine.step(seen)
        if self.watch is not None:
            self.watch(self._engine, seen, answered, step)
        self._reports.append(answered.report)
        if self._shuffler is not None and answered.report.kind == "refresh":
            self._engine.settle()
            controls.shuffle(self._engine, self._shuffler)
        assert answered.chunk.raw is not None
        return np.asarray(answered.chunk.raw)

    def report(self) -> Mapping[str, Any]:
        """Of the frames of this episode."""
        times = [r.total_ms for r in self._reports] or [float("nan")]
        return {
            "frames": len(self._reports),
            "triggered": sum(r.triggered for r in self._reports),
            "policy_p50_ms": round(float(np.percentile(times, 50)), 3),
            "policy_p95_ms": round(float(np.percentile(times, 95)), 3),
        }

    def end(self) -> None:
        """Weights back in their own order."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None


def check_space(policy: Any, name: str) -> None:
    """Raises CheckpointError for a checkpoint of another state or action space, or whose chunks are too short."""
    units = policy.normaliser
    if not isinstance(units, OtherArmUnits) or units.widths != (STATE_WIDTH, ACTION_WIDTH):
        raise CheckpointError(
            f"'{name}' has states of {units.widths[0]} and actions of {units.widths[1]} numbers of its arm; LIBERO has "
            f"{STATE_WIDTH} and {ACTION_WIDTH}; train one: ecovla train --benchmark libero"
        )
    if policy.spec.horizon < EXECUTE:
        raise CheckpointError(
            f"'{name}' has chunks of {policy.spec.horizon} actions; {EXECUTE} are carried out of each"
        )


@dataclass
class EpisodeMotion:
    """The tool's path and jerk, from its positions at the control rate."""

    places: list[np.ndarray]

    @property
    def path_m(self) -> float:
        """Length, m."""
        return float(np.linalg.norm(np.diff(self.places, axis=0), axis=1).sum()) if len(self.places) > 1 else 0.0

    @property
    def jerk(self) -> float:
        """Root mean square of the third difference of the tool's position, m/s^3: not a joint's, as on our own arm."""
        if len(self.places) < 4:
            return 0.0
        third = np.diff(np.array(self.places), 3, axis=0) / PERIOD_S**3
        return float(np.sqrt(np.mean(np.sum(third**2, axis=1))))


class LiberoRunner:
    """EpisodeAnswers, and the scene of a task (with `switched` also that of the task before it), kept while trials are
    of it; one process holds one."""

    def __init__(
        self, settings: config.Config, delays: Delays | None = None, *, answers: Any = None, switched: int = 0
    ) -> None:
        """`answers`: settings -> `EpisodeAnswers`; none: the engine. `delays` must be None: simulated time waits.
        `switched`: looks that another task has before each episode, whose engine is not reset between them; 0: none.
        """
        if delays is not None:
            raise ConfigError("LIBERO waits for its policy: measured latencies do not go with --benchmark")
        self._answers: EpisodeAnswers = (answers or EngineAnswers)(settings)
        self._switched = switched
        self._scenes: dict[str, LiberoScene] = {}

    def run(self, trial: Trial) -> dict[str, Any]:
        """One episode. Raises ConfigError for a task or initial state that does not exist."""
        before = task_before(trial.task) if self._switched else ""
        scene = self._at(trial.task, before)
        if trial.method == controls.ORACLE:
            self._foresee(scene, trial)
        self._answers.begin(trial)
        try:
            if before:
                self._lead_in(self._at(before, trial.task), trial)
            scene.begin(trial.seed, trial.seed)
            return self._episode(scene, trial)
        finally:
            self._answers.end()

    def _lead_in(self, scene: LiberoScene, trial: Trial) -> None:
        """Some looks of another task, by the same engine, so that an episode depends on its trial alone: a run of many
        tasks would make it depend on all that were driven before."""
        answers = self._answers
        if not isinstance(answers, EngineAnswers):
            raise ConfigError("--switched looks into the engine: it does not go with --server")
        scene.begin(trial.seed, trial.seed)
        self._episode(scene, trial, looks=self._switched)
        answers.go_on()

    def _foresee(self, scene: LiberoScene, trial: Trial) -> None:
        """Drive the episode dense once, and let the answers know what it looks like."""
        answers = self._answers
        if not isinstance(answers, EngineAnswers):
            raise ConfigError(f"method {trial.method} looks into the engine: it does not go with --server")
        recorder = LookRecorder(answers.policy, trial.seed)
        answers.watch, before = recorder, answers.watch
        try:
            scene.begin(trial.seed, trial.seed)
            answers.begin(replace(trial, method="dense", ratio=0.0))
            self._episode(scene, trial)
        finally:
            answers.end()
            answers.watch = before
        answers.know([energy for energy, _ in recorder.looks])

    def _episode(self, scene: LiberoScene, trial: Trial, looks: float = float("inf")) -> dict[str, Any]:
        motion, solved, reason = EpisodeMotion([scene.tool()[0]]), False, "time is over"
        while not solved and scene.steps < min(scene.task.max_steps, looks * EXECUTE):
            try:
                chunk = self._answers.chunk(scene.observe(), scene.steps)
            except EcovlaError as error:
                reason = str(error)
                break
            if not np.isfinite(chunk).all():
                reason = "an action is not finite"
                break
            for action in chunk[:EXECUTE]:
                solved = scene.step(np.append(action[:6], 1.0 if action[6] > 0.0 else -1.0))
                motion.places.append(scene.tool()[0])
                if solved or scene.steps >= scene.task.max_steps:
                    break
        return {
            **vars(trial),
            "success": solved,
            "steps": scene.steps,
            "seconds": round(scene.steps * PERIOD_S, 2),
            "path_m": round(motion.path_m, 4),
            "jerk": round(motion.jerk, 3),
            "reason": "" if solved else reason,
            **self._answers.report(),
        }

    def _at(self, name: str, beside: str) -> LiberoScene:
        """The scene of a task; all others but `beside` are closed."""
        for other in self._scenes.keys() - {name, beside}:
            self._scenes.pop(other).close()
        if name not in self._scenes:
            suite, _, number = name.partition("/")
            self._scenes[name] = LiberoScene(suites.chosen(suite, [int(number)])[0])
        return self._scenes[name]


def task_before(name: str) -> str:
    """The task that is driven before one, of the same suite: the next by number, the first for the last."""
    suite, _, number = name.partition("/")
    return f"{suite}/{(int(number) + 1) % len(suites.tasks(suite))}"


def trials(chosen: Sequence[Variant], names: Sequence[str], numbers: Sequence[int], states: range) -> list[Trial]:
    """Every variant on the same initial states of each task, task by task: making a scene takes longest.

    `names`: suites; `numbers`: tasks of each, none: all. Raises ConfigError for what does not exist.
    """
    todo = []
    for suite in names:
        for task in suites.chosen(suite, numbers):
            for state in (states[0], states[-1]):
                suites.check_state(task, state)
            todo += [Trial(v.method, v.refresh, v.ratio, task.name, task.suite, s) for s in states for v in chosen]
    if len(set(todo)) != len(todo):
        raise ConfigError("suites, tasks and variants must be named once each")
    return todo
