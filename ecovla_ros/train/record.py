"""What a training run leaves behind: statistics of its data, the checkpoint, and a record of how it was made."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ecovla_ros.engine.calibration import calibration
from ecovla_ros.models.base import PolicySpec
from ecovla_ros.models.data.normalise import Normaliser, relative
from ecovla_ros.models.data.prompt import Prompt
from ecovla_ros.models.pi import checkpoint
from ecovla_ros.models.pi.config import MINI
from ecovla_ros.models.pi.model import PiModel
from ecovla_ros.sim.tasks import TASKS
from ecovla_ros.train import fit
from ecovla_ros.train.dataset import PLACES, Dataset
from ecovla_ros.types import CAMERAS, Observation


def statistics(columns: dict[str, np.ndarray]) -> Normaliser:
    """Means and deviations of the demonstrations' states and relative actions."""
    joints, gripper = columns["actions"][..., :7], columns["actions"][..., 7]
    return Normaliser.fit(columns["state"], relative(joints, gripper, columns["state"][:, :7]))


def policy_columns(columns: dict[str, np.ndarray], normaliser: Normaliser) -> dict[str, Tensor]:
    """The normalised columns `fit.train_policy` takes."""
    joints, gripper = columns["actions"][..., :7], columns["actions"][..., 7]
    measured = columns["state"][:, :7]
    return {
        "state": torch.from_numpy(normaliser.state(measured, columns["state"][:, 7])).float(),
        "actions": torch.from_numpy(normaliser.actions(joints, gripper, measured)).float(),
        "task": torch.from_numpy(columns["task"]),
        "targets": fit.targets(columns, tuple(TASKS), PLACES),
    }


def training_of(folder: Path) -> dict[str, Any]:
    """The record beside a checkpoint; empty where there is none."""
    try:
        return dict(json.loads((folder / checkpoint.CONFIG).read_text(encoding="utf-8"))["training"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def hours_of(folder: Path) -> float:
    """Hours that went into the checkpoint which this run goes on with."""
    return float(training_of(folder).get("hours", 0.0))


def origin_of(folder: Path) -> str:
    """Fingerprint of the weights a run begins from."""
    return hashlib.sha256((folder / checkpoint.WEIGHTS).read_bytes()).hexdigest()


def record_of(settings: Any, data: Dataset, hours: float) -> dict[str, Any]:
    """What is written beside the weights; `settings`: run.TrainSettings. The run it goes on from is told as well."""
    before = training_of(Path(settings.start)) if settings.start else {}
    return {
        "command": settings.command,
        "settings": asdict(settings),
        "episodes": data.episodes,
        "frames": len(data),
        "hours": hours,
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "torch": torch.__version__,
        "images": {"renderer": data.meta["renderer"]},
        **({"before": before} if before else {}),
    }


def spec_of(data: Dataset) -> PolicySpec:
    """What a policy trained on these demonstrations takes and gives."""
    return PolicySpec(
        name="mini",
        cameras={c: (MINI.image_size, MINI.image_size) for c in CAMERAS},
        horizon=MINI.horizon,
        period_s=0.1,
        renderer=data.meta["renderer"],
        instructions=tuple(data.meta["instructions"]),
    )


def save(
    out: Path,
    model: PiModel,
    normaliser: Normaliser,
    prompt: Prompt,
    spec: PolicySpec,
    training: dict[str, Any],
    data: Dataset,
    settings: Any,
) -> None:
    """Write the checkpoint, load it, and write it once more with the calibration of its weights."""
    checkpoint.save(out, model, normaliser, prompt, spec, training)
    policy = checkpoint.load(out, torch.device("cpu"), torch.float32)
    checkpoint.save(out, model, normaliser, prompt, spec, training, calibrated(policy, data, settings))


def calibrated(policy: Any, data: Dataset, settings: Any) -> dict[str, Tensor]:
    """Mean energies and activations of every site over frames drawn from the demonstrations, see engine/calibration."""
    noise = torch.randn((policy.spec.horizon, 8), generator=torch.Generator().manual_seed(settings.seed))
    return calibration(policy, _drawn(data, settings), noise)


def _drawn(data: Dataset, settings: Any) -> Iterator[Observation]:
    rng = np.random.default_rng(settings.seed)
    state, task = data.column("state"), data.column("task")
    rows = rng.choice(len(data), min(settings.calibration_frames, len(data)), replace=False)
    for row, images in zip(rows, data.rows("images", rows)):
        views = {c: np.ascontiguousarray(images[i]) for i, c in enumerate(CAMERAS)}
        text = data.meta["instructions"][int(task[row])]
        yield Observation(0, views, state[row, :7].astype(float), float(state[row, 7]), text)
