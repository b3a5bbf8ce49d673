"""Where episodes run: in this process, in several, or on several machines. An episode's result is the same in all.

A trial and the settings determine an episode, and every process computes with one torch thread.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from typing import Any, Protocol

from ecovla_ros import config
from ecovla_ros.bench.pool import pool
from ecovla_ros.bench.success.drive import Runner
from ecovla_ros.bench.success.environments import Delays
from ecovla_ros.bench.success.trials import Trial
from ecovla_ros.errors import ConfigError, EcovlaError

Row = dict[str, Any]
Spread = Callable[[config.Config, "Delays | None", Sequence[Trial]], Iterator[Row]]
"""Runs trials and yields their rows as they end."""


class RunsTrials(Protocol):
    """What a process keeps between episodes."""

    def run(self, trial: Trial) -> Row:
        """One episode's row."""
        ...


Opens = Callable[[config.Config, "Delays | None"], RunsTrials]
"""Makes it, in the process that runs the episodes; must be picklable. `drive.Runner` is one."""

_runner: RunsTrials | EcovlaError | None = None
"""Of this process, or why there is none."""


def processes(count: int, opens: Opens = Runner) -> Spread:
    """In `count` processes of this machine; one: in this one."""

    def here(settings: config.Config, delays: Delays | None, todo: Sequence[Trial]) -> Iterator[Row]:
        runner = opens(settings, delays)
        for trial in todo:
            yield runner.run(trial)

    def spread(settings: config.Config, delays: Delays | None, todo: Sequence[Trial]) -> Iterator[Row]:
        with pool(count, _open, opens, settings, delays) as running:
            for ended in as_completed([running.submit(_run, trial) for trial in todo]):
                yield ended.result()

    return here if count <= 1 else spread


def ray(address: str) -> Spread:
    """On every core of a Ray cluster ("auto": the one this machine belongs to; "local": a new one on this machine).

    Raises ConfigError where ray is not installed or no cluster answers.
    """
    try:
        library = importlib.import_module("ray")
        pools = importlib.import_module("ray.util.actor_pool")
    except ImportError as error:
        raise ConfigError(f"--ray needs ray, which does not import ({error}); run: pip install ray") from error

    def spread(settings: config.Config, delays: Delays | None, todo: Sequence[Trial]) -> Iterator[Row]:
        try:
            own = {"_node_ip_address": "127.0.0.1", "include_dashboard": False} if address == "local" else {}
            library.init(address=address, ignore_reinit_error=True, log_to_driver=False, **own)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ConfigError(f"no Ray cluster at '{address}': {error}") from error
        count = max(1, min(int(library.cluster_resources().get("CPU", 1)), len(todo)))
        actor = library.remote(num_cpus=1)(Runner)
        actors = pools.ActorPool([actor.remote(settings, delays) for _ in range(count)])
        try:
            yield from actors.map_unordered(lambda worker, trial: worker.run.remote(trial), todo)
        finally:
            library.shutdown()

    return spread


def _open(opens: Opens, settings: config.Config, delays: Delays | None) -> None:
    global _runner
    try:
        _runner = opens(settings, delays)
    except EcovlaError as error:  # is said of the first trial: a pool whose processes cannot begin says nothing of it
        _runner = error


def _run(trial: Trial) -> Row:
    assert _runner is not None
    if isinstance(_runner, EcovlaError):
        raise _runner
    return _runner.run(trial)
