"""LIBERO's suites and tasks by name. Imports the benchmark when first asked, and says so where it is missing."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecovla_ros.errors import ConfigError, unknown

MAX_STEPS = {"libero_spatial": 220, "libero_object": 280, "libero_goal": 300, "libero_10": 520, "libero_90": 400}
"""Control steps of an episode, by the suite that a name begins with, as openpi and vla-eval have them."""
DEFAULT_STEPS = 300


@dataclass(frozen=True)
class LiberoTask:
    """One task of a suite."""

    suite: str
    index: int
    """Its number in the suite, from 0."""
    instruction: str
    file: Path
    """Its BDDL file: objects, regions and goal."""
    states: int
    """Initial states that the benchmark has of it."""

    @property
    def name(self) -> str:
        """libero_object/3."""
        return f"{self.suite}/{self.index}"

    @property
    def max_steps(self) -> int:
        """Control steps after which an episode has failed."""
        fits = [s for s in MAX_STEPS if self.suite.startswith(s)]
        return MAX_STEPS[max(fits, key=len)] if fits else DEFAULT_STEPS


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """LIBERO and robosuite greet on standard output and through their own loggers; a command's output is its own."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("robosuite_logs").setLevel(logging.ERROR)
        yield


def module(name: str) -> Any:
    """A module of LIBERO's. Raises ConfigError where the benchmark is not installed or cannot draw."""
    if importlib.util.find_spec(name.partition(".")[0]) is None:  # and the environment of this process stays as it is
        raise ConfigError("LIBERO is not in this environment; run: make libero, and then .venv-libero/bin/ecovla")
    os.environ.setdefault("MUJOCO_GL", "osmesa")
    os.environ.setdefault("PYOPENGL_PLATFORM", os.environ["MUJOCO_GL"])
    os.environ.setdefault("LP_NUM_THREADS", "1")
    try:
        with quiet():
            return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"LIBERO is not in this environment ({error}); run: make libero, and then .venv-libero/bin/ecovla"
        ) from error
    except AttributeError as error:  # PyOpenGL without a library behind it
        raise ConfigError(f"LIBERO cannot draw ({error}); run: sudo apt-get install libosmesa6") from error


def suite_names() -> tuple[str, ...]:
    """Every suite of the installed benchmark."""
    with quiet():
        return tuple(module("libero.libero.benchmark").get_benchmark_dict())


def tasks(suite: str) -> tuple[LiberoTask, ...]:
    """The tasks of a suite; libero-object and libero_object are the same. Raises ConfigError for an unknown one."""
    name = suite.strip().replace("-", "_")
    names = suite_names()
    if name not in names:
        raise ConfigError(unknown("suite", suite, names))
    with quiet():
        found = module("libero.libero.benchmark").get_benchmark_dict()[name]()
        folder = Path(module("libero.libero").get_libero_path("bddl_files"))
        return tuple(
            LiberoTask(name, i, task.language, folder / task.problem_folder / task.bddl_file, len(_states(found, i)))
            for i, task in enumerate(found.get_task(j) for j in range(found.n_tasks))
        )


def task_numbers(text: str) -> list[int]:
    """Numbers of tasks as a command line has them: "0,3"; "" for none. Raises ConfigError."""
    try:
        return [int(part) for part in text.split(",") if part]
    except ValueError as error:
        raise ConfigError(f"--tasks '{text}'; valid for LIBERO: numbers, separated by commas, e.g. 0,3") from error


def chosen(suite: str, numbers: Sequence[int] = ()) -> tuple[LiberoTask, ...]:
    """Tasks of a suite by number, all of them without any. Raises ConfigError for a number it does not have."""
    found = tasks(suite)
    for number in numbers:
        if not 0 <= number < len(found):
            raise ConfigError(f"suite '{found[0].suite}' has no task {number}; valid: 0 to {len(found) - 1}")
    return tuple(found[n] for n in numbers) if numbers else found


def initial_states(task: LiberoTask) -> NDArray[np.float64]:
    """The benchmark's initial states of a task, (n, 1 + positions + velocities), flattened MuJoCo states."""
    with quiet():
        return _states(module("libero.libero.benchmark").get_benchmark_dict()[task.suite](), task.index)


def check_state(task: LiberoTask, number: int) -> None:
    """Raises ConfigError for an initial state that the task does not have."""
    if not 0 <= number < task.states:
        raise ConfigError(f"{task.name} has no initial state {number}; valid: 0 to {task.states - 1}")


def _states(suite: Any, index: int) -> NDArray[np.float64]:
    try:
        return np.asarray(suite.get_task_init_states(index), dtype=np.float64)
    except FileNotFoundError as error:
        raise ConfigError(f"the benchmark has no initial states of {suite.name} task {index}: {error}") from error
