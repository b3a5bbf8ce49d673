"""The whole training for LIBERO: demonstrations, then one policy of them, resumable at every point."""

from __future__ import annotations

import dataclasses
import os
import platform
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ecovla_ros import documents
from ecovla_ros.engine.calibration import calibration
from ecovla_ros.models.base import PolicySpec
from ecovla_ros.models.data.prompt import Prompt
from ecovla_ros.models.data.statistics import OtherArmUnits
from ecovla_ros.models.pi import checkpoint
from ecovla_ros.models.pi.config import MINI, PiConfig
from ecovla_ros.models.pi.model import PiModel
from ecovla_ros.sim.libero import scene, suites
from ecovla_ros.train import parallel
from ecovla_ros.train.device import device
from ecovla_ros.train.libero import demos, fit
from ecovla_ros.train.libero.data import LiberoData
from ecovla_ros.types import CAMERAS, Observation

Report = Callable[[dict[str, Any]], None]
STATE = "training.pt"
PROMPT = 24
"""Longest instruction, tokens."""


@dataclass(frozen=True)
class LiberoSettings:
    """One training run; written into the checkpoint."""

    suites: tuple[str, ...] = ("libero_object",)
    episodes: int = 90
    """Demonstrations tried of each task."""
    widen: int = 2
    """How many times as wide as mini's the MLPs are: 2 makes them eight times as wide as what they are fed with. Wider
    ones take most of the training time on a CPU, and leave channels that nothing needs."""
    demos: demos.LiberoDemos = field(default_factory=demos.LiberoDemos)
    fit: fit.FitSettings = field(default_factory=fit.FitSettings)
    calibration_frames: int = 128
    device: str = "cpu"
    """Where the policy is trained: cpu or cuda."""
    processes: int = 1
    """That drive demonstrations, each tasks of its own; and that train, on a CPU, each a batch of its own."""
    command: str = ""


def shape(settings: LiberoSettings, vocab: int) -> PiConfig:
    """mini's anatomy with wider MLPs and LIBERO's actions."""
    return dataclasses.replace(
        MINI, vocab=vocab, max_prompt=PROMPT, lm_mlp=MINI.lm_mlp * settings.widen, noise_scale=0.0,
        expert_mlp=MINI.expert_mlp * settings.widen, state_dim=scene.STATE_WIDTH, action_dim=scene.ACTION_WIDTH,
        horizon=settings.demos.horizon, image_size=settings.demos.size,
    )  # fmt: skip


def run(work: Path, out: Path, settings: LiberoSettings, report: Report, stop: Callable[[], bool]) -> bool:
    """Collect what is missing, train on, and write the checkpoint to `out`; returns whether all is done.

    Raises ConfigError where LIBERO is missing, a suite unknown or the device absent, CheckpointError for a state that
    does not fit.
    """
    torch.set_num_threads(1)
    device(settings.device)
    work.mkdir(parents=True, exist_ok=True)
    collect(work, settings, report, stop)
    if stop():
        return False
    count = settings.processes if settings.device == "cpu" else 1
    parallel.everywhere(count, work, report, _train, work, out, settings, stop=stop)
    return fit.finished(work / STATE, settings.fit)


def _train(
    rank: int, work: Path, out: Path, settings: LiberoSettings, report: Report, stop: Callable[[], bool]
) -> None:
    """In one of several processes; the first one reports and saves."""
    data = LiberoData(work / "demos", settings.suites)
    units = _units(work / "units.json", data, rank)
    prompt = Prompt.build(data.instructions, PROMPT)
    torch.manual_seed(settings.fit.seed)  # in every process the same model
    model = PiModel(shape(settings, prompt.size)).to(device(settings.device))
    ids, real = (torch.tensor(part) for part in prompt.batch(data.instructions))
    if rank == 0:
        report({"stage": "data", "episodes": data.episodes, "frames": len(data), "tasks": len(data.tasks)})

    def keep(average: PiModel, done: fit.TrainingProgress) -> None:
        save(out, average, units, prompt, data, settings, done)

    fit.train(model, data, units, (ids, real), prompt.words, settings.fit, work / STATE, report, keep, stop, rank)


def collect(work: Path, settings: LiberoSettings, report: Report, stop: Callable[[], bool]) -> None:
    """Bring the demonstrations of every task that the expert can do to `settings.episodes`; those there are stay."""
    if settings.episodes:
        suites.module("libero.libero")  # said once and here, if it is missing
        parallel.everywhere(settings.processes, work, report, _collect, work, settings, stop=stop)


def _collect(rank: int, work: Path, settings: LiberoSettings, report: Report, stop: Callable[[], bool]) -> None:
    """In one of several processes; each has tasks of its own."""
    tasks = [task for suite in settings.suites for task in suites.tasks(suite)]
    part = (rank, settings.processes)
    demos.collect(work / "demos", tasks, settings.episodes, settings.demos, report, stop, part=part)


def _units(path: Path, data: LiberoData, rank: int) -> OtherArmUnits:
    """Statistics of the data as they were when the run began: a run that goes on keeps them while data grow."""
    if rank == 0 and not path.is_file():
        demos.write_json(path, data.units().to_dict())
    parallel.agree(0.0)
    return OtherArmUnits.from_dict(documents.read_json(path))


def save(
    out: Path, model: PiModel, units: OtherArmUnits, prompt: Prompt, data: LiberoData, settings: LiberoSettings,
    done: fit.TrainingProgress,
) -> None:  # fmt: skip
    """Write the checkpoint in half precision, load it, and write it again with the calibration of its weights."""
    spec = PolicySpec(
        "mini", {c: (settings.demos.size,) * 2 for c in CAMERAS}, settings.demos.horizon, scene.PERIOD_S,
        scene.ACTION_WIDTH, "any", tuple(dict.fromkeys(data.instructions)),
    )  # fmt: skip
    training = {
        "command": settings.command, "settings": asdict(settings), "episodes": data.episodes, "frames": len(data),
        "tasks": [task.name for task in data.tasks], **asdict(done), "torch": torch.__version__,
        "machine": _machine(settings.device),
    }  # fmt: skip
    checkpoint.save(out, model, units, prompt, spec, training, dtype=torch.float16)
    policy = checkpoint.load(out, torch.device("cpu"), torch.float32)
    noise = torch.zeros(spec.horizon, spec.action_dim)
    energies: dict[str, Tensor] = calibration(policy, _drawn(data, settings), noise)
    checkpoint.save(out, model, units, prompt, spec, training, energies, dtype=torch.float16)


def _drawn(data: LiberoData, settings: LiberoSettings) -> Iterator[Observation]:
    rng = np.random.default_rng(settings.fit.seed)
    return data.observations(rng.choice(len(data), min(settings.calibration_frames, len(data)), replace=False))


def _machine(device_name: str) -> str:
    if device_name == "cpu":
        return f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    return torch.cuda.get_device_name(device_name)
