"""Answers of `ecovla serve`, asked by vla-eval's own client: the same episodes as with the engine in this process."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from ecovla_ros import config
from ecovla_ros.bench.libero.episodes import EXECUTE
from ecovla_ros.bench.success.trials import Trial
from ecovla_ros.errors import ConfigError, ControlError
from ecovla_ros.types import Observation


class ServedAnswers:
    """A connection to a server that hands out `EXECUTE` actions of each chunk (`--protocol vla-eval --execute 8`)."""

    def __init__(self, settings: config.Config, address: str) -> None:
        """`settings` are the server's affair. Raises ConfigError where vla-eval is missing or nobody answers."""
        try:
            made = importlib.import_module("vla_eval.connection").Connection
        except ImportError as error:
            raise ConfigError(f"--server needs vla-eval's client ({error}); run: pip install vla-eval") from error
        self._loop = asyncio.new_event_loop()
        self._client: Any = made(address, timeout=60.0, max_retries=1)
        try:
            self._wait(self._client.connect(benchmark="libero"))
        except (OSError, RuntimeError, TimeoutError) as error:
            serve = f"ecovla serve --protocol vla-eval --execute {EXECUTE} --set policy.embodiment.other=true"
            raise ConfigError(f"nobody serves at {address} ({error}); run: {serve}") from error
        self._frames = 0

    def begin(self, trial: Trial) -> None:
        """Announce an episode."""
        self._frames = 0
        self._wait(self._client.start_episode({"task": {"name": trial.task}, "episode_idx": trial.seed}))

    def chunk(self, seen: Observation, step: int) -> np.ndarray:
        """`EXECUTE` actions (EXECUTE, 7), asked for one by one. Raises ControlError for what the server refuses."""
        message = {
            "images": {"agentview": seen.images["third_person"], "wrist": seen.images["wrist"]},
            "states": np.asarray(seen.state, dtype=np.float32),
            "task_description": seen.instruction,
        }
        self._frames += 1
        try:
            taken = [self._wait(self._client.act(message)) for _ in range(EXECUTE)]
        except (RuntimeError, OSError, TimeoutError) as error:
            raise ControlError(f"the server did not answer: {error}") from error
        return np.stack([np.asarray(one["actions"], dtype=np.float64) for one in taken])

    def report(self) -> Mapping[str, Any]:
        """The server knows of triggers and times; its client does not."""
        return {"frames": self._frames, "triggered": 0, "policy_p50_ms": None, "policy_p95_ms": None}

    def end(self) -> None:
        """Announce the end."""
        self._wait(self._client.end_episode({"success": False}))

    def _wait(self, job: Any) -> Any:
        return self._loop.run_until_complete(job)
