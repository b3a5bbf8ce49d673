"""From names to objects: the only file that knows which model a name stands for. Imported when asked for."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

import torch

from ecovla_ros.config import Config, PolicyConfig
from ecovla_ros.engine.engine import Engine
from ecovla_ros.engine.graphs import CudaRecorder, Graphed
from ecovla_ros.engine.streams import Streams, streams_for
from ecovla_ros.errors import ConfigError, unknown
from ecovla_ros.prune import pattern

MODELS = {"mini": "ecovla_ros.models.pi.checkpoint:load"}
"""Model name -> module:function that loads a checkpoint folder of that family."""

SHAPES = {
    "pi0-mid": "ecovla_ros.models.shapes:pi0_mid",
    "pi0": "ecovla_ros.models.shapes:pi0",
    "pi05": "ecovla_ros.models.shapes:pi05",
    "openvla-oft": "ecovla_ros.models.shapes:openvla_oft",
    "cogact": "ecovla_ros.models.shapes:cogact",
    "pi0-reduced": "ecovla_ros.models.shapes:pi0_reduced",
    "pi05-reduced": "ecovla_ros.models.shapes:pi05_reduced",
    "openvla-oft-reduced": "ecovla_ros.models.shapes:openvla_oft_reduced",
    "cogact-reduced": "ecovla_ros.models.shapes:cogact_reduced",
}
"""Model name -> module:function that makes random weights of that shape: (device, dtype, seed, bucket)."""

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


def dtype_of(config: PolicyConfig) -> torch.dtype:
    """Of weights and products."""
    auto = "bfloat16" if device_of(config).type == "cuda" else "float32"
    found: torch.dtype = getattr(torch, auto if config.dtype == "auto" else config.dtype)
    return found


def set_threads(config: PolicyConfig) -> None:
    """torch's threads for this process: as configured, or one core less than there are, which the refresh then has."""
    torch.set_num_threads(config.threads or max(1, (os.cpu_count() or 2) - 1))


def policy(config: PolicyConfig) -> Any:
    """Load a policy, or make one of random weights where the name is a shape, and set torch's threads.

    Raises ConfigError for an unknown model and CheckpointError for a checkpoint that does not fit.
    """
    if config.model not in MODELS and config.model not in SHAPES:
        raise ConfigError(unknown("model", config.model, (*MODELS, *SHAPES)))
    set_threads(config)
    device, dtype = device_of(config), dtype_of(config)
    bucket = config.bucket or (32 if device.type == "cuda" else 1)
    if config.model in SHAPES and not config.checkpoint:
        return _function(SHAPES[config.model])(device, dtype, config.seed, bucket)
    load = _function(MODELS[config.model])
    return load(checkpoint_of(config), device, dtype, flow_steps=config.flow_steps, bucket=bucket)


def shape(config: PolicyConfig) -> Any:
    """A policy of a named shape without memory for its weights (torch's meta device)."""
    return _function(SHAPES[config.model])(torch.device("meta"), dtype_of(config), config.seed)


def captured(policy: Any, config: PolicyConfig) -> Any:
    """The policy with prefill and act as CUDA graphs; on a CPU, or with `graphs: false`, the policy itself."""
    device = device_of(config)
    return Graphed(policy, CudaRecorder(device)) if device.type == "cuda" and config.graphs else policy


def _function(name: str) -> Any:
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)


def engine(config: Config, streams: Streams | None = None) -> Engine:
    """Policy, refresh and streams, calibrated and warm. Raises ConfigError, CheckpointError or PruningError."""
    loaded = policy(config.policy)
    runs = captured(loaded, config.policy)
    built = Engine(runs, config.prune, streams or streams_for(device_of(config.policy)), config.policy.seed)
    if loaded.calibration:
        built.calibrate(loaded.calibration)
    if config.prune.pattern:
        built.adopt(pattern.load(config.prune.pattern))
    built.warm_up()
    return built
