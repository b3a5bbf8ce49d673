"""Processes that share work: what one of them cannot do, and one that dies, end the command at once, in one line."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from ecovla_ros import config
from ecovla_ros.bench.pool import pool
from ecovla_ros.bench.success import workers
from ecovla_ros.bench.success.trials import Trial
from ecovla_ros.errors import CheckpointError, EcovlaError

TRIALS = [Trial("dense", "none", 0.0, "apple", "calm", seed) for seed in range(6)]


ANSWERS = """
import os
import signal

from ecovla_ros.errors import CheckpointError


class Echoes:
    def __init__(self, settings, delays):
        pass

    def run(self, trial):
        return {"seed": trial.seed, "process": os.getpid()}


class CannotBegin(Echoes):
    def __init__(self, settings, delays):
        raise CheckpointError("there is no such calibration")


class Dies(Echoes):
    def run(self, trial):
        if trial.seed == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().run(trial)
"""


@pytest.fixture
def answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module that other processes can import too."""
    (tmp_path / "pool_answers.py").write_text(ANSWERS, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("pool_answers")
    del sys.modules["pool_answers"]


@pytest.mark.parametrize("count", [1, 2])
def test_every_trial_is_run_once_wherever(answers: Any, count: int) -> None:
    rows = list(workers.processes(count, answers.Echoes)(config.Config(), None, TRIALS))
    assert sorted(row["seed"] for row in rows) == [trial.seed for trial in TRIALS]
    assert all((row["process"] == os.getpid()) == (count == 1) for row in rows)


@pytest.mark.parametrize("count", [1, 2])
def test_what_a_process_cannot_begin_with_is_said_once_and_not_tried_for_ever(answers: Any, count: int) -> None:
    with pytest.raises(CheckpointError, match="no such calibration"):
        list(workers.processes(count, answers.CannotBegin)(config.Config(), None, TRIALS))


def test_a_process_that_was_killed_ends_the_command_instead_of_being_waited_for(answers: Any) -> None:
    with pytest.raises(EcovlaError, match="fewer --processes"):
        list(workers.processes(2, answers.Dies)(config.Config(), None, TRIALS))


def test_who_stops_asking_waits_for_no_more_than_what_runs(answers: Any) -> None:
    rows = workers.processes(2, answers.Echoes)(config.Config(), None, TRIALS * 1000)
    assert isinstance(rows, Generator)
    next(rows)
    rows.close()
    with pool(2) as running:
        assert list(running.map(abs, [-1, 2, -3])) == [1, 2, 3]
