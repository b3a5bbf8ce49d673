"""Makes objects from names. No other file knows which model a name stands for; models are imported when asked for."""

from __future__ import annotations

import ctypes
import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ecovla_ros.config import Config, PolicyConfig, PruneConfig
from ecovla_ros.engine.engine import Engine
from ecovla_ros.engine.graphs import Graphed
from ecovla_ros.engine.recorder import CudaRecorder
from ecovla_ros.engine.streams import Streams, streams_for
from ecovla_ros.errors import CheckpointError, ConfigError, unknown
from ecovla_ros.kernels import float8, launch
from ecovla_ros.kernels.available import installed, use_triton
from ecovla_ros.kernels.choice import KERNEL_CHOICE, cache_file
from ecovla_ros.models.data import calibration_file
from ecovla_ros.models.data.folder import must_hold_checkpoint
from ecovla_ros.models.data.statistics import OtherArmUnits
from ecovla_ros.models.data.weights import read_json
from ecovla_ros.prune import pattern

MODELS = {"mini": "ecovla_ros.models.pi.checkpoint:load"}
"""Model name -> module:function that loads a checkpoint folder of that family."""

PUBLISHED = {
    "pi0": "ecovla_ros.models.pi.published:load",
    "pi05": "ecovla_ros.models.pi.published:load",
    "openvla-oft": "ecovla_ros.models.openvla_oft.checkpoint:load",
    "cogact": "ecovla_ros.models.cogact.checkpoint:load",
}
"""Model name -> module:function that loads a published checkpoint folder for this arm, as `policy.embodiment` says."""

SHAPES = {
    "pi0-mid": "ecovla_ros.models.shapes:pi0_mid",
    "pi0": "ecovla_ros.models.shapes:pi0",
    "pi05": "ecovla_ros.models.shapes:pi05",
    "openvla-oft": "ecovla_ros.models.shapes:openvla_oft",
    "cogact": "ecovla_ros.models.shapes:cogact",
    "pi0-reduced": "ecovla_ros.models.shapes:pi0_reduced",
    "pi05-reduced": "ecovla_ros.models.shapes:pi05_reduced",
    "openvla-oft-reduced": "ecovla_ros.models.shapes:openvla_oft_reduced",
    "libero": "ecovla_ros.models.shapes:libero",
    "cogact-reduced": "ecovla_ros.models.shapes:cogact_reduced",
}
"""Model name -> module:function that makes random weights of that shape: (device, dtype, seed, bucket)."""

SHIPPED = Path(__file__).resolve().parent / "checkpoints"


def checkpoint_of(config: PolicyConfig) -> Path:
    """The folder the configuration means: its own, or the one shipped with the package."""
    if config.model not in MODELS:
        raise ConfigError(unknown("model", config.model, MODELS))
    return _folder(config) if config.checkpoint else SHIPPED / config.model


def _folder(config: PolicyConfig) -> Path:
    """The folder, or else the shipped one of that name. A shell leaves ~ as it is in `--set policy.checkpoint=~/x`, and
    YAML does."""
    path = Path(config.checkpoint)
    try:
        path = path.expanduser()
    except RuntimeError:  # ~ and a name that nobody has
        return path
    named = SHIPPED / path
    return named if len(path.parts) == 1 and not path.exists() and named.is_dir() else path


def device_of(config: PolicyConfig) -> torch.device:
    """Where the model runs. Raises ConfigError when CUDA is asked for and absent."""
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device 'cuda' was asked for, and this machine has none; valid: auto, cpu")
    return torch.device("cuda" if config.device != "cpu" and torch.cuda.is_available() else "cpu")


def bucket_of(config: PolicyConfig) -> int:
    """Prompts are padded to a multiple of so many tokens: as configured, else 32 on CUDA, and on a CPU not at all."""
    return config.bucket or (32 if device_of(config).type == "cuda" else 1)


def dtype_of(config: PolicyConfig) -> torch.dtype:
    """Of weights and products."""
    auto = "bfloat16" if device_of(config).type == "cuda" else "float32"
    found: torch.dtype = getattr(torch, auto if config.dtype == "auto" else config.dtype)
    return found


def prepare_process(config: PolicyConfig) -> None:
    """Threads, memory and kernels of this process, before a policy is loaded.

    torch gets the threads of the configuration, or one core less than there are, which the refresh then has. glibc
    keeps freed memory instead of giving large blocks back to the kernel: activations would else be page faults again in
    every frame, and the rare large ones of a frame that records cost many times what is computed with them.
    """
    use_triton(config.kernels == "auto")
    launch.allow(config.early_launch)
    device = device_of(config)
    timed = config.kernel_cache and config.kernels == "auto" and device.type == "cuda" and installed()
    KERNEL_CHOICE.keep(cache_file(device) if timed else None)
    torch.set_num_threads(config.threads or max(1, (os.cpu_count() or 2) - 1))
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, value in KEEP_MEMORY:
            mallopt(option, value)


KEEP_MEMORY = ((-4, 0), (-1, 2**31 - 1), (-8, 1))
"""Of malloc.h: M_MMAP_MAX 0, M_TRIM_THRESHOLD as far as it goes, M_ARENA_MAX 1 (arenas of threads are too small)."""


def policy(config: PolicyConfig, serving: bool = False) -> Any:
    """Load a policy, or make one of random weights where the name is a shape, and set torch's threads. `serving`: also
    one of another arm, whose actions nobody here carries out.

    Raises ConfigError for an unknown model and CheckpointError for a checkpoint that does not fit.
    """
    if config.model not in MODELS and config.model not in SHAPES:
        raise ConfigError(unknown("model", config.model, (*MODELS, *SHAPES)))
    if config.embodiment.other and not serving:
        raise ConfigError(
            "policy.embodiment.other: a checkpoint of another arm is for `ecovla serve` and `ecovla bench` only"
        )
    prepare_process(config)
    device, dtype = device_of(config), dtype_of(config)
    if config.mlp_dtype == "float8" and not (float8.runs_on(device) and dtype == torch.bfloat16):
        raise ConfigError(
            f"policy.mlp_dtype=float8 on {device.type} in {dtype}; valid: auto, or on CUDA of compute capability 8.9 "
            "(RTX 40, H100) or later, in bfloat16"
        )
    made = _made(config, device, dtype, bucket_of(config))
    _check_arm(made, config)
    return _with_options(made, config)


def _check_arm(made: Any, config: PolicyConfig) -> None:
    """A checkpoint of mini's format says whose arm it moves. Raises CheckpointError for another than was meant."""
    other = isinstance(made.normaliser, OtherArmUnits)
    if config.model not in MODELS or other == config.embodiment.other:
        return
    if other:
        raise CheckpointError(
            f"'{checkpoint_of(config)}' moves another arm than this one; valid: `ecovla eval --benchmark`, or "
            "`ecovla serve --set policy.embodiment.other=true`"
        )
    raise CheckpointError(
        f"'{checkpoint_of(config)}' moves this arm, and policy.embodiment.other asks for another arm's; valid: false"
    )


def _made(config: PolicyConfig, device: torch.device, dtype: torch.dtype, bucket: int) -> Any:
    if config.model in SHAPES and not config.checkpoint:
        return _function(SHAPES[config.model])(device, dtype, config.seed, bucket)
    if config.model in PUBLISHED:
        load = _function(PUBLISHED[config.model])
        options = {"flow_steps": config.flow_steps, "bucket": bucket}
        return load(_folder(config), device, dtype, config.embodiment, **options)
    if config.model not in MODELS:
        raise ConfigError(f"'{config.model}' has random weights only; checkpoints are for {', '.join(PUBLISHED)}")
    load = _function(MODELS[config.model])
    return load(checkpoint_of(config), device, dtype, flow_steps=config.flow_steps, bucket=bucket)


def _with_options(made: Any, config: PolicyConfig) -> Any:
    if config.fastv and any(config.vla_cache):
        raise ConfigError("policy.fastv and policy.vla_cache: a token that has left keeps nothing; valid: one of them")
    if config.fastv:
        made.prune_tokens(config.fastv_layer, config.fastv)
    if any(config.vla_cache):
        made.reuse_tokens(
            config.vla_cache, config.vla_cache_exclude, config.vla_cache_layer, config.vla_cache_similarity
        )
    if config.mlp_dtype == "float8" and made.device.type != "meta":
        made.float8_mlp()
    if config.rtc:
        if not made.follows_chunks:
            raise ConfigError(
                f"policy.rtc does not go with '{config.model}' and embodiment.actions={config.embodiment.actions}; "
                "valid: mini, pi0, pi05, on this arm, with joint actions"
            )
        made.follow_chunks(config.rtc, config.rtc_delay, config.rtc_release, config.rtc_apart_rad)
    return made


def outline(config: PolicyConfig) -> Any:
    """The policy of a published checkpoint without memory for its weights: all is checked but the numbers.

    Raises ConfigError for a model that has no published form, and CheckpointError.
    """
    if config.model not in PUBLISHED:
        raise ConfigError(unknown("published model", config.model, PUBLISHED))
    load = _function(PUBLISHED[config.model])
    made = load(_folder(config), "meta", dtype_of(config), config.embodiment, flow_steps=config.flow_steps)
    return _with_options(made, config)


def family_of(folder: Path) -> str:
    """Which of `PUBLISHED` a checkpoint folder is, by its config.json. Raises CheckpointError."""
    must_hold_checkpoint(folder)
    document = read_json(folder / "config.json")
    kind = document if isinstance(document, dict) else {}
    if kind.get("model_type") in ("openvla", "prismatic"):
        return "openvla-oft"
    if "vla" in kind:
        return "cogact"
    if kind.get("type") in ("pi0", "pi05"):
        return str(kind["type"])
    if kind.get("model_type") == "pi0" or "paligemma_variant" in kind:
        return "pi05"
    raise CheckpointError(f"'{folder / 'config.json'}' is of no family known here: {', '.join(PUBLISHED)}")


def shape(config: PolicyConfig) -> Any:
    """A policy of a named shape without memory for its weights (torch's meta device)."""
    return _function(SHAPES[config.model])(torch.device("meta"), dtype_of(config), config.seed)


def captured(policy: Any, config: PolicyConfig) -> Any:
    """The policy with prefill and act as CUDA graphs; on a CPU, or with `graphs: false`, the policy itself."""
    device = device_of(config)
    return Graphed(policy, CudaRecorder(device)) if device.type == "cuda" and config.graphs else policy


def side_streams(config: PolicyConfig) -> Streams:
    """Where refreshes run."""
    return streams_for(device_of(config), config.graphs, config.refresh_behind == "frame")


def goes_ahead(config: PolicyConfig) -> bool | None:
    """Whether frames are issued before their trigger is read, as `policy.ask` says; None: as warm-up times it.

    Only where a device would stand still for it, and not with VLA-Cache, whose tokens keep nothing over such a frame.
    """
    if device_of(config).type != "cuda" or any(config.vla_cache):
        return False
    return {"late": True, "first": False, "timed": None}[config.ask]


def _function(name: str) -> Any:
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)


def calibration_of(config: PruneConfig, loaded: Any) -> Mapping[str, Tensor]:
    """Site key -> calibration energies of a policy, as `prune.calibration` says; none where it starts without.

    Raises PruningError for a file that is none, or of another model.
    """
    if config.calibration == "none" or config.method == "dense":
        return {}
    if config.calibration == "auto":
        own: Mapping[str, Tensor] = loaded.calibration
        return own
    return calibration_file.load(config.calibration, loaded.sites)


def engine(config: Config, streams: Streams | None = None, serving: bool = False) -> Engine:
    """Policy, refresh and streams, calibrated and warm. Raises ConfigError, CheckpointError or PruningError."""
    if config.policy.model in SHAPES and not config.policy.checkpoint and not serving:
        raise ConfigError(f"model '{config.policy.model}' needs policy.checkpoint: random weights only measure")
    if config.policy.fastv and config.prune.compensate:
        raise ConfigError("prune.compensate does not go with policy.fastv: its means are over all tokens of a pass")
    loaded = policy(config.policy, serving)
    runs = captured(loaded, config.policy)
    side = streams or side_streams(config.policy)
    built = Engine(runs, config.prune, side, config.policy.seed, ahead=goes_ahead(config.policy))
    if energies := calibration_of(config.prune, loaded):
        built.calibrate(energies)
    if config.prune.pattern:
        built.adopt(pattern.load(config.prune.pattern))
    built.warm_up()
    return built
