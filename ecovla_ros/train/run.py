"""The whole training of the built-in policy, stage by stage: demonstrations, vision, tokens, policy, checkpoint.

Each stage leaves a file in the work folder; a run that was interrupted goes on with the first stage that has none, and
the policy stage with the average it saved last.
"""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import platform
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ecovla_ros.models.base import Plan, PolicySpec
from ecovla_ros.models.pi import checkpoint
from ecovla_ros.models.pi.config import MINI
from ecovla_ros.models.pi.model import PiModel
from ecovla_ros.models.pi.normalise import Normaliser, relative
from ecovla_ros.models.pi.prompt import Prompt
from ecovla_ros.sim.tasks import TASKS
from ecovla_ros.train import demos, fit, parallel, vision
from ecovla_ros.train.dataset import PLACES, Dataset
from ecovla_ros.types import CAMERAS, Observation

Report = Callable[[dict[str, Any]], None]
COLUMNS = ("state", "actions", "places", "tool", "task")


@dataclass(frozen=True)
class TrainSettings:
    """One training run; written into the checkpoint."""

    demos: demos.DemoSettings = field(default_factory=demos.DemoSettings)
    processes: int = 2
    """Processes that collect, and that train the policy data-parallel."""
    threads: int = 1
    """torch threads of the vision stage."""
    vision_minutes: float = 12.0
    policy_minutes: float = 45.0
    vision_batch: int = 64
    policy_batch: int = 64
    vision_rate: float = 1e-3
    policy_rate: float = 1e-3
    draws: int = 4
    """Flow draws per prefix."""
    seed: int = 0
    calibration_frames: int = 256


def run(folder: Path, out: Path, settings: TrainSettings, report: Report) -> Path:
    """Train from what `folder` already holds and write the checkpoint to `out`. Returns `out`."""
    start = time.monotonic()
    torch.manual_seed(settings.seed)
    torch.set_num_threads(settings.threads)
    folder.mkdir(parents=True, exist_ok=True)
    demos.collect(folder / "demos", settings.demos, settings.processes, _progress(report))
    data = Dataset(folder / "demos")
    prompt = Prompt.build(data.meta["instructions"], MINI.max_prompt)
    model = PiModel(dataclasses.replace(MINI, vocab=prompt.size))
    _vision_stage(model, data, folder / "vision.pt", settings, report)
    _token_stage(model, data, folder / "tokens.pt", settings, report)
    job = (folder, out, settings, model.state_dict(), time.monotonic() - start)
    if settings.processes > 1:
        queue = multiprocessing.get_context("spawn").SimpleQueue()
        watcher = threading.Thread(target=_forward, args=(queue, report), daemon=True)
        watcher.start()
        parallel.spawn(settings.processes, folder, _policy_stage, *job, queue.put)
        queue.put(None)
        watcher.join()
    else:
        _policy_stage(0, *job, report)
    return out


def _forward(queue: Any, report: Report) -> None:
    while (row := queue.get()) is not None:
        report(row)


def _policy_stage(
    rank: int, folder: Path, out: Path, settings: TrainSettings, weights: dict[str, Tensor], spent: float, report: Report
) -> None:
    """Language model and expert, in one of several processes; the first one reports and saves."""
    start = time.monotonic()
    torch.manual_seed(settings.seed)  # what only training has starts alike in every process
    data = Dataset(folder / "demos")
    columns = {name: data.column(name) for name in COLUMNS}
    prompt = Prompt.build(data.meta["instructions"], MINI.max_prompt)
    model = PiModel(dataclasses.replace(MINI, vocab=prompt.size))
    trained = folder / "policy.pt"
    model.load_state_dict(torch.load(trained, weights_only=True) if trained.exists() else weights)
    earlier = _hours(out) if trained.exists() else 0.0
    tokens: Tensor = torch.load(folder / "tokens.pt", weights_only=True, mmap=True)
    normaliser = statistics(columns)
    inputs = policy_columns(columns, normaliser)
    ids, real = (torch.tensor(part) for part in prompt.batch(data.meta["instructions"]))

    def save(average: PiModel) -> None:
        if rank == 0:
            _write(trained, average.state_dict())
            record = _record(settings, data, earlier + (spent + time.monotonic() - start) / 3600)
            _save(out, average, normaliser, prompt, data, record, settings)

    save(fit.train_policy(
        model, tokens, inputs, (ids, real), settings.policy_minutes * 60, settings.policy_batch, settings.policy_rate,
        settings.draws, settings.seed + rank, report if rank == 0 else _silent, save,
    ))


def _silent(row: dict[str, Any]) -> None:
    """Other processes have nothing of their own to say."""


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


def _vision_stage(model: PiModel, data: Dataset, path: Path, settings: TrainSettings, report: Report) -> None:
    if not path.exists():
        images = {name: data.column(name) for name in (*COLUMNS, "images", "classes")}
        vision.train_vision(
            model, images, settings.vision_minutes * 60, settings.vision_batch, settings.vision_rate, settings.seed,
            report,
        )
        _write(path, model.vision.state_dict())
    model.vision.load_state_dict(torch.load(path, weights_only=True))


def _token_stage(model: PiModel, data: Dataset, path: Path, settings: TrainSettings, report: Report) -> None:
    if not path.exists():
        _write(path, vision.cache_tokens(model, data.column("images"), settings.seed, report))


def _write(path: Path, value: Any) -> None:
    partial = path.with_suffix(".partial")
    torch.save(value, partial)
    partial.replace(path)


def _progress(report: Report) -> Callable[[int, int, float], None]:
    return lambda done, total, left: report({"stage": "demos", "done": done, "of": total, "seconds_left": left})


def _hours(out: Path) -> float:
    """Hours that went into the checkpoint which this run goes on with."""
    try:
        return float(json.loads((out / checkpoint.CONFIG).read_text(encoding="utf-8"))["training"]["hours"])
    except (OSError, ValueError, KeyError):
        return 0.0


def _record(settings: TrainSettings, data: Dataset, hours: float) -> dict[str, Any]:
    return {
        "settings": asdict(settings), "episodes": data.episodes, "frames": len(data), "hours": hours,
        "machine": platform.processor() or platform.machine(), "torch": torch.__version__,
        "images": {"renderer": data.meta["renderer"]},
    }


def _save(
    out: Path, model: PiModel, normaliser: Normaliser, prompt: Prompt, data: Dataset, training: dict[str, Any],
    settings: TrainSettings,
) -> None:
    spec = PolicySpec(
        name="mini", cameras={c: (MINI.image_size, MINI.image_size) for c in CAMERAS}, horizon=MINI.horizon,
        period_s=0.1, renderer=data.meta["renderer"], instructions=tuple(data.meta["instructions"]),
    )
    checkpoint.save(out, model, normaliser, prompt, spec, training)
    policy = checkpoint.load(out, torch.device("cpu"), torch.float32)
    checkpoint.save(out, model, normaliser, prompt, spec, training, calibration(policy, data, settings))


@torch.inference_mode()
def calibration(policy: Any, data: Dataset, settings: TrainSettings) -> dict[str, Tensor]:
    """Mean energy of every site over frames drawn from the demonstrations (site key -> (R,), channel order)."""
    rng = np.random.default_rng(settings.seed)
    images, state, task = data.column("images"), data.column("state"), data.column("task")
    energy = {s.key: torch.zeros(s.channels * s.unit) for s in policy.sites}
    rows = rng.choice(len(data), min(settings.calibration_frames, len(data)), replace=False)
    noise = torch.randn((policy.spec.horizon, 8), generator=torch.Generator().manual_seed(settings.seed))
    for row in rows:
        views = {c: np.ascontiguousarray(images[row, i]) for i, c in enumerate(CAMERAS)}
        text = data.meta["instructions"][int(task[row])]
        obs = Observation(0, views, state[row, :7].astype(float), float(state[row, 7]), text)
        seen = policy.encode(obs)
        plan = Plan.recording(energy)
        policy.act(seen, policy.prefill(seen, plan), plan, noise)
    return {key: value / len(rows) for key, value in energy.items()}
