"""From names to objects: the only file that knows which model a name stands for. Imported when asked for."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

import torch

from ecovla_ros.config import Config, PolicyConfig
from ecovla_ros.engine.engine import Engine
from ecovla_ros.engine.streams import Streams, streams_for
from ecovla_ros.errors import ConfigError, unknown
from ecovla_ros.prune import pattern

MODELS = {"mini": "ecovla_ros.models.pi.checkpoint:load"}
"""Model name -> module:function that loads a checkpoint folder of that family."""

SHIPPED = Path(__file__).resolve().parent / "checkpoints"


def checkpoint_of(config: PolicyConfig) -> Path:
    """The folder the configuration means: its own, or the one shipped with the package."""
    if config.model not in MODELS:
        raise ConfigError(unknown("model", config.model, MODELS))
    return Path(config.checkpoint) if config.checkpoint else SHIPPED / config.model


def device_of(config: PolicyConfig) -> torch.device:
    """Where the model runs. Raises ConfigError when CUDA is asked for and absent."""
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device 'cuda' was asked for, and this machine has none; valid: auto, cpu")
    return torch.device("cuda" if config.device != "cpu" and torch.cuda.is_available() else "cpu")


def policy(config: PolicyConfig) -> Any:
    """Load a policy, set torch's threads, and run every shape once.

    Raises ConfigError for an unknown model and CheckpointError for a checkpoint that does not fit.
    """
    folder = checkpoint_of(config)
    module, _, function = MODELS[config.model].partition(":")
    torch.set_num_threads(config.threads or max(1, (os.cpu_count() or 2) - 1))
    load = getattr(importlib.import_module(module), function)
    loaded = load(folder, device_of(config), torch.float32, flow_steps=config.flow_steps)
    loaded.warm_up()
    return loaded


def engine(config: Config, streams: Streams | None = None) -> Engine:
    """Policy, refresh and streams, calibrated and warm. Raises ConfigError, CheckpointError or PruningError."""
    loaded = policy(config.policy)
    built = Engine(loaded, config.prune, streams or streams_for(device_of(config.policy)), config.policy.seed)
    if loaded.calibration:
        built.calibrate(loaded.calibration)
    if config.prune.pattern:
        built.adopt(pattern.load(config.prune.pattern))
    built.warm_up()
    return built
