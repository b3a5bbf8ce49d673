"""The whole training of the built-in policy: demonstrations, vision, tokens, policy, corrections, all together.

Each stage leaves a file in the work folder; a run that was interrupted goes on with the first stage that has none, and
inside the last ones with what they saved last. A run that starts from a checkpoint leaves out the stages that made it.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ecovla_ros.errors import CheckpointError, ConfigError
from ecovla_ros.models.base import PolicySpec
from ecovla_ros.models.data.normalise import Normaliser
from ecovla_ros.models.data.prompt import Prompt
from ecovla_ros.models.pi import checkpoint
from ecovla_ros.models.pi.config import MINI
from ecovla_ros.models.pi.model import PiModel
from ecovla_ros.train import demos, fit, parallel, record, together, vision
from ecovla_ros.train.dataset import Dataset
from ecovla_ros.train.device import device
from ecovla_ros.train.frames import DemoSettings

Report = Callable[[dict[str, Any]], None]
COLUMNS = ("state", "actions", "places", "tool", "task")
MODEL = dataclasses.replace(MINI, noise_scale=0.0)
"""mini as it is trained: on the arm the flow starts at the centre (a fixed noise per episode would be a fixed bias)."""
CORRECTION_SEED = 2_000_000
"""First seed of the episodes the policy drives, after those of the demonstrations."""


@dataclass(frozen=True)
class TrainSettings:
    """One training run; written into the checkpoint."""

    demos: DemoSettings = field(default_factory=DemoSettings)
    processes: int = 2
    """Processes that collect, and that train data-parallel on a CPU; on CUDA one process trains."""
    device: str = "cpu"
    threads: int = 1
    """torch threads of the vision stage."""
    start: str = ""
    """Checkpoint to go on from; empty: from scratch."""
    vision_minutes: float = 12.0
    policy_minutes: float = 45.0
    corrections: int = 150
    """Episodes the policy drives after that, while the expert labels."""
    together_minutes: float = 40.0
    vision_batch: int = 64
    policy_batch: int = 64
    vision_rate: float = 1e-3
    policy_rate: float = 1e-3
    together_rate: float = 3e-4
    draws: int = 4
    """Flow draws per prefix."""
    seed: int = 0
    calibration_frames: int = 256
    command: str = ""
    """Command line, for the record."""


def run(folder: Path, out: Path, settings: TrainSettings, report: Report) -> Path:
    """Train from what `folder` already holds and write the checkpoint to `out`. Returns `out`.

    Raises ConfigError for a device that is absent, CheckpointError for a start that does not fit the demonstrations.
    """
    _check(settings)
    clock = time.monotonic()
    torch.manual_seed(settings.seed)
    torch.set_num_threads(settings.threads)
    folder.mkdir(parents=True, exist_ok=True)
    if settings.demos.episodes:
        demos.collect(folder / "demos", settings.demos, settings.processes, _progress(report, "demos"))
    driver = Path(settings.start) if settings.start else folder / "policy"
    if not settings.start:
        _from_scratch(folder, driver, settings, report, clock)
    if settings.corrections:
        corrected = dataclasses.replace(settings.demos, episodes=settings.corrections, seed=CORRECTION_SEED)
        demos.collect(folder / "demos", corrected, settings.processes, _progress(report, "corrections"), driver)
    _everywhere(folder, settings, report, _together_stage, folder, driver, out, settings, time.monotonic() - clock)
    return out


def _check(settings: TrainSettings) -> None:
    device(settings.device)
    if settings.start:
        checkpoint.load(settings.start)


def _from_scratch(folder: Path, out: Path, settings: TrainSettings, report: Report, clock: float) -> None:
    """Vision, tokens, policy, each on the result of the one before; nothing where an earlier run came to the end."""
    finished = folder / "policy.finished"
    if finished.exists():
        return
    data = Dataset(folder / "demos")
    if not data.labelled:
        raise ConfigError("recorded episodes have no labels to train the tower with; go on from one: --start FOLDER")
    prompt = Prompt.build(data.meta["instructions"], MODEL.max_prompt)
    model = PiModel(dataclasses.replace(MODEL, vocab=prompt.size)).to(settings.device)
    _vision_stage(model, data, folder / "vision.pt", settings, report)
    _token_stage(model, data, folder / "tokens.pt", settings, report)
    weights = {k: v.cpu() for k, v in model.state_dict().items()}
    _everywhere(folder, settings, report, _policy_stage, folder, out, settings, weights, time.monotonic() - clock)
    finished.touch()


def _everywhere(folder: Path, settings: TrainSettings, report: Report, stage: Callable[..., None], *job: Any) -> None:
    """A stage in several processes on a CPU, or in this one."""
    count = settings.processes if settings.device == "cpu" else 1
    parallel.everywhere(count, folder, report, stage, *job)


def _policy_stage(
    rank: int,
    folder: Path,
    out: Path,
    settings: TrainSettings,
    weights: dict[str, Tensor],
    spent: float,
    report: Report,
) -> None:
    """Language model and expert, in one of several processes; the first one reports and saves."""
    start = time.monotonic()
    torch.manual_seed(settings.seed)  # what only training has starts alike in every process
    data = Dataset(folder / "demos")
    columns = {name: data.column(name) for name in COLUMNS}
    prompt = Prompt.build(data.meta["instructions"], MODEL.max_prompt)
    model = PiModel(dataclasses.replace(MODEL, vocab=prompt.size)).to(settings.device)
    trained = folder / "policy.pt"
    model.load_state_dict(torch.load(trained, weights_only=True) if trained.exists() else weights)
    earlier = record.hours_of(out) if trained.exists() else 0.0
    tokens: Tensor = torch.load(folder / "tokens.pt", weights_only=True, mmap=True)
    normaliser = record.statistics(columns)
    inputs = record.policy_columns(columns, normaliser)
    ids, real = (torch.tensor(part).to(settings.device) for part in prompt.batch(data.meta["instructions"]))

    def save(average: PiModel) -> None:
        if rank == 0:
            _write(trained, average.state_dict())
            notes = record.record_of(settings, data, earlier + (spent + time.monotonic() - start) / 3600)
            record.save(out, average, normaliser, prompt, record.spec_of(data), notes, data, settings)

    save(
        fit.train_policy(
            model,
            tokens,
            inputs,
            (ids, real),
            settings.policy_minutes * 60,
            settings.policy_batch,
            settings.policy_rate,
            settings.draws,
            settings.seed + rank,
            report if rank == 0 else _silent,
            save,
        )
    )


def _together_stage(
    rank: int, folder: Path, driver: Path, out: Path, settings: TrainSettings, spent: float, report: Report
) -> None:
    """Everything, from the checkpoint `driver`, in one of several processes; the first one reports and saves."""
    start = time.monotonic()
    torch.manual_seed(settings.seed)
    data, before = Dataset(folder / "demos"), checkpoint.load(driver)
    _check_fit(before.spec, data, driver)
    units = cast(Normaliser, before.normaliser)  # checkpoints of this format have no others
    columns = {name: data.column(name) for name in COLUMNS}
    model = PiModel(dataclasses.replace(before.config, noise_scale=MODEL.noise_scale))
    model.load_state_dict(before.model.state_dict())
    model.to(settings.device)
    ids, real = (torch.tensor(part) for part in before.prompt.batch(data.meta["instructions"]))
    stage = together.TogetherSettings(settings.together_minutes * 60, rate=settings.together_rate, seed=settings.seed)

    def save(average: PiModel) -> None:
        if rank == 0:
            hours = record.hours_of(driver) + (spent + time.monotonic() - start) / 3600
            notes = record.record_of(settings, data, hours)
            record.save(out, average, units, before.prompt, before.spec, notes, data, settings)

    save(
        together.train_together(
            model,
            data,
            record.policy_columns(columns, units),
            (ids, real),
            stage,
            folder / "together.pt",
            report if rank == 0 else _silent,
            save,
            rank,
            record.origin_of(driver),
        )
    )


def _check_fit(spec: PolicySpec, data: Dataset, start: Path) -> None:
    """The data must be what the checkpoint was made for. Raises CheckpointError, naming what differs."""
    meta = data.meta
    pairs = (
        ("cameras", sorted(spec.cameras), sorted(meta["cameras"])),
        ("image size", sorted(set(spec.cameras.values())), [(meta["size"], meta["size"])]),
        ("horizon", spec.horizon, meta["horizon"]),
        ("renderer", spec.renderer, meta["renderer"]),
        ("instructions", list(spec.instructions), list(meta["instructions"])),
    )
    odd = [f"{name} ({a} there, {b} in the data)" for name, a, b in pairs if a != b]
    if odd:
        raise CheckpointError(f"'{start}' does not fit the demonstrations: {'; '.join(odd)}")


def _silent(row: dict[str, Any]) -> None:
    """Other processes have nothing of their own to say."""


def _vision_stage(model: PiModel, data: Dataset, path: Path, settings: TrainSettings, report: Report) -> None:
    if not path.exists():
        images = {name: data.column(name) for name in (*COLUMNS, "images", "classes")}
        vision.train_vision(
            model,
            images,
            settings.vision_minutes * 60,
            settings.vision_batch,
            settings.vision_rate,
            settings.seed,
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


def _progress(report: Report, stage: str) -> Callable[[int, int, float], None]:
    return lambda done, total, left: report({"stage": stage, "done": done, "of": total, "seconds_left": left})
